// Package plan makes execution plans: which ops of which configuration of a
// fill job run in which bubble of a device's cycle (the Fill Job Execution Plan
// Algorithm of arXiv 2410.07192, and forms that beat it). It is pure: profiles
// and cycles in, plans out. It owns the file formats of fill profile, bubble
// cycle and plan (JSON, version 1).
//
// DecodeProfile, DecodeCycle and Decode read the files; Single is the exact best
// single configuration; Make the best of all forms. An error says which limit is
// in the way and by how much: its code is pipefill.CodeConflict, and a *Limit is
// in its chain.
//
// What fits: a chunk of ops of one configuration runs in a bubble if swapping
// in, its ops and swapping out take no longer than the bubble, and resident_bytes
// and the largest peak_bytes no more than is free in it. A configuration that is
// not swapped (swap_in_ns and swap_out_ns are 0) stays on the device between
// bubbles, and must fit into what is always free.
package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
)

// Version is that of each of the three formats.
const Version = 1

// Chunk is ops of one job that run in one bubble.
type Chunk struct {
	Cycle     int    `json:"cycle"`  // of the plan's period, from 0
	Bubble    int    `json:"bubble"` // the index by which it is announced
	Device    int    `json:"device"` // of a gang's devices, in their order; else 0
	Job       string `json:"job"`    // its name, as in Plan.Jobs
	Config    int    `json:"config"` // index into the job's configs
	FirstOp   int    `json:"first_op"`
	OpCount   int    `json:"op_count"`   // counted on through repeated passes, modulo their number
	TimeNs    int64  `json:"time_ns"`    // with swapping
	PeakBytes int64  `json:"peak_bytes"` // with what is resident
}

// MainOffload is state of the main job that leaves the device at the begin of
// one bubble and is back at the end of the same or a later one of the cycle.
type MainOffload struct {
	Name      string `json:"name"`
	Bytes     int64  `json:"bytes"`
	OutBubble int    `json:"out_bubble"`
	InBubble  int    `json:"in_bubble"`
}

// Plan is what runs over a period of cycles, again and again. Every pass that
// begins within the period ends within it or goes on in the next one.
type Plan struct {
	Version          int           `json:"version"`
	SamplesPerCycle  float64       `json:"samples_per_cycle"`
	SamplesPerSecond float64       `json:"samples_per_second"`
	PeriodCycles     int           `json:"period_cycles"`
	Jobs             []string      `json:"jobs"`
	MainOffload      []MainOffload `json:"main_offload,omitempty"`
	Chunks           []Chunk       `json:"chunks"` // by cycle, then as they run
}

// Encode writes the plan's file.
func (p Plan) Encode(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(p); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return nil
}

// Decode reads a plan's file; name is the file's, for messages. Its errors are
// pipefill.CodeInvalid and name line, place, value and rule. Whether it fits a
// cycle and profiles is not looked at.
func Decode(r io.Reader, name string) (Plan, error) {
	d, root, err := parse(r, name, "a plan")
	if err != nil {
		return Plan{}, err
	}
	d.version(root)
	o := d.object(root, "the plan", []string{"version", "samples_per_cycle", "samples_per_second", "period_cycles", "jobs", "chunks"}, []string{"main_offload"})
	p := Plan{
		Version: Version, SamplesPerCycle: d.number(o["samples_per_cycle"], "samples_per_cycle"),
		SamplesPerSecond: d.number(o["samples_per_second"], "samples_per_second"),
		PeriodCycles:     int(d.whole(o["period_cycles"], "period_cycles", 1, math.MaxInt32)),
	}
	for i, n := range d.list(o["jobs"], "jobs") {
		p.Jobs = append(p.Jobs, d.word(n, fmt.Sprintf("jobs[%d]", i), nil))
	}
	for i, n := range d.list(o["chunks"], "chunks") {
		p.Chunks = append(p.Chunks, d.chunk(n, fmt.Sprintf("chunks[%d]", i), &p))
	}
	if n := o["main_offload"]; n != nil {
		for i, n := range d.list(n, "main_offload") {
			p.MainOffload = append(p.MainOffload, d.away(n, fmt.Sprintf("main_offload[%d]", i)))
		}
	}
	return p, d.err
}

func (d *decoder) chunk(n *node, where string, p *Plan) Chunk {
	f := d.object(n, where, []string{"cycle", "bubble", "device", "job", "config", "first_op", "op_count", "time_ns", "peak_bytes"}, nil)
	index := func(key string) int { return int(d.whole(f[key], where+"."+key, 0, math.MaxInt32)) }
	k := Chunk{
		Cycle: index("cycle"), Bubble: index("bubble"), Device: index("device"), Job: d.word(f["job"], where+".job", nil),
		Config: index("config"), FirstOp: index("first_op"), OpCount: int(d.whole(f["op_count"], where+".op_count", 1, most)),
		TimeNs: d.whole(f["time_ns"], where+".time_ns", 0, most), PeakBytes: d.whole(f["peak_bytes"], where+".peak_bytes", 0, most),
	}
	if d.err == nil && k.Cycle >= p.PeriodCycles {
		d.fail(f["cycle"], "%s.cycle is %d: it must be below period_cycles, %d", where, k.Cycle, p.PeriodCycles)
	}
	if d.err == nil && !slices.Contains(p.Jobs, k.Job) {
		d.fail(f["job"], "%s.job is %q, which is none of jobs", where, short(k.Job))
	}
	return k
}

func (d *decoder) away(n *node, where string) MainOffload {
	f := d.object(n, where, []string{"name", "bytes", "out_bubble", "in_bubble"}, nil)
	return MainOffload{
		Name: d.word(f["name"], where+".name", nil), Bytes: d.whole(f["bytes"], where+".bytes", 0, most),
		OutBubble: int(d.whole(f["out_bubble"], where+".out_bubble", 0, math.MaxInt32)), InBubble: int(d.whole(f["in_bubble"], where+".in_bubble", 0, math.MaxInt32)),
	}
}
