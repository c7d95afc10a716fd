package schedule

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pipefill"
	"pipefill/controller/store"
)

// Suffix ends the names of policy files.
const Suffix = ".policy"

//go:embed policies/*.policy
var shipped embed.FS

// FIFO is the policy of a site that names none.
const FIFO = "fifo"

// Set is the policies that there are, by name.
type Set map[string]*Policy

// policyName is also a variable in the policies that name it.
var policyName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// maxSource bounds a policy file, in bytes.
const maxSource = 64 << 10

// Builtin returns the shipped policies.
func Builtin() Set {
	set, err := Load("")
	if err != nil {
		panic(err) // a test compiles each
	}
	return set
}

// Load returns the shipped policies and those of the site, NAME.policy in dir; a
// site's goes before a shipped one of its name. dir "" is none. The error names
// every mistake in every file.
func Load(dir string) (Set, error) {
	sources, paths := map[string]string{}, map[string]string{}
	entries, err := fs.Glob(shipped, "policies/*"+Suffix)
	if err != nil {
		return nil, fmt.Errorf("shipped policies: %w", err)
	}
	for _, path := range entries {
		data, err := shipped.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("shipped policies: %w", err)
		}
		sources[nameOf(path)] = string(data)
	}
	var mistakes []error
	if dir != "" {
		files, err := filepath.Glob(filepath.Join(dir, "*"+Suffix))
		if err != nil {
			return nil, pipefill.Errorf(pipefill.CodeInvalid, "policy_dir: %w", err)
		}
		if _, err := os.Stat(dir); err != nil {
			return nil, pipefill.Errorf(pipefill.CodeInvalid, "policy_dir: %w", err)
		}
		for _, path := range files {
			source, err := readPolicy(path)
			if err != nil {
				mistakes = append(mistakes, err)
				continue
			}
			sources[nameOf(path)], paths[nameOf(path)] = source, path
		}
	}
	set, err := compileAll(sources, paths)
	if err := errors.Join(append(mistakes, err)...); err != nil {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "%w", err)
	}
	return set, nil
}

func compileAll(sources, paths map[string]string) (Set, error) {
	set := Set{}
	var mistakes []error
	for _, name := range sorted(sources) {
		p, err := Compile(name, paths[name], sources[name], func(other string) (string, bool) { s, ok := sources[other]; return s, ok })
		if err != nil {
			mistakes = append(mistakes, err)
			continue
		}
		set[name] = p
	}
	return set, errors.Join(mistakes...)
}

// LoadFile checks one file, with the shipped policies and those beside it to
// name.
func LoadFile(path string) (*Policy, error) {
	source, err := readPolicy(path)
	if err != nil {
		return nil, err
	}
	others := func(name string) (string, bool) {
		if data, err := readPolicy(filepath.Join(filepath.Dir(path), name+Suffix)); err == nil {
			return data, true
		}
		data, err := shipped.ReadFile("policies/" + name + Suffix)
		return string(data), err == nil
	}
	return Compile(nameOf(path), path, source, others)
}

func readPolicy(path string) (string, error) {
	if name := nameOf(path); !policyName.MatchString(name) || slices.Contains(reserved, name) {
		return "", pipefill.Errorf(pipefill.CodeInvalid,
			"%s: %q is no name of a policy: write a-z, then a-z, 0-9 and _, 32 at most, and none of %s", path, name, strings.Join(reserved, ", "))
	}
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxSource) {
		return "", pipefill.Errorf(pipefill.CodeInvalid, "%s: write a regular file of at most %d bytes", path, maxSource)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", pipefill.Errorf(pipefill.CodeNotFound, "%w", err)
	}
	if err != nil {
		return "", pipefill.Errorf(pipefill.CodeInvalid, "%w", err)
	}
	data, err := os.ReadFile(path) //nolint:gosec // a path of the administrator's, or of the user who asks
	if err != nil {
		return "", pipefill.Errorf(pipefill.CodeInvalid, "%w", err)
	}
	return string(data), nil
}

// reserved are words of the language.
var reserved = append([]string{"job", "slot", "let", "in", "not", "and", "or", "matches", "contains", "true", "false", "nil", "if", "else"}, functionNames()...)

func functionNames() []string {
	var out []string
	for _, f := range functions {
		out = append(out, f.name)
	}
	return out
}

func nameOf(path string) string {
	return strings.TrimSuffix(filepath.Base(path), Suffix)
}

// Names lists the policies.
func (s Set) Names() []string { return sorted(s) }

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// try scores jobs and slots with the values that divide by zero, so that a
// mistake is found when a policy is loaded, not when such a job comes.
func (p *Policy) try() error {
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same jobs each time
	pick := func(values ...int64) int64 { return values[rng.IntN(len(values))] }
	const nowMs = 1_700_000_000_000
	s := New(p, Options{})
	s.SetShares(Shares{Usage: []Usage{{"ann", "a", 1e6}, {"bob", "b", 10}}})
	for i := range int64(300) {
		s.Put(store.FillJob{
			ID: i + 1, JobID: i + 1, FirstMs: nowMs - pick(0, 1000, 86_400_000), LimitMs: pick(0, 60_000, 86_400_000), ExpectMs: pick(0, 1, 1000, 1e10),
			DeadlineMs: pick(0, nowMs, nowMs-1e9, nowMs+1e9), MemBytes: pick(0, 1<<30), DeviceMs: pick(0, 1, 1e8), Requeue: true,
			User: []string{"ann", "bob", "eve"}[rng.IntN(3)], Account: []string{"a", "b"}[rng.IntN(2)], Devices: int(pick(0, 1, 4)),
			GPUs: []string{"", "gres:gpu:1"}[rng.IntN(2)], Name: "name", Partition: "pipefill", Mode: pipefill.ModeChunked,
		})
	}
	for _, slot := range []Slot{
		{Node: "n", Device: "cpu:0"},
		{Node: "n", Device: "gpu:0", Share: 0.3, FreeBytes: 1 << 33, IterationS: 1.5, LongestS: 0.2, Bubbles: 4, MainEndMs: nowMs + 1e7},
		{Node: "n", Device: "gpu:1", Share: 1, FreeBytes: 1, IterationS: 100, LongestS: 100, Bubbles: 1, MainEndMs: nowMs},
	} {
		t := s.newTable(&slot)
		s.bad = ""
		s.rate(t, nowMs)
		if s.bad == "" {
			continue
		}
		for i := range s.len() {
			for l := range p.levels {
				if score := t.scores[i*t.stride+1+l]; score == lowest || math.IsNaN(score) {
					return s.impossible(t, i)
				}
			}
		}
	}
	return nil
}

// impossible tells of which job and slot there is no score.
func (s *Scheduler) impossible(t *table, i int) error {
	s.ready(t, t.nowMs[0], i)
	var values []string
	for _, a := range Attributes {
		if a.numeric() && s.policy.looksAt(a.Name) {
			values = append(values, fmt.Sprintf("%s = %g", a.Name, a.value(&s.batch.context, i)))
		}
	}
	return pipefill.Errorf(pipefill.CodeInvalid, "the score is no finite number (a division by zero? guard it, as x / max(y, 1)) where %s", strings.Join(values, ", "))
}
