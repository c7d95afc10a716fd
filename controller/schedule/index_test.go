package schedule

import (
	"testing"

	"pipefill/controller/store"
)

// The index of a policy that does not look at the clock is never built anew: its
// buckets run empty and fill again for as long as the controller lives.
func TestAssign_GoesOnForEver(t *testing.T) {
	s := New(Builtin()["fifo"], Options{})
	slot := []Slot{{Node: "n0", Device: "cpu:0", IterationS: 2, LongestS: 0.5, Bubbles: 1, Share: 0.5}}
	last := int64(0)
	put := func(n int64) {
		for range n {
			last++
			s.Put(store.FillJob{ID: last, JobID: last, FirstMs: testNowMs + last, User: "a", Account: "A", LimitMs: 1000, Requeue: true})
		}
	}
	put(100)
	for want := int64(1); want <= 20_000; want++ {
		got := s.Assign(testNowMs, slot)
		if len(got) != 1 || got[0].Job.ID != want {
			t.Fatalf("of %d jobs, the next being %d: %+v", s.Len(), want, got)
		}
		s.Remove(want)
		if s.Len() == 0 || want%97 == 0 {
			put(100)
		}
	}
}

// What the builder takes for falling does not rise, and the shipped policy of
// deadlines is one whose order needs not be worked out anew.
func TestTrend(t *testing.T) {
	if u := Builtin()["deadline"].uses; !u.falls || u.steady {
		t.Errorf("deadline: %+v", u)
	}
	for source, want := range map[string]trend{
		"job.work_s":                                       stays,
		"job.slack_s":                                      falls,
		"-job.slack_s":                                     rises,
		"job.wait_s - job.slack_s":                         rises,
		"job.wait_s + job.slack_s":                         swings,
		"job.slack_s * -2":                                 rises,
		"job.slack_s * job.work_s":                         swings,
		"job.slack_s > 5 ? 1 : 0":                          falls,
		"job.slack_s > 5 ? 0 : 1":                          rises,
		"not (job.slack_s > 5) ? 0 : 1":                    falls,
		"job.slack_s > 5 and job.wait_s > 3 ? 1 : 0":       swings,
		"job.slack_s > 5 ? job.work_s : 0":                 swings,
		"job.gpu ? job.slack_s : job.deadline_s":           falls,
		"let x = job.slack_s; min(x, 3) + sqrt(max(x, 0))": falls,
		"job.slack_s == 3 ? 1 : 0":                         swings,
		"job.elsewhere_s":                                  swings,
		"abs(job.slack_s)":                                 swings,
		"clamp(job.slack_s, 0, 10) / 4 - job.wait_s":       falls,
		"slot.remaining_s - job.time_s > 0 ? 1 : 0.5":      falls,
	} {
		p, err := Compile("p", "", source, nil)
		if err != nil {
			t.Fatal(source, err)
		}
		if got := trendOf(p.levels[0]); got != want {
			t.Errorf("%s: trend %d, want %d", source, got, want)
		}
	}
}

// Prices are of use: with them the cost of all work is a bound that no assignment
// beats, and work goes where it belongs (comparative advantage): a is twice as
// fast as b at all, and ten times as fast at the second kind of work.
func TestMarket(t *testing.T) {
	a, b := []float64{0.4, 0.8}, []float64{0.2, 0.08}
	m := newMarket(joinPools([]pool{{speeds: a, count: 1}, {speeds: b, count: 1}}), []float64{100, 200}, []float64{1, 1})
	// a alone takes 250 s for the second kind. In 333 s it does a third of the first
	// besides, and b the rest of that.
	if want := 333.333; m.doneS > want+0.01 || m.doneS < 0.99*want {
		t.Errorf("all is done in %.2f s, want %.2f", m.doneS, want)
	}
	onA, onB := m.misfits(a), m.misfits(b)
	if onA[0] != 0 || onA[1] != 0 || onB[0] != 0 || onB[1] < 50 {
		t.Errorf("misfits %v on a, %v on b", onA, onB)
	}
	if empty := newMarket(nil, []float64{1}, []float64{1}); empty.doneS != 0 || empty.misfits(a)[0] != 0 {
		t.Errorf("without slots: %+v", empty)
	}
	busy := newMarket(joinPools([]pool{{speeds: a, count: 1, busyMs: 9000, soonS: 9}}), []float64{0, 0}, []float64{0, 0})
	if busy.doneS != 9 {
		t.Errorf("what runs ends in 9 s: %+v", busy)
	}
}
