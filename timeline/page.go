package timeline

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"pipefill/chart"
	"pipefill/measure"
)

// Run is a run with what its page tells.
type Run struct {
	Title    string
	Timeline Timeline
	Traces   measure.Traces
	Report   measure.Report
	Jobs     []Job
}

// Job is a fill job of a run.
type Job struct {
	ID     int64  `json:"id"`
	User   string `json:"user"`
	What   string `json:"what"`
	State  string `json:"state"`  // Slurm's; "" where nobody said
	Result string `json:"result"` // or why it waits
}

// shownNs is how much of the end of a run its timeline shows: some iterations.
const shownNs = 2e9

// Page draws a run.
func (r Run) Page() (chart.Page, error) {
	page := chart.Page{Title: r.Title, About: "Bubbles of a pipeline-parallel training job, and what ran in them. Times in seconds of one device."}
	for _, section := range []func() (chart.Section, error){r.figures, r.timeline, r.stages, r.shares, r.overhead, r.jobs} {
		s, err := section()
		if err != nil {
			return page, err
		}
		page.Sections = append(page.Sections, s)
	}
	return page, nil
}

func (r Run) figures() (chart.Section, error) {
	m, b := r.Report.Main, r.Report.Bubbles
	slow := "not known: too few iterations"
	if m.OverheadKnown {
		slow = fmt.Sprintf("%+.2f %% (95 %% interval %+.2f to %+.2f %%)", m.OverheadPct, m.OverheadCI95[0], m.OverheadCI95[1])
	}
	rows := [][]string{
		{"main job", fmt.Sprintf("%d iterations, median %.1f ms with the gates shut, %.1f ms with fill jobs", m.Iterations, m.BaselineMs, m.FilledMs)},
		{"slow-down", slow},
		{"bubbles", fmt.Sprintf("%.1f device-seconds while fill jobs were there", b.Seconds)},
		{"filled", fmt.Sprintf("%.1f device-seconds, %.1f %% (%.2f outside bubbles)", b.FilledSeconds, b.RecoveredPct, b.OutsideSeconds)},
	}
	if text := r.Timeline.neverOffered(); text != "" {
		rows = append(rows, []string{"never offered", text})
	}
	if r.Report.UsefulSeconds > 0 {
		rows = append(rows, []string{"useful", fmt.Sprintf("%.1f %%: what completed takes %.1f s on an idle device", b.UsefulPct, r.Report.UsefulSeconds)})
	}
	return chart.Section{Heading: "In figures", Table: &chart.Table{Rows: rows}}, nil
}

// neverOffered sums up comm and other, and of these the phases that have a name;
// "" where there is nothing.
func (t Timeline) neverOffered() string {
	sums := map[string]float64{}
	for _, d := range t.Devices {
		for _, s := range slices.Concat(d.Waits, slices.DeleteFunc(slices.Clone(d.Main), func(s Span) bool { return !isPhase(s.Name) })) {
			sums[s.Name] += float64(s.EndNs-s.BeginNs) / 1e9
		}
	}
	var parts []string
	for _, name := range []string{"comm", "other", "evaluation", "checkpoint"} {
		switch {
		case sums[name] == 0:
		case isPhase(name):
			parts = append(parts, fmt.Sprintf("of that %.1f of %ss", sums[name], name))
		default:
			parts = append(parts, fmt.Sprintf("%.1f device-seconds of %s", sums[name], name))
		}
	}
	return strings.Join(parts, ", ")
}

// Colours of the timeline, by what a span is.
const (
	colourForward = iota
	colourBackward
	colourFill
	colourGate
	colourWait
	colourLate
	colourOther
)

func colourOf(op string) int {
	switch op {
	case "forward":
		return colourForward
	case "backward":
		return colourBackward
	}
	return colourOther
}

