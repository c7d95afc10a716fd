package simulator

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// WriteHTML writes the report: the scales, the published figures, the studies.
func (r *PaperResult) WriteHTML(out io.Writer) error {
	gain := Section{
		Title: "Gain in utilization", Note: "Fill jobs' FLOP in % of the main job's.", Columns: []string{"SETTING", "SCHEDULE", "GPUS", "BEST CASE", "MIXED TRACE"},
		Plot: &Plot{X: 2, Y: []int{3, 4}, By: []int{0, 1}, XAxis: "GPUs", YAxis: "gain, %"},
	}
	gpus := Section{
		Title: "GPUs' worth of work", Note: "Of the pipeline's own time; idle is what waits in bubbles.", Columns: []string{"SETTING", "SCHEDULE", "GPUS", "IDLE", "BEST CASE", "MIXED TRACE"},
		Plot: &Plot{X: 2, Y: []int{3, 4, 5}, By: []int{0, 1}, XAxis: "GPUs", YAxis: "GPUs"},
	}
	main := Section{
		Title: "The main job", Columns: []string{"SETTING", "SCHEDULE", "GPUS", "MICRO-BATCHES", "BUBBLES %", "DAYS", "SLOW-DOWN %"},
		Plot: &Plot{X: 2, Y: []int{5}, By: []int{0, 1}, XAxis: "GPUs", YAxis: "days of training"},
	}
	for _, row := range r.Rows {
		gain.Rows = append(gain.Rows, []any{row.Setting, row.Schedule, row.GPUs, row.GainBestPct, row.GainTracePct})
		gpus.Rows = append(gpus.Rows, []any{row.Setting, row.Schedule, row.GPUs, row.IdleGPUs, row.RecoveredBest, row.RecoveredTrace})
		main.Rows = append(main.Rows, []any{row.Setting, row.Schedule, row.GPUs, row.MicroBatches, 100 * row.BubbleFraction, row.Days, row.SlowdownPct})
	}
	published := Section{Title: "Published figures beside ours", Note: "With the paper's constants.", Columns: []string{"FIGURE", "THEIRS", "OURS", "DIFFERENCE %"}}
	for _, p := range r.Published {
		published.Rows = append(published.Rows, []any{p.Figure, p.Theirs, p.Ours, p.DifferencePct})
	}
	return writeHTML(out, "The evaluation of PipeFill's paper, simulated",
		"arXiv 2410.07192. \"paper\" is with the paper's constants, \"ours\" the same cluster filled as pipefill does it.",
		append([]Section{published, gain, gpus, main}, r.sections...), nil, r.Assumptions)
}

// WriteHTML writes the report of a file.
func (r *Result) WriteHTML(out io.Writer) error {
	var keys []string
	if len(r.Points) > 0 {
		keys = slices.Sorted(maps.Keys(r.Points[0].Sweep))
	}
	about := fmt.Sprintf("%g simulated days, %d seeds from %d on: means, and the least and the greatest.", r.Days, r.Seeds, r.Seed)
	var sections []Section
	for _, group := range figureGroups {
		s := Section{Title: group.title, Note: group.note, Columns: []string{"POLICY"}}
		s.Columns = append(s.Columns, keys...)
		first := len(s.Columns)
		s.Columns = append(s.Columns, group.figures...)
		s.Columns = append(s.Columns, "least and greatest "+group.figures[0])
		for _, p := range r.Points {
			row := []any{p.Policy}
			for _, k := range keys {
				row = append(row, p.Sweep[k])
			}
			for _, name := range group.figures {
				row = append(row, p.mean(name))
			}
			spread := p.Figures[group.figures[0]]
			s.Rows = append(s.Rows, append(row, cell(spread.Lo)+" to "+cell(spread.Hi)))
		}
		x := min(1, len(keys)) // the first swept key, else the policy
		s.Plot = &Plot{X: x, Y: []int{first}, XAxis: s.Columns[x], YAxis: group.figures[0], Bars: x == 0}
		for i := range first {
			if i != x {
				s.Plot.By = append(s.Plot.By, i)
			}
		}
		sections = append(sections, s)
	}
	return writeHTML(out, r.Name, about, sections, r.Warnings, r.Assumptions)
}

// figureGroups are a report's sections; the first figure of each is plotted.
var figureGroups = []struct {
	title, note string
	figures     []string
}{
	{"What is recovered", "Recovered GPU-equivalents: useful work over all time, in devices of their own.", []string{
		"recovered_gpu_equivalents", "idle_gpu_equivalents", "bubble_of_time", "offered_pct", "filled_pct", "useful_pct", "work_hours",
	}},
	{"Utilization", "Time in which devices do useful work, before and after; the gain is by FLOP.", []string{
		"utilization_after_pct", "utilization_before_pct", "utilization_gain_pct", "occupied_pct",
	}},
	{"The main job", "Slow-down: what handing devices back costs, by the event graph.", []string{"main_slowdown_pct", "iteration_s", "bubble_fraction", "days"}},
	{"Fill jobs", "Times in seconds, from submission.", []string{
		"completion_s_mean", "completion_s_p50", "completion_s_p90", "wait_s_p50", "wait_s_p90", "submitted", "started", "completed", "deadlines_met_pct", "queue_least", "queue_most",
	}},
}

// WriteHTML writes the studies.
func (r *StudyResult) WriteHTML(out io.Writer) error {
	return writeHTML(out, "Beyond the paper, simulated",
		"The cluster and main job of the paper's evaluation. Useful work in % of bubble time, with a queue that is never empty.", r.Sections, nil, r.Assumptions)
}
