package controller

import (
	"testing"

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
