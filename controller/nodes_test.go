package controller

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
)

// A cycle that a node leaves out is the one that it sent before, in the same run
// and of the same main job; else the node is asked for all.
func TestSync_KeepsCycles(t *testing.T) {
	w := newWorld(t, 1, 1)
	key := pipefill.JobKey{Cluster: "test", JobID: 7, SubmitMs: 1}
	cycle := pipefill.BubbleCycle{Version: 1, IterationNs: 1e9, Bubbles: []pipefill.Bubble{{DurationNs: 4e8, FreeBytes: 3 << 30}}}
	seq := int64(0)
	sync := func(run int64, job pipefill.JobKey, kept bool) api.NodeOrders {
		t.Helper()
		seq++
		m := api.MainDevice{Job: job, Device: "cpu:0", Enabled: true, CycleKept: kept}
		if !kept {
			m.Cycle = cycle
		}
		orders, err := w.ctl.Sync(t.Context(), api.NodeSync{Node: "n9", Run: run, Seq: seq, OrdersSeen: 5, Mains: []api.MainDevice{m}})
		if err != nil {
			t.Fatal(err)
		}
		return orders
	}
	slot := func() (share float64, free int64) {
		t.Helper()
		for _, s := range w.ctl.slotsOn("n9") {
			return s.Share, s.FreeBytes
		}
		return 0, 0
	}
	if o := sync(1, key, true); !o.Whole || o.Serial != 5 || len(w.ctl.slotsOn("n9")) != 0 {
		t.Errorf("a cycle that was never sent: %+v", o)
	}
	for _, kept := range []bool{false, true, true} {
		if o := sync(1, key, kept); o.Whole {
			t.Errorf("kept %v: %+v", kept, o)
		}
		if share, free := slot(); share != 0.4 || free != 3<<30 {
			t.Errorf("kept %v: share %v, %d bytes free", kept, share, free)
		}
	}
	if o := sync(2, key, true); !o.Whole {
		t.Error("another run of the daemon has not sent it")
	}
	other := key
	other.JobID++
	if o := sync(1, other, true); !o.Whole {
		t.Error("another main job's was not sent")
	}
}

// What pipefilld sent before cycles could be left out is taken as ever; what a later
// one may send that is not known here is refused by name, with the release that does
// not know it, so that it is plain which of the two is to be upgraded.
func TestSync_OfOtherReleases(t *testing.T) {
	d := newDesk(t)
	old, err := os.ReadFile("testdata/sync-before-kept.json")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w := d.ask(0, http.MethodPost, syncPath, string(old))
		var orders api.NodeOrders
		if err := json.Unmarshal(w.Body.Bytes(), &orders); err != nil || w.Code != http.StatusOK || orders.Whole || w.Header().Get(api.VersionHeader) != "1" {
			t.Fatalf("%d %s, %v", w.Code, w.Body, err)
		}
		if slots := d.world.ctl.slotsOn("n9"); len(slots) != 1 || slots[0].Share != 0.5 {
			t.Errorf("its slots: %+v", slots)
		}
	}
	later := strings.Replace(string(old), `"enabled"`, `"enabled_by": "the future", "enabled"`, 1)
	w := d.ask(0, http.MethodPost, syncPath, later)
	var failure api.Failure
	if err := json.Unmarshal(w.Body.Bytes(), &failure); err != nil || w.Code != http.StatusBadRequest || failure.Code != pipefill.CodeInvalid ||
		!strings.Contains(failure.Message, "enabled_by") || !strings.Contains(failure.Message, pipefill.Version()) {
		t.Errorf("%d %s, %v", w.Code, w.Body, err)
	}
}

// Holds end together, and none after its time.
func TestHoldFor(t *testing.T) {
	at := time.Unix(1000, 0).Add(150 * time.Millisecond)
	for waitMs, want := range map[int64]time.Duration{
		-1: 0, 0: 0, 30: 30 * time.Millisecond, 50: 50 * time.Millisecond, 100: 50 * time.Millisecond, 5000: 4850 * time.Millisecond, 5050: 5050 * time.Millisecond,
		1e6: 59_850 * time.Millisecond,
	} {
		if got := holdFor(at, waitMs); got != want {
			t.Errorf("a wait of %d ms: held for %s, want %s", waitMs, got, want)
		}
	}
}

// Usage is counted by the end of a sync's wait, however short, and by the time that
// an end is heard; what an answer that nobody read would have told, the next does.
func TestSync_CountsUsage(t *testing.T) {
	w := newWorld(t, 1, 1)
	record := func(seq int64) pipefill.Usage {
		return pipefill.Usage{Ledger: "l", Seq: seq, AssignmentID: 4711, FromMs: 1, ToMs: 2, DeviceNs: 1}
	}
	sync := func(waitMs int64, records ...pipefill.Usage) api.NodeOrders {
		t.Helper()
		orders, err := w.ctl.Sync(t.Context(), api.NodeSync{Node: "n9", WaitMs: waitMs, OrdersSeen: -1, Usage: records})
		if err != nil {
			t.Fatal(err)
		}
		return orders
	}
	first := sync(0)
	seen := first.Serial
	hold := func(waitMs int64, records ...pipefill.Usage) api.NodeOrders {
		t.Helper()
		orders, err := w.ctl.Sync(t.Context(), api.NodeSync{Node: "n9", WaitMs: waitMs, OrdersSeen: seen, Usage: records})
		if err != nil {
			t.Fatal(err)
		}
		return orders
	}
	if o := hold(1, record(1), record(2)); o.UsageAck["l"] != 2 {
		t.Errorf("a sync that hardly waits: %v", o.UsageAck)
	}
	if o := hold(1500, record(3)); o.UsageAck["l"] != 3 {
		t.Errorf("one that is counted with others: %v", o.UsageAck)
	}
	begin := time.Now()
	if o := sync(60_000, record(4)); o.UsageAck["l"] > 3 || time.Since(begin) > 10*time.Second {
		t.Errorf("there is news, and nothing waits for the count: %v", o.UsageAck)
	}
	<-w.ctl.counted["n9"].Done()
	if o := sync(60_000, record(4), record(5)); o.UsageAck["l"] != 4 {
		t.Errorf("what was counted meanwhile: %v", o.UsageAck)
	}
}
