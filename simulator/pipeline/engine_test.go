package pipeline

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// record is a line of a rank's trace (docs/traces.md).
type record struct {
	Type       string `json:"type"`
	Op         string `json:"op"`
	Iteration  int64  `json:"iteration"`
	MicroBatch int    `json:"micro_batch"`
	BeginNs    int64  `json:"begin_ns"`
	EndNs      int64  `json:"end_ns"`
	TransferNs int64  `json:"transfer_ns"`
}

// iteration is what a rank did in one: how long each operation took with its
// sending, and how long it waited.
type iteration struct {
	firstNs int64 // its first operation began
	lasts   map[operation]int64
	waitNs  int64
}

func readTrace(t *testing.T, path string) (its map[int64]*iteration, transferNs int64) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	its = map[int64]*iteration{}
	works := map[string]work{"forward": forward, "send_activation": forward, "backward": backward, "send_gradient": backward}
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		var r record
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Type == "run" {
			transferNs = r.TransferNs
			continue
		}
		it := its[r.Iteration]
		if it == nil {
			it = &iteration{firstNs: math.MaxInt64, lasts: map[operation]int64{}}
			its[r.Iteration] = it
		}
		switch r.Type {
		case "wait":
			it.waitNs += r.EndNs - r.BeginNs
			it.firstNs = min(it.firstNs, r.BeginNs)
		case "instruction":
			it.firstNs = min(it.firstNs, r.BeginNs)
			if w, ok := works[r.Op]; ok {
				it.lasts[operation{w, 0, r.MicroBatch}] += r.EndNs - r.BeginNs
			}
		}
	}
	return its, transferNs
}

// The event graph, given how long each operation took in the instrumented engine,
// waits as long as the engine did: two stages on two cores of a virtual machine
// that had much else to do, so that operations differ by much.
func TestUnroll_AsTheEngineRan(t *testing.T) {
	for _, schedule := range []Schedule{OneFOneB, GPipe} {
		var ranks [2]map[int64]*iteration
		var transferNs int64
		for s := range ranks {
			ranks[s], transferNs = readTrace(t, filepath.Join("testdata", "engine-"+string(schedule), fmt.Sprintf("rank-%d.jsonl", s)))
		}
		var ours, engines [2]float64
		count := 0
		for number := range ranks[0] {
			if len(ranks[0][number].lasts) != 8 || ranks[1][number] == nil || len(ranks[1][number].lasts) != 8 {
				continue // cut off
			}
			count++
			m := Uniform(schedule, 2, 4, 1, 1, 1, 0)
			m.TransferNs = transferNs
			r := newRunner(m)
			r.exact = func(s int, op operation) int64 { return ranks[s][number].lasts[op] }
			for s := range r.freeNs {
				r.freeNs[s] = ranks[s][number].firstNs - ranks[0][number].firstNs
			}
			waits, err := r.iteration()
			if err != nil {
				t.Fatal(err)
			}
			for s, list := range waits {
				for _, w := range list {
					ours[s] += float64(w.lengthNs)
				}
				engines[s] += float64(ranks[s][number].waitNs)
			}
		}
		if count < 8 {
			t.Fatalf("%s: %d whole iterations", schedule, count)
		}
		for s := range ours {
			t.Logf("%s: stage %d waits %.1f ms an iteration, in the engine %.1f", schedule, s, ours[s]/float64(count)/1e6, engines[s]/float64(count)/1e6)
			if math.Abs(ours[s]/engines[s]-1) > 0.02 {
				t.Errorf("%s: stage %d waits %.1f ms an iteration, in the engine %.1f", schedule, s, ours[s]/float64(count)/1e6, engines[s]/float64(count)/1e6)
			}
		}
	}
}
