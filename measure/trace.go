package measure

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pipefill"
)

// Flags of an event, PF_EVENT_* of spank/page.h.
const (
	flagOffered   = 1
	flagControl   = 2
	flagIteration = 8
)

// Wait is one stretch in which a rank waited in a receive or the flush.
type Wait struct {
	Interval
	Iteration int64
	Kind      string
}

// Rank is what one rank of the main job traced.
type Rank struct {
	Rank       int
	Device     string
	Waits      []Wait
	Iterations map[int64]Interval
	OtherNs    map[int64]int64 // of an iteration: phases that are never offered, where they are known
}

// Event is one record that the node daemon drained from a main page's ring.
type Event struct {
	Iteration  int64  `json:"iteration"`
	Index      int    `json:"index"`
	Kind       string `json:"kind"`
	BeginNs    int64  `json:"begin_ns"`
	EndNs      int64  `json:"end_ns"`
	DeadlineNs int64  `json:"deadline_ns"`
	Flags      uint32 `json:"flags"`
}

// Fill is what a supervisor traced of one assignment.
type Fill struct {
	Assignment int64
	Job        int64
	Device     string
	Mode       string
	Readings   []Reading
	OpenToRun  []int64 // ns, one an opening
}

// Traces are all raw traces of a run (docs/traces.md).
type Traces struct {
	Ranks  []Rank
	Events map[string][]Event // by device
	Fills  []Fill
}

// ReadTraces reads the traces of one run below dirs.
func ReadTraces(dirs ...string) (Traces, error) {
	traces := Traces{Events: map[string][]Event{}}
	for _, dir := range dirs {
		if err := traces.readBelow(dir); err != nil {
			return traces, err
		}
	}
	if len(traces.Ranks) == 0 {
		return traces, fmt.Errorf("%s: no rank-*.jsonl: the main job wrote no trace", strings.Join(dirs, ", "))
	}
	return traces, nil
}

// ReadAnnounced reads the traces of a run whose main job wrote none itself: what
// it announced stands in for what it waited. devices are in the order of ranks.
func ReadAnnounced(dir string, devices []string) (Traces, error) {
	traces := Traces{Events: map[string][]Event{}}
	if err := traces.readBelow(dir); err != nil {
		return traces, err
	}
	return Announced(traces.Events, traces.Fills, devices)
}

// Announced is a run as its main job announced it. devices are in the order of
// ranks.
func Announced(events map[string][]Event, fills []Fill, devices []string) (Traces, error) {
	traces := Traces{Events: events, Fills: fills}
	for _, device := range devices {
		rank := Rank{Rank: len(traces.Ranks), Device: device, Iterations: map[int64]Interval{}, OtherNs: map[int64]int64{}}
		for _, e := range traces.Events[device] {
			span := Interval{e.BeginNs, e.EndNs}
			switch {
			case e.Flags&flagIteration != 0:
				rank.Iterations[e.Iteration] = span
			case e.Kind == pipefill.BubbleOther.String():
				rank.OtherNs[e.Iteration] += e.EndNs - e.BeginNs
			case offeredKinds[e.Kind]:
				rank.Waits = append(rank.Waits, Wait{Interval: span, Iteration: e.Iteration, Kind: e.Kind})
			}
		}
		if len(rank.Iterations) > 0 {
			traces.Ranks = append(traces.Ranks, rank)
		}
	}
	if len(traces.Ranks) == 0 {
		return traces, pipefill.Errorf(pipefill.CodeNotFound, "the main job announced no iteration: "+
			"let its program import an engine that pipefill knows, or call pf_iteration and pf_bubble_begin itself")
	}
	return traces, nil
}

var offeredKinds = map[string]bool{
	pipefill.BubbleFillDrain.String(): true, pipefill.BubbleFwdBwd.String(): true, pipefill.BubbleSteady.String(): true,
}

func (traces *Traces) readBelow(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		stem, found := strings.CutSuffix(entry.Name(), ".jsonl")
		if !found {
			return nil
		}
		kind, rest, _ := strings.Cut(stem, "-")
		switch kind {
		case "rank":
			rank, err := readRank(path)
			traces.Ranks = append(traces.Ranks, rank)
			return err
		case "events":
			events, err := readLines[Event](path)
			traces.Events[rest] = append(traces.Events[rest], events...)
			return err
		case "readings":
			fill, err := readFill(path)
			traces.Fills = append(traces.Fills, fill)
			return err
		}
		return nil
	})
}

func readRank(path string) (Rank, error) {
	type record struct {
		Type      string `json:"type"`
		Rank      int    `json:"rank"`
		Device    string `json:"device"`
		Iteration int64  `json:"iteration"`
		Kind      string `json:"kind"`
		BeginNs   int64  `json:"begin_ns"`
		EndNs     int64  `json:"end_ns"`
	}
	records, err := readLines[record](path)
	if err != nil {
		return Rank{}, err
	}
	rank := Rank{Rank: -1, Iterations: map[int64]Interval{}}
	for _, r := range records {
		span := Interval{r.BeginNs, r.EndNs}
		switch r.Type {
		case "run":
			rank.Rank, rank.Device = r.Rank, r.Device
		case "iteration":
			rank.Iterations[r.Iteration] = span
		case "wait":
			rank.Waits = append(rank.Waits, Wait{Interval: span, Iteration: r.Iteration, Kind: r.Kind})
		}
	}
	if rank.Rank < 0 {
		return rank, fmt.Errorf("%s: no run record", path)
	}
	return rank, nil
}

// readFill reads one assignment's readings, and its openings beside them.
func readFill(path string) (Fill, error) {
	type reading struct {
		Assignment int64  `json:"assignment"` // each supervisor writes who it is first
		Job        int64  `json:"job"`
		Device     string `json:"device"`
		Mode       string `json:"mode"`
		AtNs       int64  `json:"at_ns"`
		CPUNs      int64  `json:"cpu_ns"`
	}
	type opening struct {
		OpenNs int64 `json:"open_ns"`
		RunNs  int64 `json:"run_ns"`
	}
	var fill Fill
	readings, err := readLines[reading](path)
	if err != nil {
		return fill, err
	}
	for _, r := range readings {
		if r.Assignment != 0 {
			fill.Assignment, fill.Job, fill.Device, fill.Mode = r.Assignment, r.Job, r.Device, r.Mode
			continue
		}
		fill.Readings = append(fill.Readings, Reading{AtNs: r.AtNs, CPUNs: r.CPUNs})
	}
	if fill.Device == "" {
		return fill, fmt.Errorf("%s: no line says whose it is", path)
	}
	opens, err := readLines[opening](filepath.Join(filepath.Dir(path), fmt.Sprintf("opens-%d.jsonl", fill.Assignment)))
	for _, o := range opens {
		fill.OpenToRun = append(fill.OpenToRun, o.RunNs-o.OpenNs)
	}
	return fill, err
}

func readLines[T any](path string) (records []T, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	scanner := bufio.NewScanner(file)
	for number := 1; scanner.Scan(); number++ {
		var record T
		if err := json.Unmarshal(scanner.Bytes(), &record); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		records = append(records, record)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return records, nil
}
