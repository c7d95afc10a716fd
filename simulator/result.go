package simulator

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"pipefill/simulator/workload"
)

// Result is the answer about a file: simulate's --json (docs/simulator.md).
type Result struct {
	Version     int          `json:"version"`
	Name        string       `json:"name"`
	Seed        uint64       `json:"seed"`
	Seeds       int          `json:"seeds"`
	Days        float64      `json:"days"`
	Points      []Outcome    `json:"points"`
	Assumptions []Assumption `json:"assumptions"`
	Warnings    []string     `json:"warnings"`
}

// Assumption is a value that an answer rests on.
type Assumption struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Run simulates a file. seed, where set, is instead of the file's.
func (f *File) Run(ctx context.Context, progress func(float64)) (*Result, error) {
	points, err := f.Points()
	if err != nil {
		return nil, err
	}
	outcomes, err := Simulate(ctx, points, f.Seed, f.Seeds, progress)
	if err != nil {
		return nil, err
	}
	return &Result{
		Version: FileVersion, Name: f.Name, Seed: f.Seed, Seeds: f.Seeds, Days: f.Days, Points: outcomes, Assumptions: f.assumptions(),
		Warnings: f.warnings(outcomes),
	}, nil
}

// warnings are what a reader must know beside the figures.
func (f *File) warnings(outcomes []Outcome) []string {
	out := []string{}
	if t := f.trace; t != nil && t.Bad > 0 {
		for _, m := range t.Mistakes {
			out = append(out, fmt.Sprintf("%s: line %d: %s: left out", f.Workload.File, m.Line, m.What))
		}
		if more := t.Bad - len(t.Mistakes); more > 0 {
			out = append(out, fmt.Sprintf("%s: %d more lines are malformed", f.Workload.File, more))
		}
	}
	told := map[string]bool{}
	for _, o := range outcomes {
		for _, kind := range slices.Sorted(maps.Keys(o.Unfit)) {
			if text := fmt.Sprintf("%s never starts: %s", kind, o.Unfit[kind]); !told[text] {
				told[text] = true
				out = append(out, text)
			}
		}
	}
	return out
}

// measuredOn names the page that a default is from.
const measuredOn = "measured on CPU devices: docs/measurements.md"

// assumptions lists what the file leaves to defaults or models.
func (f *File) assumptions() []Assumption {
	g := &f.Filling
	given := func(path, source string) string {
		if _, ok := f.from.lines[path]; ok {
			return "the file"
		}
		return source
	}
	list := []Assumption{
		{"share, guard_ms, min_ms", fmt.Sprintf("%g, %g ms, %g ms", g.Share, g.GuardMs, g.LeastMs), given("filling.share", "pipefilld's defaults: pipefilld.yaml(5)")},
		{"control_pct", fmt.Sprintf("%g %%", g.ControlPct), given("filling.control_pct", "what is withheld in the long run: pipefilld.yaml(5)")},
		{"open_us", fmt.Sprintf("%g us", g.OpenUs), given("filling.open_us", "gate open to fill work, chunked, median; "+measuredOn)},
		{"late_us", fmt.Sprintf("%g us", g.LateUs), given("filling.late_us", "announcing with a waiter on the same core, 99th percentile; "+measuredOn)},
		{"announce_us", fmt.Sprintf("%g us", g.AnnounceUs), given("filling.announce_us", "announcing from Python, 99th percentile; "+measuredOn)},
		{"start_s", fmt.Sprintf("%g s", g.StartS), given("filling.start_s", "from the release in Slurm to the job's start: 0.4 to 1.0 s, measured on a private cluster")},
		{
			"inference_pct, training_pct, program_pct", fmt.Sprintf("%g %%, %g %%, %g %%", g.InferencePct, g.TrainingPct, g.ProgramPct),
			given("filling.inference_pct", "useful over filled time of the demo (43.4 of 45.7 %); "+measuredOn),
		},
		{
			"device", fmt.Sprintf("%g GiB, %g TFLOP/s in fill work, %g GB/s to the host", f.Device.MemoryGiB, f.Device.TFLOPS, f.Device.HostLinkGBps),
			given("device", "an H100 with PCIe 5, from its data sheet; a fifth of its peak in fill work: ours"),
		},
		{"run time of a fill job", "known to the policy", "as by its fill profile"},
	}
	if len(f.Workload.Profiles) == 0 {
		list = append(list, Assumption{"fill jobs", "models of the paper's five networks", "their published shapes, not measured: docs/simulator.md"})
	}
	if f.Workload.Source == sourceSynthetic {
		list = append(list, Assumption{"run times and arrivals", quantilesText(), "percentiles of Alibaba's GPU trace of 2023, one-GPU pods; arrivals scaled to the load"})
	}
	return append(list, Assumption{"longest_h", fmt.Sprintf("%g h", f.Workload.LongestH), given("workload.longest_h", "ours: longer runs are cut to it")})
}

