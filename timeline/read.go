package timeline

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pipefill"
)

// PF_EVENT_* of spank/page.h.
const (
	flagOffered   = 1
	flagControl   = 2
	flagIteration = 8
	flagWork      = 16
)

// record is any line of any raw trace.
type record struct {
	Type       string             `json:"type"`
	Rank       int                `json:"rank"`
	Device     string             `json:"device"`
	Others     pipefill.DeviceSet `json:"others"`
	Op         string             `json:"op"`
	MicroBatch int                `json:"micro_batch"`
	Iteration  int64              `json:"iteration"`
	Kind       string             `json:"kind"`
	BeginNs    int64              `json:"begin_ns"`
	EndNs      int64              `json:"end_ns"`
	DeadlineNs int64              `json:"deadline_ns"`
	Flags      uint32             `json:"flags"`
	Assignment int64              `json:"assignment"`
	Job        int64              `json:"job"`
	Mode       string             `json:"mode"`
	AtNs       int64              `json:"at_ns"`
	CPUNs      int64              `json:"cpu_ns"`
	Open       bool               `json:"open"`
}

// chunk is one opening in which a fill job was let run.
type chunk struct {
	what                   string
	beginNs, shutNs, endNs int64
	cpuNs, lateNs          int64
	overrun                bool
}

// reader collects what the files say of each device.
type reader struct {
	devices map[string]*Device
	own     map[string]bool // devices whose rank traced its waits itself
}

// Read reads the raw traces of one run below dirs. Waits are the ranks' own
// where they wrote any, else those announced.
func Read(dirs ...string) (Timeline, error) {
	r := reader{devices: map[string]*Device{}, own: map[string]bool{}}
	// Ranks first: they tell which device is which stage.
	for _, prefix := range []string{"rank-", "events-", "readings-"} {
		for _, dir := range dirs {
			if err := r.below(dir, prefix); err != nil {
				return Timeline{}, err
			}
		}
	}
	t := r.timeline()
	if _, _, ok := t.Bounds(); !ok {
		return t, pipefill.Errorf(pipefill.CodeNotFound, "%s: no raw traces: write some with trace_dir: in pipefilld.yaml (traces.md)", strings.Join(dirs, ", "))
	}
	return t, nil
}

// timeline is what was collected, in order.
func (r *reader) timeline() Timeline {
	var t Timeline
	for _, d := range r.devices {
		for _, spans := range []*[]Span{&d.Marks, &d.Main, &d.Waits, &d.Gate, &d.Fill, &d.Late} {
			sortSpans(*spans)
		}
		if !slices.ContainsFunc(d.Main, func(s Span) bool { return !isPhase(s.Name) }) {
			d.Main = append(between(d.Marks, d.Waits), d.Main...)
			sortSpans(d.Main)
		}
		t.Devices = append(t.Devices, *d)
	}
	slices.SortFunc(t.Devices, func(a, b Device) int { return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Name, b.Name)) })
	return t
}

// sortSpans puts what lies within another span behind it.
func sortSpans(spans []Span) {
	slices.SortStableFunc(spans, func(a, b Span) int { return cmp.Or(cmp.Compare(a.BeginNs, b.BeginNs), cmp.Compare(b.EndNs, a.EndNs)) })
}

// isPhase tells whether a span is a whole phase, as enum pf_work names them.
func isPhase(name string) bool { return name == "evaluation" || name == "checkpoint" }

// between is what a device computed, where nobody said what that was: its
// iterations less its waits. Both are in order.
func between(marks, waits []Span) []Span {
	var all []Span
	add := func(m Span, beginNs, endNs int64) {
		if beginNs < endNs {
			all = append(all, Span{"compute", beginNs, endNs, map[string]any{"iteration": m.Args["iteration"]}})
		}
	}
	i := 0
	for _, m := range marks {
		at := m.BeginNs
		for ; i < len(waits) && waits[i].BeginNs < m.EndNs; i++ {
			add(m, at, min(waits[i].BeginNs, m.EndNs))
			at = max(at, waits[i].EndNs)
			if waits[i].EndNs > m.EndNs {
				break // it wraps around the mark
			}
		}
		add(m, at, m.EndNs)
	}
	return all
}

func (r *reader) below(dir, prefix string) error {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasPrefix(entry.Name(), prefix) || !strings.HasSuffix(entry.Name(), ".jsonl") {
			return err
		}
		records, err := readRecords(path)
		if err != nil {
			return err
		}
		switch prefix {
		case "rank-":
			return r.rank(path, records)
		case "events-":
			r.events(strings.TrimSuffix(strings.TrimPrefix(entry.Name(), prefix), ".jsonl"), records)
		case "readings-":
			r.readings(records)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return pipefill.Errorf(pipefill.CodeNotFound, "read traces: %w", err)
	}
	return err
}

// readRecords reads lines of JSON. The last may be cut short: a run that is
// being written, or was killed.
func readRecords(path string) ([]record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	var records []record
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 1<<20)
	for number := 1; scanner.Scan(); number++ {
		var rec record
		if err := json.Unmarshal(scanner.Bytes(), &rec); err != nil {
			if data[len(data)-1] != '\n' && bytes.HasSuffix(data, scanner.Bytes()) {
				break
			}
			return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s:%d: %w: it is no raw trace", path, number, err)
		}
		records = append(records, rec)
	}
	if err := scanner.Err(); err != nil {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s: %w: it is no raw trace", path, err)
	}
	return records, nil
}