func (r Run) timeline() (chart.Section, error) {
	beginNs, endNs, _ := r.Timeline.Bounds()
	last := endNs
	// The end of the last fill job's chunk is more of a picture than the end of the run.
	for _, d := range r.Timeline.Devices {
		if n := len(d.Fill); n > 0 && d.Fill[n-1].EndNs < last {
			last = d.Fill[n-1].EndNs
		}
	}
	from := max(beginNs, last-shownNs)
	seconds := func(ns int64) float64 { return float64(ns-beginNs) / 1e9 }
	var tracks []chart.Track
	for _, d := range r.Timeline.Devices {
		for _, t := range []struct {
			name   string
			spans  []Span
			colour func(Span) int
		}{
			{d.Name, d.Main, func(s Span) int { return colourOf(s.Name) }},
			{"  waits", d.Waits, func(Span) int { return colourWait }},
			{"  gate open", d.Gate, func(Span) int { return colourGate }},
			{"  fill jobs", slices.Concat(d.Fill, d.Late), func(s Span) int {
				if s.Name == "overrun" || s.Name == "ran late" {
					return colourLate
				}
				return colourFill
			}},
		} {
			track := chart.Track{Name: t.name}
			for _, s := range t.spans {
				if s.EndNs >= from && s.BeginNs <= last {
					track.Spans = append(track.Spans, chart.Span{Begin: seconds(s.BeginNs), End: seconds(s.EndNs), Colour: t.colour(s)})
				}
			}
			tracks = append(tracks, track)
		}
	}
	picture, err := chart.Tracks("timeline", "seconds of the run", seconds(from), seconds(last), tracks,
		[]string{"forward", "backward", "fill job", "gate open", "wait", "ran after its gate was shut", "other work"})
	return chart.Section{
		Heading: "Timeline", Picture: picture,
		Text: "The last seconds with fill jobs on every device. What a fill job ran after its gate was shut is drawn where it was more than 0.1 ms.",
	}, err
}

// kinds are drawn in this order.
var kinds = []string{"fill-drain", "fwd-bwd", "steady", "comm", "other"}

func (r Run) stages() (chart.Section, error) {
	var groups []string
	values := make([][]float64, len(kinds)+1)
	for _, d := range r.Timeline.Devices {
		group := d.ID
		if d.Name != d.ID {
			group = fmt.Sprintf("stage %d", d.Stage)
		}
		groups = append(groups, group)
		sums := map[string]float64{}
		for _, s := range d.Waits {
			sums[s.Name] += float64(s.EndNs-s.BeginNs) / 1e9
		}
		for i, kind := range kinds {
			values[i] = append(values[i], sums[kind])
		}
		var filled float64
		for _, s := range d.Fill {
			filled += float64(s.EndNs-s.BeginNs) / 1e9
		}
		values[len(kinds)] = append(values[len(kinds)], filled)
	}
	names := append(slices.Clone(kinds), "fill jobs let run")
	var kept []string
	var drawn [][]float64
	for i, name := range names {
		if slices.ContainsFunc(values[i], func(v float64) bool { return v > 0 }) {
			kept, drawn = append(kept, name), append(drawn, values[i])
		}
	}
	picture, err := chart.Bars("bubbles by stage and kind", "device", "seconds", groups, kept, drawn, false)
	return chart.Section{Heading: "Bubbles by stage", Picture: picture, Text: "comm (the transport, collectives) and other (evaluation, checkpoints) are never offered."}, err
}

// windows are the stretches that shares are computed over.
func (r Run) windows() (beginNs, lengthNs int64, count int) {
	beginNs, endNs := int64(math.MaxInt64), int64(math.MinInt64)
	for _, f := range r.Traces.Fills {
		if n := len(f.Readings); n > 1 {
			beginNs, endNs = min(beginNs, f.Readings[0].AtNs), max(endNs, f.Readings[n-1].AtNs)
		}
	}
	if endNs <= beginNs {
		return 0, 0, 0
	}
	const least, most = 2e9, 60
	lengthNs = max(least, (endNs-beginNs)/most)
	return beginNs, lengthNs, int((endNs - beginNs) / lengthNs)
}

