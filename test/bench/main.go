// Bench measures what pipefill gives and costs on this machine and writes it to
// build/bench.json: what an announcement costs, how soon fill work runs, how
// much of the bubbles is filled and how much slower the main job is for it,
// beside the same competitor without pipefill. Each figure is a ratio within
// one run, with its interval; the machine should be quiet otherwise.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if filepath.Base(os.Args[0]) == "scontrol" {
		os.Exit(scontrol(os.Args[1:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// bench is one run of all or some parts.
type bench struct {
	root, build string
	limit       time.Duration
	keep        string
	setting     string
	stdout      io.Writer
	now         func() time.Time
	begin       time.Time
}

// row is one figure of build/bench.json (DESIGN, section 9).
type row struct {
	Name   string   `json:"name"`
	Value  float64  `json:"value"`
	Unit   string   `json:"unit"`
	N      int      `json:"n"`
	P50    *float64 `json:"p50,omitempty"`
	P99    *float64 `json:"p99,omitempty"`
	Lo     *float64 `json:"lo,omitempty"` // of the 95 % interval
	Hi     *float64 `json:"hi,omitempty"`
	Target *float64 `json:"target,omitempty"`
	Met    *bool    `json:"met,omitempty"`
}

func (r *row) aim(target float64, met bool) { r.Target, r.Met = &target, &met }

// part is what can be asked for by name.
type part struct {
	name, what string
	run        func(*bench, context.Context) error
}

func parts() []part {
	return []part{
		{"gate", "what an announcement costs and how soon fill work runs, from C and Python", (*bench).gate},
		{"engines", "the hooks on real engines: what is announced against what is idle, and their cost (packaging/engines)", (*bench).engines},
		{"start", "how much later a main job starts, with pipefilld absent, hanging or answering garbage", (*bench).start},
		{"fill", "slow-down and share filled: chunked, signal, SCHED_IDLE", (*bench).fill},
		{"planned", "a transformer's inference under its plan, over the guard", (*bench).planned},
		{"guard", "the trade-off over the guard", (*bench).guard},
		{"compete", "the same competitor without a gate: same priority, nice 19, Slurm's oversubscription", (*bench).compete},
		{"schedule", "the scheduler with 100,000 jobs and 8,192 slots", (*bench).schedule},
		{"profile", "a fill profile against the chunks in bubbles later", (*bench).profile},
		{"plan", "the planner, on 2,000 ops x 50 configurations x 32 bubbles", (*bench).plan},
		{"scale", "the controller with 100,000 jobs, 1,024 nodes and 8,192 slots", (*bench).scale},
		{"mirror", "what it costs a real slurmctld with 20,000 held jobs to be mirrored", (*bench).mirror},
		{"account", "usage records taken in, and reports over a year", (*bench).account},
		{"recording", "what it costs that a timeline is recorded", (*bench).recording},
		{"standing", "a main job with pipefill and fill jobs against one on nodes without", (*bench).standing},
		{"simulate", "simulating 8,192 GPUs for a week, and how the cost grows", (*bench).simulate},
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	b := &bench{stdout: stdout, now: time.Now}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	only := flags.String("only", strings.Join(names, ","), "`PARTS` to run, by name")
	flags.StringVar(&b.root, "root", ".", "the tree's `FOLDER`")
	flags.StringVar(&b.build, "build", "build", "`FOLDER` with the built programs")
	flags.DurationVar(&b.limit, "limit", 25*time.Minute, "the longest that one figure's run may take")
	flags.StringVar(&b.setting, "setting", "", "of fill, only settings whose name holds this `TEXT`, as SCHED_IDLE")
	flags.StringVar(&b.keep, "keep", "", "`FOLDER` for the raw traces of fill, guard and planned, one below it for each setting")
	docs := flags.String("docs", "", "measure nothing: write the tables of this `PAGE` anew from bench.json")
	total := flags.Duration("total", 150*time.Minute, "the longest that all of it may take; what is not measured by then is not")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, path := range []*string{&b.root, &b.build} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	b.begin = b.now()
	if *docs != "" {
		return b.docs(*docs)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *total, fmt.Errorf("--total %s has passed", *total))
	defer cancel()
	for name := range strings.SplitSeq(*only, ",") {
		if !strings.Contains(","+strings.Join(names, ",")+",", ","+name+",") {
			return fmt.Errorf("--only %s: there is no part %q: write some of %s", *only, name, strings.Join(names, ","))
		}
	}
	for _, p := range parts() {
		if !strings.Contains(","+*only+",", ","+p.name+",") {
			continue
		}
		b.say("%s: %s", p.name, p.what)
		if err := p.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// say prints a line with the time since the start.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.stdout, "%6.0f s  %s\n", b.now().Sub(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// add prints rows, and keeps them in build/bench.json in place of rows of
// those names that an earlier run wrote there.
func (b *bench) add(rows ...row) error {
	for _, r := range rows {
		line := fmt.Sprintf("%-62s %10.3f %s", r.Name, r.Value, r.Unit)
		if r.Lo != nil && r.Hi != nil {
			line += fmt.Sprintf("  95 %% interval %.3f to %.3f", *r.Lo, *r.Hi)
		}
		if r.P99 != nil {
			line += fmt.Sprintf("  p99 %.3f", *r.P99)
		}
		if r.Met != nil {
			line += fmt.Sprintf("  target %g: %s", *r.Target, map[bool]string{true: "met", false: "NOT MET"}[*r.Met])
		}
		b.say("%s", line)
	}
	path := filepath.Join(b.build, "bench.json")
	var all []row
	if data, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(data, &all); err != nil {
			return fmt.Errorf("%s: %w: remove it", path, err)
		}
	}
	fresh := map[string]bool{}
	for _, r := range rows {
		fresh[r.Name] = true
	}
	kept := rows
	for _, r := range all {
		if !fresh[r.Name] {
			kept = append(kept, r)
		}
	}
	data, err := json.MarshalIndent(kept, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	return nil
}

// pause waits, or ends with ctx.
func (b *bench) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	case <-timer.C:
		return nil
	}
}

// fill measures the three settings that have targets.
func (b *bench) fill(ctx context.Context) error {
	for _, s := range settings() {
		if !strings.Contains(s.name, b.setting) {
			continue
		}
		b.say("%s: %s", s.name, strings.Join(s.node, ", "))
		report, err := b.measureFill(ctx, s, b.limit)
		if err != nil {
			return err
		}
		if err := b.add(fillRows(s, report)...); err != nil {
			return err
		}
	}
	return nil
}

// guards are tried one by one, in ms.
var guards = []float64{0, 1, 2, 5, 10}

func guardName(ms float64) string { return fmt.Sprintf("guard %g ms, signal, normal priority", ms) }

// guard shows what a shorter guard gives and costs, at the main job's own
// priority, where the guard is all there is.
func (b *bench) guard(ctx context.Context) error {
	for _, ms := range guards {
		s := settings()[1]
		s.name = guardName(ms)
		s.slowest, s.filled = 0, 0
		s.node = []string{"fill_sched: normal", fmt.Sprintf("guard_ms: %g", ms), "share: 1", "control: 50%", "budget: 100%"}
		report, err := b.measureFill(ctx, s, min(b.limit, 2*time.Minute))
		if err != nil {
			return err
		}
		if err := b.add(fillRows(s, report)[:3]...); err != nil {
			return err
		}
	}
	return nil
}
