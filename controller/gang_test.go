package controller

import (
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/schedule"
	"pipefill/controller/slurm"
)

func TestMirror_DevicesOf(t *testing.T) {
	for _, tc := range []struct {
		gpus, options string
		want          int
	}{
		{"", "", 1},
		{"gres:gpu", "", 1},
		{"gres:gpu:2", "", 2},
		{"gres/gpu:4", "", 4},
		{"gres/gpu=4", "", 4},
		{"gres:gpu:a100", "", 1},
		{"gres:gpu:a100:3", "", 3},
		{"gres:gpu:2,gres:gpu:4", "", 4}, // --gpus and --gpus-per-node
		{"gres:gpu:0", "", 1},
		{"gres:gpu:99999999999999999999", "", 1 << 20},
		{"gres:gpu:4", "fill,devices=2", 2},
		{"", "fill,mode=chunked,devices=2", 2},
		{"", "fill,devices=-2", 1},
		{"", "fill,devices=many", 1},
	} {
		if got := devicesOf(slurm.Job{RequestedGPUs: tc.gpus, Options: tc.options}); got != tc.want {
			t.Errorf("%q, %q: %d devices, want %d", tc.gpus, tc.options, got, tc.want)
		}
	}
}

func TestMirror_UnfitGangs(t *testing.T) {
	for options, why := range map[string]string{
		"fill,devices=2":              "",
		"fill,devices=2,mode=chunked": "",
		"fill,devices=16":             "",
		"fill,devices=17":             "it asks for 17 devices; a fill job has 16 at most",
		"fill,devices=2,mode=launch":  "mode=launch goes with one device",
	} {
		if got := Unfit(slurm.Job{Batch: true, NodeCount: 1, Options: options}); (got == "") != (why == "") || !strings.HasPrefix(got, why) {
			t.Errorf("%s: %q, want %q", options, got, why)
		}
	}
	if got := Unfit(slurm.Job{Batch: true, NodeCount: 2, Options: "fill,devices=2"}); !strings.Contains(got, "it asks for 2 nodes; a fill job runs on devices of one node") {
		t.Error(got)
	}
}

// Tensor-parallel peers are idle together, stages of a pipeline are not.
func TestSlots_Peers(t *testing.T) {
	cycle := func(bubbles ...pipefill.Bubble) pipefill.BubbleCycle {
		return pipefill.BubbleCycle{Version: 1, IterationNs: 100e6, Bubbles: bubbles}
	}
	bubble := func(start, length int64) pipefill.Bubble {
		return pipefill.Bubble{Kind: "fill-drain", StartNs: start * 1e6, DurationNs: length * 1e6}
	}
	early, alike, late, never := cycle(bubble(10, 20)), cycle(bubble(12, 20)), cycle(bubble(29, 40)), cycle()
	wraps, wrapped := cycle(bubble(95, 20)), cycle(bubble(0, 15))
	for name, tc := range map[string]struct {
		cycles []pipefill.BubbleCycle
		want   []int
	}{
		"peers":                      {[]pipefill.BubbleCycle{early, alike}, []int{0, 0}},
		"stages":                     {[]pipefill.BubbleCycle{early, late}, []int{0, 1}},
		"two stages of two":          {[]pipefill.BubbleCycle{early, late, alike, late}, []int{0, 1, 0, 1}},
		"nothing learned":            {[]pipefill.BubbleCycle{never, never}, []int{0, 0}},
		"of one only":                {[]pipefill.BubbleCycle{early, never}, []int{0, 1}},
		"around the iteration mark":  {[]pipefill.BubbleCycle{wraps, wrapped}, []int{0, 0}},
		"cycles of different length": {[]pipefill.BubbleCycle{early, {Version: 1, IterationNs: 200e6, Bubbles: early.Bubbles}}, []int{0, 1}},
	} {
		state := api.NodeSync{Node: "n0", TakesGangs: true}
		for i, c := range tc.cycles {
			state.Mains = append(state.Mains, api.MainDevice{Device: pipefill.DeviceID("cpu:" + string(rune('0'+i))), Enabled: true, Cycle: c})
		}
		slots := slotsOf(&state, nil)
		kept := map[pipefill.DeviceID]schedule.Slot{}
		for i, want := range tc.want {
			if kept[slots[i].Device] = slots[i]; slots[i].Peers != want || slots[i].Alone || slots[i].Order != i {
				t.Errorf("%s: slot %d is %+v, want peer %d", name, i, slots[i], want)
			}
		}
		for i, slot := range slotsOf(&state, kept) { // nothing new is said
			if slot != slots[i] {
				t.Errorf("%s: slot %d has become %+v", name, i, slot)
			}
		}
		state.TakesGangs = false
		if slots := slotsOf(&state, nil); !slots[0].Alone {
			t.Errorf("%s: a node of an earlier release takes gangs", name)
		}
	}
	// Another main job is no peer, however alike.
	slots := []schedule.Slot{{Main: pipefill.JobKey{JobID: 1}}, {Main: pipefill.JobKey{JobID: 2}}}
	if peers(slots, []pipefill.BubbleCycle{early, early}); slots[0].Peers == slots[1].Peers {
		t.Error("devices of two main jobs are peers")
	}
}

