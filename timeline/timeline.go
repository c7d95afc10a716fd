// Package timeline draws a main job's devices over time: what each stage did and
// waited for, when its gate was open, and what ran in it, in the JSON of
// Chrome's trace viewer and Perfetto (ui.perfetto.dev).
//
// A timeline comes from the recordings of pipefilld, or from raw traces
// (docs/traces.md), which say the same in more words; reading those is all that
// is not pure here.
package timeline

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
)

// Span is one stretch of a track, in ns of one clock.
type Span struct {
	Name    string
	BeginNs int64
	EndNs   int64
	Args    map[string]any
}

// Device is one device of a main job: its tracks, whose spans lie side by side or
// one within the other.
type Device struct {
	ID    string // "cpu:0"
	Name  string // "stage 0, cpu:0"; the ID where no stage is known
	Stage int    // by which devices are sorted
	Marks []Span // iterations
	Main  []Span // forward, backward, and the other instructions; compute, where nobody said which; within an evaluation, what it runs
	Waits []Span // by kind
	Gate  []Span // open, until the bubble's end or its deadline
	Fill  []Span // let run, until the gate was shut
	Late  []Span // what ran after that
}

// Timeline is a main job's devices on one clock.
type Timeline struct{ Devices []Device }

// IDs are the devices, in the order of their stages.
func (t Timeline) IDs() []string {
	var ids []string
	for _, d := range t.Devices {
		ids = append(ids, d.ID)
	}
	return ids
}

// track is a thread of the viewer.
type track struct {
	name  string
	spans []Span
}

func (d Device) tracks() []track {
	return []track{{"iterations", d.Marks}, {"main job", d.Main}, {"waits", d.Waits}, {"gate", d.Gate}, {"fill jobs", d.Fill}, {"overruns", d.Late}}
}

// Bounds is from when to when there is anything; false of an empty one.
func (t Timeline) Bounds() (beginNs, endNs int64, ok bool) {
	beginNs, endNs = math.MaxInt64, math.MinInt64
	for _, d := range t.Devices {
		for _, track := range d.tracks() {
			for _, s := range track.spans {
				beginNs, endNs, ok = min(beginNs, s.BeginNs), max(endNs, s.EndNs), true
			}
		}
	}
	return beginNs, endNs, ok
}

// Clip leaves what lies within [beginNs, endNs), whole spans only.
func (t Timeline) Clip(beginNs, endNs int64) Timeline {
	keep := func(spans []Span) []Span {
		return slices.DeleteFunc(slices.Clone(spans), func(s Span) bool { return s.BeginNs < beginNs || s.EndNs > endNs })
	}
	out := Timeline{}
	for _, d := range t.Devices {
		d.Marks, d.Main, d.Waits, d.Gate, d.Fill, d.Late = keep(d.Marks), keep(d.Main), keep(d.Waits), keep(d.Gate), keep(d.Fill), keep(d.Late)
		out.Devices = append(out.Devices, d)
	}
	return out
}

// event is a line of the trace event format.
type event struct {
	Name string         `json:"name"`
	Ph   string         `json:"ph"`
	Pid  int            `json:"pid"`
	Tid  int            `json:"tid"`
	Ts   float64        `json:"ts"` // µs
	Dur  *float64       `json:"dur,omitempty"`
	Args map[string]any `json:"args,omitempty"`
}

// WriteJSON writes trace events: a process for each device, a thread for each
// track, times from the timeline's beginning.
func (t Timeline) WriteJSON(w io.Writer) error {
	out := bufio.NewWriter(w)
	begin, _, _ := t.Bounds()
	first := true
	write := func(e event) error {
		data, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write timeline: %w", err)
		}
		lead := ",\n"
		if first {
			lead, first = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n", false
		}
		_, err = out.WriteString(lead + string(data))
		return err
	}
	for i, d := range t.Devices {
		if err := d.write(i+1, begin, write); err != nil {
			return err
		}
	}
	if first {
		_, _ = out.WriteString("{\"traceEvents\": [")
	}
	_, _ = out.WriteString("\n]}\n")
	return out.Flush()
}

func (d Device) write(pid int, beginNs int64, write func(event) error) error {
	meta := func(what string, tid int, args map[string]any) error {
		return write(event{Name: what, Ph: "M", Pid: pid, Tid: tid, Args: args})
	}
	if err := meta("process_name", 0, map[string]any{"name": d.Name}); err != nil {
		return err
	}
	if err := meta("process_sort_index", 0, map[string]any{"sort_index": d.Stage}); err != nil {
		return err
	}
	for tid, track := range d.tracks() {
		if err := meta("thread_name", tid+1, map[string]any{"name": track.name}); err != nil {
			return err
		}
		for _, s := range track.spans {
			dur := float64(s.EndNs-s.BeginNs) / 1e3
			if err := write(event{Name: s.Name, Ph: "X", Pid: pid, Tid: tid + 1, Ts: float64(s.BeginNs-beginNs) / 1e3, Dur: &dur, Args: s.Args}); err != nil {
				return err
			}
		}
	}
	return nil
}