func quantilesText() string {
	var parts []string
	for _, q := range workload.RunTimes {
		parts = append(parts, fmt.Sprintf("p%g %g s", 100*q.Share, q.Value))
	}
	return strings.Join(parts, ", ")
}

// tableColumns are the figures of the table.
var tableColumns = []struct {
	head, figure string
	format       string
}{
	{"BUBBLES", "bubble_fraction", "%.3f"},
	{"IDLEGPUS", "idle_gpu_equivalents", "%.0f"},
	{"FILLED%", "filled_pct", "%.1f"},
	{"USEFUL%", "useful_pct", "%.1f"},
	{"RECOVERED", "recovered_gpu_equivalents", "%.0f"},
	{"UTIL%", "utilization_before_pct", "%.1f"},
	{"AFTER%", "utilization_after_pct", "%.1f"},
	{"GAIN%", "utilization_gain_pct", "%.1f"},
	{"SLOWER%", "main_slowdown_pct", "%.3f"},
	{"DAYS", "days", "%.1f"},
	{"JOBS", "completed", "%.0f"},
	{"WAIT_S", "wait_s_p50", "%.0f"},
	{"DONE_S", "completion_s_mean", "%.0f"},
	{"QUEUE", "queue_least", "%.0f"},
}

// WriteText writes the answer as a table, a row a point: means over seeds, and,
// where they differ, the least and the greatest in a line below.
func (r *Result) WriteText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', tabwriter.AlignRight)
	var keys []string
	if len(r.Points) > 0 {
		keys = slices.Sorted(maps.Keys(r.Points[0].Sweep))
	}
	head := []string{"POLICY"}
	for _, k := range keys {
		head = append(head, strings.ToUpper(k))
	}
	for _, c := range tableColumns {
		head = append(head, c.head)
	}
	_, _ = fmt.Fprintln(w, strings.Join(head, "\t")+"\t")
	for _, p := range r.Points {
		row := []string{p.Policy}
		for _, k := range keys {
			row = append(row, fmt.Sprint(p.Sweep[k]))
		}
		lo, hi := slices.Clone(row), slices.Repeat([]string{""}, len(row))
		lo[0], hi[0] = "  least", "  most"
		for _, c := range tableColumns {
			s := p.Figures[c.figure]
			row = append(row, fmt.Sprintf(c.format, s.Mean))
			lo, hi = append(lo, fmt.Sprintf(c.format, s.Lo)), append(hi, fmt.Sprintf(c.format, s.Hi))
		}
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t")+"\t")
		if r.Seeds > 1 {
			_, _ = fmt.Fprintln(w, strings.Join(append(slices.Repeat([]string{""}, len(keys)), lo[0]), "\t")+"\t"+strings.Join(lo[1+len(keys):], "\t")+"\t")
			_, _ = fmt.Fprintln(w, strings.Join(append(slices.Repeat([]string{""}, len(keys)), hi[0]), "\t")+"\t"+strings.Join(hi[1+len(keys):], "\t")+"\t")
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	for _, text := range r.Warnings {
		_, _ = fmt.Fprintln(out, "warning: "+text)
	}
	_, _ = fmt.Fprintln(out, "\nAssumed:")
	return writeAssumptions(out, r.Assumptions)
}

func writeAssumptions(out io.Writer, list []Assumption) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, a := range list {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", a.Name, a.Value, a.Source)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write assumptions: %w", err)
	}
	return nil
}
