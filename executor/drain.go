package executor

import (
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
)

// A drain reads the events of one main page as the main job writes them, and
// sums them up: the bubble cycle, the totals, and the iterations for the
// governor. What it reads may be anything; all of it is bounded.
type drain struct {
	tail      uint64
	lost      uint64 // events overwritten before they were read
	iterBegin int64
	iterCount uint64
	iterSum   int64 // bubbles of the iteration so far
	iterOther int64 // phases of it that are never offered
	lengths   window
	bubbles   [256]bubbleStats
	totals    api.MainTotals
}

type bubbleStats struct {
	kind      pipefill.BubbleKind
	lengths   window
	starts    window
	freeBytes int64
	seenAt    uint64 // iterCount
}

// window is the last 16 values, as the library keeps them.
type window struct {
	values [16]int64
	n      uint64
}

func (w *window) add(v int64) {
	w.values[w.n%16] = v
	w.n++
}

// quantile q of 4 quarters: 1 is the lower quartile, 2 the median.
func (w *window) quantile(q int) int64 {
	n := int(min(w.n, 16))
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(w.values[:n]))
	return sorted[min(n-1, n*q/4)]
}

const (
	// Lengths beyond these are lies or a machine that slept. An evaluation or a
	// checkpoint may last as long as an iteration.
	longestBubble    = int64(10 * time.Minute)
	longestIteration = int64(time.Hour)
	// A bubble is known from this many lengths on, as in the library.
	learnedLeast = 8
)

// eventCopy is an event that was read whole.
type eventCopy struct {
	iteration, freeBytes uint64
	begin, end, deadline int64
	index, kind, flags   uint32
}

// events calls each for every whole event since the last call.
func (d *drain) events(m *mainPage, each func(eventCopy)) {
	head := m.RingHead.Load()
	if head < d.tail {
		d.tail = head // written by a fresh handle, or a lie
	}
	if head-d.tail > ringEvents {
		d.lost += head - d.tail - ringEvents
		d.tail = head - ringEvents
	}
	for ; d.tail < head; d.tail++ {
		e := &m.Ring[d.tail%ringEvents]
		seq := e.Seq.Load()
		c := eventCopy{
			iteration: e.Iteration.Load(), freeBytes: e.FreeBytes.Load(),
			begin: int64(e.BeginNs.Load()), end: int64(e.EndNs.Load()), deadline: int64(e.DeadlineNs.Load()),
			index: e.Index.Load(), kind: e.Kind.Load(), flags: e.Flags.Load(),
		}
		if seq != d.tail+1 || e.Seq.Load() != seq {
			d.lost++ // overwritten meanwhile
			continue
		}
		if c.begin <= 0 || c.end < c.begin || c.end-c.begin > longestIteration {
			continue
		}
		each(c)
	}
}

// take sums an event up. It returns the iteration that ended, if one did.
func (d *drain) take(e eventCopy) (it iteration, ended bool) {
	if e.flags&eventIteration != 0 {
		return d.takeIteration(e)
	}
	length := e.end - e.begin
	kind := pipefill.BubbleKind(e.kind)
	if length > longestBubble && kind.Offered() || e.index > 255 {
		return iteration{}, false
	}
	b := &d.bubbles[e.index]
	b.kind, b.freeBytes, b.seenAt = kind, int64(min(e.freeBytes, 1<<50)), d.iterCount
	b.lengths.add(length)
	if d.iterBegin != 0 && e.begin >= d.iterBegin {
		b.starts.add(e.begin - d.iterBegin)
	}
	switch kind {
	case pipefill.BubbleComm:
		d.totals.CommNs += length
	case pipefill.BubbleOther:
		d.totals.OtherNs += length
		d.iterOther += length
	default: // offered, below
	}
	if kind.Offered() && e.flags&eventControl == 0 {
		d.iterSum += length
		if e.flags&eventOffered != 0 && e.deadline > e.begin {
			d.totals.OfferedNs += min(e.end, e.deadline) - e.begin
		}
	}
	return iteration{}, false
}

func (d *drain) takeIteration(e eventCopy) (iteration, bool) {
	d.iterBegin = e.end
	d.iterCount++
	d.totals.Iterations++
	d.totals.IterationNs += e.end - e.begin
	control := e.flags&eventControl != 0
	if control {
		d.totals.ControlIterations++
	} else {
		d.totals.BubbleNs += d.iterSum
	}
	// An evaluation or a checkpoint is not what filling is judged by.
	judged := e.end - e.begin - min(d.iterOther, e.end-e.begin)
	d.iterSum, d.iterOther = 0, 0
	d.lengths.add(e.end - e.begin)
	return iteration{number: e.iteration, length: time.Duration(judged), control: control}, true
}

// terms are how bubbles are offered.
type terms struct {
	share        float64
	guard, least time.Duration
	reserve      int64 // bytes of the free device memory that are not offered
}

// cycle is the bubbles that are offered, at their usable length. Where the main
// job tells what memory is free, one without any beyond the reserve is none.
func (d *drain) cycle(t terms) pipefill.BubbleCycle {
	c := pipefill.BubbleCycle{Version: 1, IterationNs: d.lengths.quantile(2), Bubbles: []pipefill.Bubble{}}
	for i := range d.bubbles {
		b := &d.bubbles[i]
		// One that did not come for 16 iterations is no longer of the cycle.
		if b.lengths.n < learnedLeast || d.iterCount-b.seenAt > 16 {
			continue
		}
		free := max(0, b.freeBytes-t.reserve)
		if b.freeBytes > 0 && (c.AlwaysFreeBytes == 0 || free < c.AlwaysFreeBytes) {
			c.AlwaysFreeBytes = max(1, free) // 0 would say that there is no limit
		}
		if !b.kind.Offered() || b.freeBytes > 0 && free == 0 {
			continue
		}
		length := b.lengths.quantile(1)
		usable := usableOf(length, t.share, t.guard)
		if usable < int64(t.least) {
			continue
		}
		c.Bubbles = append(c.Bubbles, pipefill.Bubble{
			Index: i, Kind: b.kind.String(), StartNs: b.starts.quantile(1), DurationNs: usable, FreeBytes: free,
		})
	}
	return c
}

// usableOf is usable() of spank/lib_main.c, without the least length.
func usableOf(length int64, share float64, guard time.Duration) int64 {
	if share > 1 {
		return int64(float64(length)*share) - int64(guard)
	}
	return min(int64(float64(length)*share), length-int64(guard))
}