func (r Run) shares() (chart.Section, error) {
	completed := map[int64]bool{}
	for _, j := range r.Jobs {
		completed[j.ID] = j.State == "COMPLETED"
	}
	control := map[int64]bool{}
	for _, events := range r.Traces.Events {
		for _, e := range events {
			if e.Flags&flagControl != 0 {
				control[e.Iteration] = true
			}
		}
	}
	begin, length, count := r.windows()
	filled, useful := chart.Series{Name: "recovered"}, chart.Series{Name: "by jobs that completed"}
	for i := range count {
		window := []measure.Interval{{BeginNs: begin + int64(i)*length, EndNs: begin + int64(i+1)*length}}
		var bubbles, in, kept int64
		for _, rank := range r.Traces.Ranks {
			var waits []measure.Interval
			for _, w := range rank.Waits {
				if !control[w.Iteration] {
					waits = append(waits, w.Interval)
				}
			}
			inside := measure.Intersect(measure.Union(waits), window)
			there := false
			for _, fill := range r.Traces.Fills {
				if fill.Device != rank.Device {
					continue
				}
				readings := slices.DeleteFunc(slices.Clone(fill.Readings), func(x measure.Reading) bool {
					return x.AtNs < window[0].BeginNs || x.AtNs >= window[0].EndNs
				})
				there = there || len(readings) > 1
				ns, _ := measure.Filled(readings, inside)
				in += ns
				if completed[fill.Job] {
					kept += ns
				}
			}
			if there {
				bubbles += measure.Length(inside)
			}
		}
		share := func(ns int64) float64 {
			if bubbles == 0 {
				return math.NaN()
			}
			return 100 * float64(ns) / float64(bubbles)
		}
		at := float64(int64(i)*length+length/2) / 1e9
		filled.X, filled.Y = append(filled.X, at), append(filled.Y, share(in))
		useful.X, useful.Y = append(useful.X, at), append(useful.Y, share(kept))
	}
	picture, err := chart.Lines("share of bubbles recovered", "seconds since the first fill job", "% of bubble seconds", filled, useful)
	return chart.Section{
		Heading: "Recovered over time", Picture: picture,
		Text: "CPU time of fill jobs within bubbles, over bubble seconds of the devices where there was a fill job; control iterations left out.",
	}, err
}

// overhead is the estimate as it got narrower.
func (r Run) overhead() (chart.Section, error) {
	iterations := measure.Compared(r.Traces)
	series := chart.Series{Name: "slow-down so far"}
	const steps = 40
	for k := 1; k <= steps; k++ {
		n := len(iterations) * k / steps
		e, known := measure.Overhead(iterations[:n], measure.BlockIterations)
		if !known {
			continue
		}
		series.X, series.Y = append(series.X, float64(n)), append(series.Y, 100*e.Value)
		series.Lo, series.Hi = append(series.Lo, 100*e.Lo), append(series.Hi, 100*e.Hi)
	}
	text := "Iterations beside fill work against those with the gates shut at random, with the 95 % interval over blocks of neighbouring iterations."
	if len(series.X) == 0 {
		return chart.Section{Heading: "What it cost the main job", Text: text + " Too few iterations of either sort."}, nil
	}
	// The first intervals are so wide that they would hide the rest.
	for i := range series.X {
		series.Lo[i], series.Hi[i] = max(series.Lo[i], -20), min(series.Hi[i], 20)
	}
	picture, err := chart.Lines("slow-down of the main job", "iterations", "%", series)
	return chart.Section{Heading: "What it cost the main job", Picture: picture, Text: text}, err
}

func (r Run) jobs() (chart.Section, error) {
	table := &chart.Table{Header: []string{"Job", "User", "What", "State", "Device", "Mode", "Filled s", "Result"}, Right: []bool{true, false, false, false, false, false, true}}
	jobs := slices.Clone(r.Jobs)
	for _, f := range r.Traces.Fills {
		if !slices.ContainsFunc(jobs, func(j Job) bool { return j.ID == f.Job }) {
			jobs = append(jobs, Job{ID: f.Job})
		}
	}
	for _, j := range jobs {
		var devices, modes []string
		var ns int64
		for _, f := range r.Traces.Fills {
			if n := len(f.Readings); f.Job == j.ID && n > 0 {
				ns += f.Readings[n-1].CPUNs - f.Readings[0].CPUNs
				if !slices.Contains(devices, f.Device) {
					devices, modes = append(devices, f.Device), append(modes, f.Mode)
				}
			}
		}
		table.Rows = append(table.Rows, []string{
			strconv.FormatInt(j.ID, 10), j.User, j.What, j.State, strings.Join(devices, ", "), strings.Join(slices.Compact(modes), ", "), fmt.Sprintf("%.2f", float64(ns)/1e9), j.Result,
		})
	}
	return chart.Section{Heading: "Fill jobs", Table: table}, nil
}
