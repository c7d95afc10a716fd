// Package replay runs a scheduler over jobs that come and go in simulated time,
// to see what a policy does to waiting times, without what main jobs do to slots.
// It is pure.
package replay

import (
	"container/heap"
	"slices"

	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// Run is what became of a job; a job of several slots has one for each.
type Run struct {
	Job            store.FillJob
	Slot           schedule.Slot
	StartMs, EndMs int64
}

// ends are what runs, by their end.
type ends []Run

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, k int) bool { return e[i].EndMs < e[k].EndMs }
func (e ends) Swap(i, k int)      { e[i], e[k] = e[k], e[i] }

// Push is heap's.
func (e *ends) Push(x any) {
	if r, ok := x.(Run); ok {
		*e = append(*e, r)
	}
}

// Pop is heap's.
func (e *ends) Pop() any {
	last := len(*e) - 1
	r := (*e)[last]
	*e = (*e)[:last]
	return r
}

// Jobs runs jobs, which come at their FirstMs, on slots that are all free at the
// first's, and returns what became of them in the order of their starts. Jobs
// that never suit a slot are not in it. took tells how long a pair really takes,
// in ms; nil: as long as expected.
func Jobs(s *schedule.Scheduler, jobs []store.FillJob, slots []schedule.Slot, took func(schedule.Pair) int64) []Run {
	if took == nil {
		took = func(p schedule.Pair) int64 { return p.ExpectMs }
	}
	queue := slices.Clone(jobs)
	slices.SortStableFunc(queue, func(a, b store.FillJob) int { return int(a.FirstMs - b.FirstMs) })
	free := slices.Clone(slots)
	var running ends
	var done []Run
	for len(queue) > 0 || len(running) > 0 {
		var now int64
		if len(queue) > 0 && (len(running) == 0 || queue[0].FirstMs <= running[0].EndMs) {
			now = queue[0].FirstMs
		} else {
			now = running[0].EndMs
		}
		for len(running) > 0 && running[0].EndMs <= now {
			if r, ok := heap.Pop(&running).(Run); ok {
				s.Vacate(r.Slot.Node, r.Slot.Device)
				free = append(free, r.Slot)
			}
		}
		for len(queue) > 0 && queue[0].FirstMs <= now {
			s.Put(queue[0])
			queue = queue[1:]
		}
		for _, p := range s.Assign(now, free) {
			r := Run{Job: p.Job, Slot: p.Slot, StartMs: now, EndMs: now + max(1, took(p))}
			heap.Push(&running, r)
			done = append(done, r)
			free = slices.DeleteFunc(free, func(f schedule.Slot) bool { return f.Node == p.Slot.Node && f.Device == p.Slot.Device })
		}
	}
	return done
}
