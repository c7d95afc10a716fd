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
