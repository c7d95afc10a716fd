package schedule_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

func job(id, limitMs int64, user string) store.FillJob {
	return store.FillJob{ID: id, JobID: id, FirstMs: id, LimitMs: limitMs, User: user, Requeue: true}
}

func TestOrder(t *testing.T) {
	long, short, mid := job(1, 300, "ann"), job(2, 100, "bob"), job(3, 200, "ann")
	known := job(4, 900, "bob")
	known.ExpectMs = 10
	evicted := job(5, 999, "bob")
	evicted.Front = true
	first := job(6, 999, "ann")
	first.SitePriority = 1
	urgent := job(7, 300, "ann")
	urgent.Priority = 5
	cases := []struct {
		name   string
		policy string
		jobs   []store.FillJob
		want   []int64
	}{
		{"first come first served", "fifo", []store.FillJob{mid, short, long}, []int64{1, 2, 3}},
		{"shortest first", "sjf", []store.FillJob{long, mid, short}, []int64{2, 3, 1}},
		{"history beats the limit", "sjf", []store.FillJob{short, known}, []int64{4, 2}},
		{"evicted before its peers", "fifo", []store.FillJob{long, short, evicted}, []int64{5, 1, 2}},
		{"the operator before all", "fifo", []store.FillJob{long, evicted, first}, []int64{6, 5, 1}},
		{"a user's priority stays among the user's places", "fifo", []store.FillJob{long, short, urgent}, []int64{7, 2, 1}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var slots []schedule.Slot
			for i := range tc.jobs {
				slots = append(slots, schedule.Slot{Node: "n", Device: pipefill.DeviceID(fmt.Sprintf("cpu:%d", i))})
			}
			var got []int64
			for _, p := range schedule.Assign(schedule.Builtin()[tc.policy], 1000, tc.jobs, slots) {
				got = append(got, p.Job.JobID)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestObstacle(t *testing.T) {
	slot := schedule.Slot{FreeBytes: 100, Options: "budget=1%,allow=user:ann+account:physics"}
	ann, bob := job(1, 1, "ann"), job(2, 1, "bob")
	if o := schedule.Obstacle(ann, slot); o != "" {
		t.Errorf("ann is allowed: %q", o)
	}
	if schedule.Obstacle(bob, slot) == "" {
		t.Error("bob is not")
	}
	bob.Account = "physics"
	if o := schedule.Obstacle(bob, slot); o != "" {
		t.Errorf("bob of physics is: %q", o)
	}
	ann.MemBytes = 101
	if schedule.Obstacle(ann, slot) == "" {
		t.Error("too much memory fits")
	}
	ann.MemBytes, ann.Attempts, ann.Requeue = 0, 1, false
	if schedule.Obstacle(ann, slot) == "" {
		t.Error("a --no-requeue job started twice")
	}
}

func TestObstacle_Nodes(t *testing.T) {
	for _, tc := range []struct{ required, excluded, node, says string }{
		{"n[0-2]", "", "n1", ""},
		{"n[0-2]", "", "n3", "asks for n[0-2] (--nodelist), which n3 is not of"},
		{"", "n[1,3]", "n2", ""},
		{"", "n[1,3]", "n3", "excludes n3 (--exclude n[1,3])"},
		{"n[0-2]", "n1", "n1", "excludes n1"},
		{"n[", "", "n1", "write it like n[0-3,7],gpu1"},
	} {
		j := job(1, 1, "ann")
		j.RequiredNodes, j.ExcludedNodes = tc.required, tc.excluded
		slot := schedule.Slot{Node: tc.node, Device: "cpu:0"}
		if o := schedule.Obstacle(j, slot); (o == "") != (tc.says == "") || !strings.Contains(o, tc.says) {
			t.Errorf("%+v: %q", tc, o)
		}
		if got := len(schedule.Assign(schedule.Builtin()["fifo"], 1000, []store.FillJob{j}, []schedule.Slot{slot})); (got == 1) != (tc.says == "") {
			t.Errorf("%+v: %d pairs", tc, got)
		}
	}
}

// Only work that stops by itself may have a GPU, whether it asks for one or not.
func TestObstacle_GPU(t *testing.T) {
	gpu := schedule.Slot{Node: "n0", Device: "gpu:GPU-1"}
	for _, gpus := range []string{"", "gres:gpu:1"} {
		for mode, fits := range map[pipefill.Mode]bool{"": false, pipefill.ModeSignal: false, pipefill.ModeChunked: true} {
			j := job(1, 1, "ann")
			j.GPUs, j.Mode = gpus, mode
			if o := schedule.Obstacle(j, gpu); (o == "") != fits {
				t.Errorf("a job that asks for %q in mode %q: %q", gpus, mode, o)
			}
		}
	}
	j := job(1, 1, "ann")
	j.Mode = pipefill.ModeLaunch
	if o := schedule.Obstacle(j, gpu); !strings.Contains(o, "launch_library") {
		t.Errorf("mode launch where the node has it off: %q", o)
	}
	gpu.Launches = true
	if o := schedule.Obstacle(j, gpu); o != "" {
		t.Errorf("mode launch where the node has it on: %q", o)
	}
	core := schedule.Slot{Node: "n0", Device: "cpu:0", Launches: true}
	if o := schedule.Obstacle(j, core); !strings.Contains(o, "for GPUs") {
		t.Errorf("mode launch on a core: %q", o)
	}
	j.GPUs, j.Mode = "gres:gpu:1", pipefill.ModeChunked
	if schedule.Obstacle(j, core) == "" {
		t.Error("a job that asks for a GPU may have a core")
	}
}

// Whatever the queue: each job and each slot at most once, nothing that may not
// run, and no slot free beside a job that could have it.
func TestAssign_Properties(t *testing.T) {
	builtin := schedule.Builtin()
	rapid.Check(t, func(r *rapid.T) {
		policy := builtin[rapid.SampledFrom(builtin.Names()).Draw(r, "policy")]
		var jobs []store.FillJob
		for i := range rapid.IntRange(0, 12).Draw(r, "jobs") {
			j := job(int64(i+1), rapid.Int64Range(0, 5).Draw(r, "limit"), rapid.SampledFrom([]string{"ann", "bob"}).Draw(r, "user"))
			j.UserHeld = rapid.Bool().Draw(r, "held")
			j.MemBytes = rapid.Int64Range(0, 3).Draw(r, "mem")
			j.Priority = rapid.Int64Range(-2, 2).Draw(r, "priority")
			j.RequiredNodes = rapid.SampledFrom([]string{"", "", "b,c"}).Draw(r, "nodelist")
			j.ExcludedNodes = rapid.SampledFrom([]string{"", "", "a,c"}).Draw(r, "exclude")
			j.Attempts, j.Requeue = rapid.IntRange(0, 1).Draw(r, "attempts"), rapid.Bool().Draw(r, "requeue")
			jobs = append(jobs, j)
		}
		var slots []schedule.Slot
		for i := range rapid.IntRange(0, 4).Draw(r, "slots") {
			slots = append(slots, schedule.Slot{Node: string(rune('a' + i)), FreeBytes: rapid.Int64Range(0, 3).Draw(r, "free")})
		}
		usedJob, usedSlot := map[int64]bool{}, map[string]bool{}
		for _, p := range schedule.Assign(policy, 1000, jobs, slots) {
			if usedJob[p.Job.JobID] || usedSlot[p.Slot.Node] || p.Job.UserHeld || schedule.Obstacle(p.Job, p.Slot) != "" {
				r.Fatalf("pair %+v", p)
			}
			usedJob[p.Job.JobID], usedSlot[p.Slot.Node] = true, true
		}
		for _, j := range jobs {
			for _, s := range slots {
				if !usedJob[j.JobID] && !usedSlot[s.Node] && !j.UserHeld && schedule.Obstacle(j, s) == "" {
					r.Fatalf("job %d and slot %s were left apart", j.JobID, s.Node)
				}
			}
		}
	})
}

// A gang's slots are of one node, one main job and one group of peers, on nodes
// that take it; where there are never so many, the queue says so.
func TestGang_WhereItFits(t *testing.T) {
	slot := func(node string, device int, main int64, peers int) schedule.Slot {
		return schedule.Slot{Node: node, Device: pipefill.DeviceID(fmt.Sprintf("cpu:%d", device)), Main: pipefill.JobKey{JobID: main}, Peers: peers, Share: 0.5}
	}
	alone := slot("n0", 1, 1, 0)
	alone.Alone = true
	for name, tc := range map[string]struct {
		slots []schedule.Slot
		fits  bool
		says  string
	}{
		"two of one":         {[]schedule.Slot{slot("n0", 0, 1, 0), slot("n0", 1, 1, 0)}, true, "waits for several slots of one node at once"},
		"one":                {[]schedule.Slot{slot("n0", 0, 1, 0)}, false, "asks for 2 devices at once; no main job has more than 1 on one node that suit it"},
		"of two nodes":       {[]schedule.Slot{slot("n0", 0, 1, 0), slot("n1", 1, 1, 0)}, false, "no main job has more than 1 on one node"},
		"of two main jobs":   {[]schedule.Slot{slot("n0", 0, 1, 0), slot("n0", 1, 2, 0)}, false, "no main job has more than 1 on one node"},
		"of two stages":      {[]schedule.Slot{slot("n0", 0, 1, 0), slot("n0", 1, 1, 1)}, false, "no main job's bubbles coincide on more than 1"},
		"of an old node":     {[]schedule.Slot{alone, alone}, false, "the pipefilld of n0 gives a job one"},
		"the third suffices": {[]schedule.Slot{slot("n0", 0, 1, 0), slot("n0", 1, 1, 1), slot("n0", 2, 1, 1)}, true, "waits for several"},
	} {
		j := job(1, 1000, "ann")
		j.Devices = 2
		if got := schedule.Why(j, tc.slots); !strings.Contains(got, tc.says) {
			t.Errorf("%s: %q, want %q", name, got, tc.says)
		}
		pairs := schedule.Assign(schedule.Builtin()["fifo"], 1000, []store.FillJob{j}, tc.slots)
		if want := map[bool]int{true: 2}[tc.fits]; len(pairs) != want {
			t.Errorf("%s: %d slots, want %d", name, len(pairs), want)
		}
		s := schedule.New(schedule.Builtin()["fifo"], schedule.Options{})
		s.Put(j)
		if e, waits := s.Explain(1000, 1, tc.slots); !waits || tc.fits != (e.WaitMs >= 0) || !strings.Contains(e.Why, tc.says) {
			t.Errorf("%s: %+v", name, e)
		}
	}
}
