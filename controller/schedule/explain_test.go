package schedule

import (
	"math/rand/v2"
	"testing"

	"pipefill"
	"pipefill/controller/store"
)

// The place and the wait that are told are what then happens, where nothing new
// comes.
func TestExplain(t *testing.T) {
	s := New(Builtin()["sjf"], Options{})
	for id, seconds := range []int64{400, 300, 200, 100} {
		s.Put(store.FillJob{ID: int64(id + 1), JobID: int64(id + 1), ExpectMs: 1000 * seconds, Requeue: true, User: "ann"})
	}
	s.Put(store.FillJob{ID: 9, JobID: 9, ExpectMs: 1, Requeue: true, MemBytes: 100, User: "ann"})
	slots := []Slot{
		{Node: "n", Device: "cpu:0", Share: 0.5, FreeBytes: 10}, {Node: "n", Device: "cpu:1", Share: 0.5, FreeBytes: 10}, {Node: "m", Device: "cpu:0", Share: 0.25, Options: "allow=user:bob"},
	}
	s.SetBusy([]Busy{{Slot: slots[0], ExpectMs: testNowMs + 50_000}})
	// At half speed: 100 s of work takes 200, 200 takes 400. cpu:1 is free now,
	// cpu:0 in 50 s: jobs 4 and 3 start then, job 2 at 200 s.
	e, ok := s.Explain(testNowMs, 2, slots)
	if !ok || e.Place != 3 || e.WaitMs != 200_000 || e.Suits != 2 || e.Slots != 3 || e.Scores[0] != -600 || e.Source != "history" {
		t.Errorf("job 2: %+v", e)
	}
	for _, v := range e.Values {
		if v.Used != (v.Name == "job.time_s") {
			t.Errorf("%s: used %v", v.Name, v.Used)
		}
		if v.Name == "job.time_s" && v.Value != 600.0 || v.Name == "slot.share" && v.Value != 0.5 {
			t.Errorf("%s is %v", v.Name, v.Value)
		}
	}
	if e, ok := s.Explain(testNowMs, 9, slots[:2]); !ok || e.Suits != 0 || e.Place != 0 || e.WaitMs != -1 || e.Why == "" {
		t.Errorf("a job that fits nowhere: %+v", e)
	}
	if _, ok := s.Explain(testNowMs, 77, slots); ok {
		t.Error("a job that is not there waits")
	}
	s.SetLimits(Limits{Users: map[string]int{"ann": 1}})
	s.SetBusy([]Busy{{Slot: slots[0], User: "ann"}})
	if e, _ := s.Explain(testNowMs, 2, slots); e.Why != "its user's jobs hold as many slots as limits allows" {
		t.Errorf("at the limit: %q", e.Why)
	}
}

// On one slot, the job whose place is 1 is the one that is assigned, whatever the
// policy and the queue.
func TestExplain_FirstIsAssigned(t *testing.T) {
	set := Builtin()
	for seed := range uint64(200) {
		st := &state{rng: rand.New(rand.NewPCG(seed, 9))}
		s := New(set[set.Names()[int(seed)%len(set)]], Options{Speed: testSpeed})
		jobs := map[int64]store.FillJob{}
		for range 10 {
			j := st.job()
			j.Priority = 0
			jobs[j.ID] = j
			s.Put(j)
		}
		slots := []Slot{{Node: "n0", Device: pipefill.DeviceID("cpu:0"), Share: 0.5, Cycle: "c3"}}
		first := int64(0)
		for id := range jobs {
			if e, ok := s.Explain(testNowMs, id, slots); ok && e.Place == 1 {
				first = id
			}
		}
		pairs := s.Assign(testNowMs, slots)
		if first == 0 && len(pairs) != 0 || first != 0 && (len(pairs) != 1 || pairs[0].Job.ID != first) {
			t.Fatalf("seed %d, policy %s: job %d is said to be first, %v are assigned", seed, s.policy.Name, first, pairNames(pairs))
		}
	}
}
