package replay_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/controller/schedule/replay"
	"pipefill/controller/store"
)

func slots(n int, share float64) []schedule.Slot {
	var out []schedule.Slot
	for i := range n {
		out = append(out, schedule.Slot{Node: fmt.Sprintf("n%d", i/4), Device: pipefill.DeviceID(fmt.Sprintf("cpu:%d", i%4)), Share: share})
	}
	return out
}

// Short jobs keep coming faster than they can be served, so that under sjf a
// long one would never run. With MaxWait W each job starts within
// W + (A/m + 1) T: A jobs that came before it and had not started when it had
// waited for W, m slots, T the longest that a job takes.
func TestStarvation_Bounded(t *testing.T) {
	const m, w = 4, time.Hour
	longest := func(bound time.Duration, seed uint64) (worst float64, holds bool) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := schedule.New(schedule.Builtin()["sjf"], schedule.Options{MaxWait: bound})
		var jobs []store.FillJob
		at := int64(1_000_000)
		for i := range int64(1500) {
			at += int64(rng.ExpFloat64() * 20_000) // 4 slots can do one in 25 s
			j := store.FillJob{ID: i + 1, JobID: i + 1, FirstMs: at, Requeue: true, ExpectMs: 100_000}
			if rng.IntN(50) == 0 {
				j.ExpectMs = 600_000
			}
			jobs = append(jobs, j)
		}
		runs := replay.Jobs(s, jobs, slots(m, 1), nil)
		holds = true
		for _, r := range runs {
			waited := float64(r.StartMs - r.Job.FirstMs)
			worst = max(worst, waited)
			late, ahead := r.Job.FirstMs+w.Milliseconds(), 0
			for _, o := range runs {
				if (o.Job.FirstMs < r.Job.FirstMs || o.Job.FirstMs == r.Job.FirstMs && o.Job.ID < r.Job.ID) && o.StartMs > late {
					ahead++
				}
			}
			holds = holds && waited <= float64(w.Milliseconds())+(float64(ahead)/m+1)*600_000
		}
		if len(runs) != len(jobs) {
			t.Fatalf("%d of %d jobs ran", len(runs), len(jobs))
		}
		return worst, holds
	}
	for seed := range uint64(2) {
		if worst, holds := longest(w, seed); !holds {
			t.Errorf("seed %d: a job waited for %v", seed, time.Duration(worst)*time.Millisecond)
		}
		if _, holds := longest(0, seed); holds {
			t.Errorf("seed %d: the bound holds without MaxWait too: this shows nothing", seed)
		}
	}
}

// A job of four slots comes to a node that single jobs share; under fifo it is
// first from then on, and starts when the last of those that run has ended: what
// is put on the slots that are kept for it ends before.
func TestGang_StartsWhenItsSlotsAreFree(t *testing.T) {
	s := schedule.New(schedule.Builtin()["fifo"], schedule.Options{})
	id := int64(0)
	next := func(at, limitMs int64, devices int) store.FillJob {
		id++
		return store.FillJob{ID: id, JobID: id, FirstMs: at, Requeue: true, LimitMs: limitMs, Devices: devices}
	}
	jobs := []store.FillJob{next(0, 100_000, 1), next(0, 200_000, 1), next(0, 300_000, 1), next(0, 400_000, 1), next(1000, 50_000, 4)}
	for i := range int64(200) { // more than enough to take each slot that frees
		jobs = append(jobs, next(2000+i, 70_000, 1))
	}
	long := next(3000, 10_000_000, 1)
	jobs = append(jobs, long)
	var gang, early, others int
	for _, r := range replay.Jobs(s, jobs, slots(4, 1), nil) {
		switch {
		case r.Job.ID == 5:
			gang++
			if r.StartMs != 400_000 {
				t.Errorf("a slot of the gang starts at %d, not when the last is free", r.StartMs)
			}
		case r.StartMs > 0 && r.StartMs < 400_000:
			early++
			if r.EndMs > 400_000 {
				t.Errorf("job %d, %d to %d, is in the gang's way", r.Job.ID, r.StartMs, r.EndMs)
			}
		default:
			others++
		}
	}
	if gang != 4 || early < 5 || others != 4+201-early {
		t.Errorf("%d slots of the gang, %d jobs backfilled, %d others", gang, early, others)
	}
}

// Random gangs and singles: no slot has two jobs at once, a gang has all its slots on
// one node at the same time, and all run in the end.
func TestGang_Properties(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		set := schedule.Builtin()
		s := schedule.New(set[set.Names()[int(seed)%len(set)]], schedule.Options{MaxWait: time.Hour, Limits: schedule.Limits{PerUser: 6}})
		devices := map[int64]int{}
		var jobs []store.FillJob
		for i := range int64(60) {
			j := store.FillJob{
				ID: i + 1, JobID: i + 1, FirstMs: 1 + rng.Int64N(1_000_000), Requeue: true, LimitMs: 1000 * (1 + rng.Int64N(300)), Priority: rng.Int64N(3),
				User: string(rune('a' + rng.IntN(3))), Devices: []int{0, 1, 1, 2, 4}[rng.IntN(5)],
			}
			devices[j.ID] = max(1, j.Devices)
			jobs = append(jobs, j)
		}
		runs := replay.Jobs(s, jobs, slots(8, 0.5), nil)
		for i, r := range runs {
			devices[r.Job.ID]--
			for _, o := range runs[:i] {
				if o.Slot.Node == r.Slot.Node && o.Slot.Device == r.Slot.Device && o.EndMs > r.StartMs {
					t.Fatalf("seed %d: jobs %d and %d share a slot", seed, o.Job.ID, r.Job.ID)
				}
				if o.Job.ID == r.Job.ID && (o.Slot.Node != r.Slot.Node || o.StartMs != r.StartMs || o.EndMs != r.EndMs) {
					t.Fatalf("seed %d: gang %d is torn apart", seed, r.Job.ID)
				}
			}
		}
		for id, left := range devices {
			if left != 0 {
				t.Fatalf("seed %d: job %d lacks %d slots", seed, id, left)
			}
		}
	}
}
