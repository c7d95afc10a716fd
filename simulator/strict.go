package simulator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"pipefill"
)

// lines tells on which line each key of a YAML file stands, by its path:
// main_jobs[0].stages.
type lines map[string]int

func linesOf(root *yaml.Node) lines {
	at := lines{}
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		switch n.Kind {
		case yaml.DocumentNode:
			for _, c := range n.Content {
				walk(c, path)
			}
		case yaml.SequenceNode:
			for i, c := range n.Content {
				own := fmt.Sprintf("%s[%d]", path, i)
				at[own] = c.Line
				walk(c, own)
			}
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				own := n.Content[i].Value
				if path != "" {
					own = path + "." + own
				}
				at[own] = n.Content[i].Line
				walk(n.Content[i+1], own)
			}
		default:
		}
	}
	walk(root, "")
	return at
}

// at is the path of the key that a line belongs to: the last that begins on it
// or before.
func (l lines) at(line int) string {
	found, best := "", 0
	for path, n := range l {
		if n <= line && (n > best || n == best && (len(path) > len(found) || len(path) == len(found) && path > found)) {
			found, best = path, n
		}
	}
	return found
}

// mistakes are what is wrong with one file.
type mistakes struct {
	name  string
	lines lines
	list  []string
}

// rule notes that the value of a key breaks a rule.
func (m *mistakes) rule(holds bool, path, format string, args ...any) {
	if holds {
		return
	}
	at := ""
	// A key that is missing stands nowhere: its parent does.
	for p := path; p != "" && at == ""; p = parent(p) {
		if line := m.lines[p]; line > 0 {
			at = fmt.Sprintf("line %d: ", line)
		}
	}
	m.list = append(m.list, fmt.Sprintf("%s: %s%s: %s", m.name, at, path, fmt.Sprintf(format, args...)))
}

func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func (m *mistakes) err() error {
	if len(m.list) == 0 {
		return nil
	}
	return pipefill.Errorf(pipefill.CodeInvalid, "%s", strings.Join(m.list, "\n"))
}

var (
	yamlUnknown = regexp.MustCompile(`^line (\d+): field (.*) not found in type .*$`)
	yamlTwice   = regexp.MustCompile(`^line (\d+): mapping key "(.*)" already defined at line (\d+)$`)
	yamlType    = regexp.MustCompile("(?s)^line (\\d+): cannot unmarshal !!\\w+ (?:`(.*)` )?into (.*)$")
	wantedType  = map[string]string{
		"int": "write a whole number", "int64": "write a whole number", "uint64": "write a whole number, 0 or more", "float64": "write a number",
		"string": "write one text", "bool": "write true or false", "[]string": "write a list, as [a, b]", "[]float64": "write a list of numbers, as [1, 2]",
		"[]int": "write a list of whole numbers, as [1, 2]",
	}
)

// decodeStrict reads one YAML document into to, and notes every mistake with its
// line and key.
func decodeStrict(name string, data []byte, to any) (*mistakes, error) {
	m := &mistakes{name: name}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return m, pipefill.Errorf(pipefill.CodeInvalid, "%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	m.lines = linesOf(&root)
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	err := decoder.Decode(to)
	typed, ok := errors.AsType[*yaml.TypeError](err)
	switch {
	case ok:
		for _, e := range typed.Errors {
			m.list = append(m.list, name+": "+m.typeMistake(e))
		}
	case errors.Is(err, io.EOF):
		return m, pipefill.Errorf(pipefill.CodeInvalid, "%s: it is empty: docs/simulator.md says what to write", name)
	case err != nil:
		return m, pipefill.Errorf(pipefill.CodeInvalid, "%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	case !errors.Is(decoder.Decode(new(any)), io.EOF):
		return m, pipefill.Errorf(pipefill.CodeInvalid, "%s: more than one document: write one, without a line of ---", name)
	}
	return m, m.err()
}

// typeMistake turns the decoder's complaint into one that names line and key.
func (m *mistakes) typeMistake(e string) string {
	if f := yamlUnknown.FindStringSubmatch(e); f != nil {
		line, _ := strconv.Atoi(f[1]) // digits, by the pattern
		path := f[2]
		if p := m.lines.at(line); parent(p) != "" {
			path = parent(p) + "." + f[2]
		}
		return fmt.Sprintf("line %s: unknown key %s: docs/simulator.md lists the keys", f[1], path)
	}
	if f := yamlTwice.FindStringSubmatch(e); f != nil {
		return fmt.Sprintf("line %s: %s: stands on line %s too: write it once", f[1], f[2], f[3])
	}
	f := yamlType.FindStringSubmatch(e)
	if f == nil {
		return e
	}
	line, _ := strconv.Atoi(f[1]) // digits, by the pattern
	what := wantedType[f[3]]
	if what == "" {
		what = "write lines of key: value"
	}
	if f[2] != "" {
		what = fmt.Sprintf("%q: %s", f[2], what)
	}
	return fmt.Sprintf("line %s: %s: %s", f[1], m.lines.at(line), what)
}

// numbers is one number or a list of them.
type numbers []float64

// UnmarshalYAML reads either.
func (n *numbers) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode((*[]float64)(n))
	}
	var one float64
	if err := node.Decode(&one); err != nil {
		return err
	}
	*n = numbers{one}
	return nil
}