// A gang waits until both devices of a node are free, gets both in one assignment,
// and gives both back; meanwhile nobody else has either.
func TestWorld_AGangHasBothDevices(t *testing.T) {
	w := newWorld(t, 3, 4)
	for _, n := range w.nodes {
		n.second = n.name == "n0"
	}
	w.jobs[101].Options = "fill,devices=2"
	w.jobs[102].Options = "fill,devices=3"
	w.violated, w.mainless = map[string]string{}, map[int64]int64{}
	var had []pipefill.DeviceID
	for range 300 {
		w.second()
		w.hold()
		for _, a := range w.store.LiveAll() {
			if a.Job.JobID == 101 {
				had = a.Devices()
				if row, err := w.ctl.Queue(t.Context(), ""); err == nil && a.Node == "n0" {
					for _, r := range row {
						if r.JobID == 101 && (r.Device != "cpu:0" || r.Others != "cpu:1" || r.Devices != 2) {
							t.Errorf("%+v", r)
						}
					}
				}
			}
		}
	}
	for invariant, how := range w.violated {
		t.Errorf("%s: %s", invariant, how)
	}
	if len(had) != 2 || w.jobs[101].completed != 1 {
		t.Errorf("the gang had %v and completed %d times", had, w.jobs[101].completed)
	}
	row, err := w.ctl.Queue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range row {
		if r.JobID == 102 && (r.State != "queued" || !strings.Contains(r.Reason, "asks for 3 devices at once; no main job has more than 2 on one node")) {
			t.Errorf("%+v", r)
		}
	}
	job, err := w.store.JobByID(t.Context(), "test", 101)
	if want := int64(w.jobs[101].workS) * 2000; err != nil || job.DeviceMs != want {
		t.Errorf("charged %d ms, want %d: %v", job.DeviceMs, want, err)
	}
}

// One device that leaves takes the gang off both.
func TestWorld_AGangLosesOneDevice(t *testing.T) {
	w := newWorld(t, 3, 1)
	n := w.nodes["n0"]
	n.second = true
	w.jobs[100].Options, w.jobs[100].workS, w.jobs[100].once, w.jobs[100].Requeue = "fill,devices=2", 1000, false, true
	for range 60 {
		if w.second(); w.jobs[100].on != "" {
			break
		}
	}
	n.gone = true
	for range 10 {
		w.second()
	}
	if j := w.jobs[100]; j.on != "" || !j.Pending() || !j.Held || len(w.store.LiveAll()) != 0 {
		t.Errorf("%+v, %d live", j, len(w.store.LiveAll()))
	}
	n.gone = false
	for range 60 {
		if w.second(); w.jobs[100].on != "" {
			return
		}
	}
	t.Error("it does not start again")
}