func (r *reader) device(id string) *Device {
	if r.devices[id] == nil {
		r.devices[id] = &Device{ID: id, Name: id, Stage: len(r.devices)}
	}
	return r.devices[id]
}

func (r *reader) rank(path string, records []record) error {
	if len(records) == 0 || records[0].Type != "run" {
		return pipefill.Errorf(pipefill.CodeInvalid, "%s: its first line is not of type run: it is no rank's trace", path)
	}
	d := r.device(records[0].Device)
	d.Stage, d.Name = records[0].Rank, fmt.Sprintf("stage %d, %s", records[0].Rank, records[0].Device)
	r.own[records[0].Device] = true
	for _, rec := range records[1:] {
		args := map[string]any{"iteration": rec.Iteration}
		switch rec.Type {
		case "instruction":
			// Receives are the waits' track.
			if strings.HasPrefix(rec.Op, "recv_") {
				continue
			}
			if rec.MicroBatch >= 0 {
				args["micro_batch"] = rec.MicroBatch
			}
			d.Main = append(d.Main, Span{rec.Op, rec.BeginNs, rec.EndNs, args})
		case "wait":
			d.Waits = append(d.Waits, Span{rec.Kind, rec.BeginNs, rec.EndNs, args})
		case "iteration":
			d.Marks = append(d.Marks, Span{fmt.Sprintf("iteration %d", rec.Iteration), rec.BeginNs, rec.EndNs, args})
		}
	}
	return nil
}

func (r *reader) events(device string, records []record) {
	d := r.device(device)
	for i := range records {
		d.event(&records[i], r.own[device])
	}
}

// event takes in what a main job announced; own: its waits are known better.
func (d *Device) event(rec *record, own bool) {
	args := map[string]any{"iteration": rec.Iteration}
	if rec.Flags&flagControl != 0 {
		args["control"] = true
	}
	switch {
	case rec.Flags&flagIteration != 0:
		if own {
			return
		}
		d.Marks = append(d.Marks, Span{fmt.Sprintf("iteration %d", rec.Iteration), rec.BeginNs, rec.EndNs, args})
		return
	case rec.Flags&flagWork != 0:
		if rec.MicroBatch >= 0 {
			args["micro_batch"] = rec.MicroBatch
		}
		d.Main = append(d.Main, Span{rec.Kind, rec.BeginNs, rec.EndNs, args})
		return
	}
	if !own {
		d.Waits = append(d.Waits, Span{rec.Kind, rec.BeginNs, rec.EndNs, args})
	}
	if rec.Flags&flagOffered != 0 {
		d.Gate = append(d.Gate, Span{"open", rec.BeginNs, max(rec.BeginNs, min(rec.EndNs, rec.DeadlineNs)), args})
	}
}

// leastLateNs is the stop itself (overrunLeast in executor/runner.go).
const leastLateNs = 100_000

// ran takes in a chunk. What ran after the gate was shut is a span of its own;
// that it took longer until a stop was seen, on a core that the main job had
// taken back, is told and not drawn: nothing ran.
func (d *Device) ran(c chunk) {
	shutNs := max(c.beginNs, min(c.shutNs, c.endNs))
	args := map[string]any{"cpu_ms": float64(c.cpuNs) / 1e6}
	if c.endNs > shutNs {
		args["stopped_after_ms"] = float64(c.endNs-shutNs) / 1e6
	}
	d.Fill = append(d.Fill, Span{c.what, c.beginNs, shutNs, args})
	if lateNs := min(c.lateNs, c.endNs-shutNs); lateNs > leastLateNs {
		name := "ran late"
		if c.overrun {
			name = "overrun"
		}
		d.Late = append(d.Late, Span{name, shutNs, shutNs + lateNs, map[string]any{"job": c.what}})
	}
}

// readings pairs a fill job's being let run with its being verified stopped:
// the last reading before the next opening. The first of them is when the gate
// was shut.
func (r *reader) readings(records []record) {
	var devices []*Device // of a gang several, which run as one
	var name string
	var open, shut, last *record
	cores := false
	end := func() {
		if open != nil && last != nil {
			c := chunk{what: name, beginNs: open.AtNs, shutNs: shut.AtNs, endNs: last.AtNs, cpuNs: shut.CPUNs - open.CPUNs, lateNs: last.AtNs - shut.AtNs}
			if cores {
				c.lateNs = last.CPUNs - shut.CPUNs
			}
			for _, d := range devices {
				d.ran(c)
			}
		}
		open, shut, last = nil, nil, nil
	}
	for i := range records {
		rec := &records[i]
		switch {
		case rec.Assignment != 0: // another supervisor goes on
			end()
			devices, name = []*Device{r.device(rec.Device)}, fmt.Sprintf("job %d, %s", rec.Job, rec.Mode)
			for _, other := range rec.Others.List() {
				devices = append(devices, r.device(string(other)))
			}
			cores = pipefill.DeviceID(rec.Device).Kind() == pipefill.KindCPU
		case rec.Open:
			end()
			open = rec
		case open != nil:
			if shut == nil {
				shut = rec
			}
			last = rec
		}
	}
	end()
}
