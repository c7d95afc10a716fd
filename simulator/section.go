package simulator

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Section is one study: a table, and what is plotted of it.
type Section struct {
	Title   string   `json:"title"`
	Note    string   `json:"note"`
	Columns []string `json:"columns"`
	Rows    [][]any  `json:"rows"` // text or numbers
	Plot    *Plot    `json:"plot,omitempty"`
}

// Plot draws columns over another.
type Plot struct {
	X     int    `json:"x"`  // column
	Y     []int  `json:"y"`  // columns
	By    []int  `json:"by"` // columns that tell curves apart
	XAxis string `json:"x_axis"`
	YAxis string `json:"y_axis"`
	Bars  bool   `json:"bars,omitempty"`
}

func writeSections(out io.Writer, sections []Section) error {
	for _, s := range sections {
		_, _ = fmt.Fprintf(out, "\n%s\n", s.Title)
		if s.Note != "" {
			_, _ = fmt.Fprintf(out, "  %s\n", s.Note)
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, c := range s.Columns {
			_, _ = fmt.Fprintf(w, "%s\t", c)
		}
		_, _ = fmt.Fprintln(w)
		for _, row := range s.Rows {
			for _, v := range row {
				_, _ = fmt.Fprintf(w, "%s\t", cell(v))
			}
			_, _ = fmt.Fprintln(w)
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}

// cell writes a value of a table: four digits of a number.
func cell(v any) string {
	if x, ok := v.(float64); ok {
		switch {
		case x >= 1000 || x <= -1000:
			return fmt.Sprintf("%.0f", x)
		case x == float64(int64(x)):
			return fmt.Sprintf("%g", x)
		}
		return fmt.Sprintf("%.3g", x)
	}
	return fmt.Sprint(v)
}

// overGroups makes a section of useful shares by group of fill jobs, for values of
// one key.
func overGroups(files map[string]*File, title, note, key string, values []float64, set func(*File, float64), settings ...string) (Section, error) {
	s := Section{Title: title, Note: note, Columns: []string{"SETTING", key}}
	for _, g := range groups() {
		s.Columns = append(s.Columns, g.name)
	}
	for _, setting := range settings {
		for _, v := range values {
			file := *files[setting]
			file.MainJobs = slices.Clone(file.MainJobs)
			file.MainJobs[0].GPUs = 8192
			set(&file, v)
			row := []any{setting, v}
			for _, g := range groups() {
				w, err := file.full(g.mix)
				if err != nil {
					return s, err
				}
				row = append(row, w.usefulPct())
			}
			s.Rows = append(s.Rows, row)
		}
	}
	s.Plot = &Plot{X: 1, Y: []int{2, 3, 4, 5}, By: []int{0}, XAxis: key, YAxis: "useful, % of bubble time"}
	return s, nil
}

const fullQueue = "8K GPUs, GPipe; useful work in % of bubble time with a queue that is never empty, of the kinds that fit"

func bubbleLengths(files map[string]*File) (Section, error) {
	return overGroups(files, "Sensitivity to the bubbles' length", fullQueue+"; the iteration grows with its bubbles.", "bubble length, %",
		[]float64{1, 2, 5, 10, 25, 50, 100, 200, 400}, func(f *File, v float64) {
			f.Filling.BubbleScalePct = v
			f.Filling.LeastMs = min(f.Filling.LeastMs, 0.1) // the bound for scattered gaps does not shrink with them
		}, paperSettings...)
}

func freeMemory(files map[string]*File) (Section, error) {
	return overGroups(files, "Sensitivity to free memory", fullQueue+".", "free memory, GiB",
		[]float64{0.5, 1, 2, 3, 4.5, 6, 8, 10, 12}, func(f *File, v float64) { f.MainJobs[0].FreeGiB = v }, paperSettings...)
}

func speedsWithin(files map[string]*File) (Section, error) {
	return overGroups(files, "Sensitivity to fill work's speed within a bubble", fullQueue+"; the constant that the paper's setting is calibrated by, and ours is measured on CPU devices only.",
		"speed within, %", []float64{40, 50, 60, 73.2, 80, 90, 95, 100}, func(f *File, v float64) { f.Filling.InferencePct, f.Filling.TrainingPct = v, v }, "ours")
}

// policiesCompared runs one cluster under each policy at a load below and one
// above what it can do.
func policiesCompared(ctx context.Context, base *File, seed uint64, progress func(float64)) (Section, error) {
	s := Section{
		Title: "Policies compared", Note: "1K GPUs, GPipe, the paper's setting, the mixed trace; three days, 2,048 jobs waiting at the begin, runs cut at 2 h, deadlines at 12 times the run time.",
		Columns: []string{"LOAD", "POLICY", "MEAN DONE S", "P50 DONE S", "P90 DONE S", "P50 WAIT S", "P90 WAIT S", "DEADLINES MET %", "COMPLETED", "USEFUL %"},
	}
	paper := *base
	paper.Days, paper.Workload.DeadlineFactor, paper.Workload.LongestH, paper.Workload.Backlog = 3, 12, 2, 2048
	paper.Filling.Policies = []string{"fifo", "sjf", "makespan", "utilization", "fairshare", "deadline"}
	loads := []float64{0.9, 1.1}
	for i, load := range loads {
		file := paper
		file.Workload.Load = load
		points, err := file.Points()
		if err != nil {
			return s, err
		}
		outcomes, err := Simulate(ctx, points, seed, 1, func(part float64) { progress((float64(i) + part) / float64(len(loads))) })
		if err != nil {
			return s, err
		}
		for _, o := range outcomes {
			f := o.each[0]
			s.Rows = append(s.Rows, []any{load, o.Policy, f.CompletionS, f.CompletionP50, f.CompletionP90, f.WaitP50S, f.WaitP90S, f.DeadlinesPct, f.Completed, f.UsefulPct})
		}
	}
	s.Plot = &Plot{X: 1, Y: []int{2}, By: []int{0}, XAxis: "policy", YAxis: "mean time to completion, s", Bars: true}
	return s, nil
}
