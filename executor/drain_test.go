package executor

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipefill"
)

// put writes an event as the library does.
func put(m *mainPage, e eventCopy) {
	head := m.RingHead.Load()
	slot := &m.Ring[head%ringEvents]
	slot.Seq.Store(0)
	slot.Iteration.Store(e.iteration)
	slot.BeginNs.Store(uint64(e.begin))
	slot.EndNs.Store(uint64(e.end))
	slot.DeadlineNs.Store(uint64(e.deadline))
	slot.FreeBytes.Store(e.freeBytes)
	slot.Index.Store(e.index)
	slot.Kind.Store(e.kind)
	slot.Flags.Store(e.flags)
	slot.Seq.Store(head + 1)
	m.RingHead.Store(head + 1)
}

func drainAll(d *drain, m *mainPage) (its []iteration) {
	d.events(m, func(e eventCopy) {
		if it, ended := d.take(e); ended {
			its = append(its, it)
		}
	})
	return its
}

func TestDrain_CycleAndTotals(t *testing.T) {
	m, d := &mainPage{}, &drain{}
	var its []iteration
	for i := range uint64(12) {
		at := ms * (1000 + 100*int64(i))
		flags := uint32(eventOffered)
		if i == 5 {
			flags = eventControl
		}
		put(m, eventCopy{iteration: i, begin: at + 10*ms, end: at + 40*ms, deadline: at + 30*ms, freeBytes: 7, kind: 1, flags: flags})
		put(m, eventCopy{iteration: i, begin: at + 60*ms, end: at + 65*ms, index: 1, kind: 3})
		put(m, eventCopy{iteration: i, begin: at + 70*ms, end: at + 71*ms, index: 2, kind: 2, flags: eventShort})
		mark := uint32(eventIteration)
		if i == 5 {
			mark |= eventControl
		}
		put(m, eventCopy{iteration: i, begin: at, end: at + 100*ms, flags: mark})
		its = append(its, drainAll(d, m)...)
	}
	want := pipefill.BubbleCycle{Version: 1, IterationNs: 100 * ms, AlwaysFreeBytes: 7, Bubbles: []pipefill.Bubble{
		{Index: 0, Kind: "fwd-bwd", StartNs: 10 * ms, DurationNs: 25 * ms, FreeBytes: 7},
	}}
	if diff := cmp.Diff(want, d.cycle(terms{share: 0.9, guard: 5 * time.Millisecond, least: 4 * time.Millisecond})); diff != "" {
		t.Error(diff)
	}
	if got := d.totals; got.Iterations != 12 || got.ControlIterations != 1 || got.OfferedNs != 11*20*ms || got.BubbleNs != 11*31*ms {
		t.Errorf("%+v", got)
	}
	if len(its) != 12 || !its[5].control || its[4].control || its[3].length != 100*time.Millisecond || its[11].number != 11 {
		t.Errorf("%+v", its)
	}
}

// What is never offered is counted by its kind, and may last long.
func TestDrain_PhasesThatAreNeverOffered(t *testing.T) {
	m, d := &mainPage{}, &drain{}
	minute := int64(time.Minute)
	for i, e := range []eventCopy{
		{end: 30 * minute, index: 255, kind: 4}, // an evaluation
		{end: 5 * minute, index: 255, kind: 4},  // a checkpoint
		{end: 12 * minute, index: 3, kind: 3},
		{end: 30 * minute, index: 0, kind: 0, flags: eventOffered}, // a machine that slept
		{end: 61 * minute, index: 255, kind: 4},                    // likewise
		{end: 30 * minute, index: 255, kind: 4, flags: eventWork},  // its name, for timelines
	} {
		e.begin = int64(i) + 1
		e.end += e.begin
		put(m, e)
	}
	d.events(m, func(e eventCopy) {
		if e.flags&eventWork == 0 {
			d.take(e)
		}
	})
	// The iteration that they were in is judged without them.
	put(m, eventCopy{begin: 1, end: 36 * minute, flags: eventIteration})
	put(m, eventCopy{begin: 36 * minute, end: 37 * minute, flags: eventIteration})
	if its := drainAll(d, m); len(its) != 2 || its[0].length != time.Duration(minute-1) || its[1].length != time.Minute || d.totals.IterationNs != 37*minute-1 {
		t.Errorf("%+v, %+v", its, d.totals)
	}
	if d.totals.OtherNs != 35*minute || d.totals.CommNs != 12*minute || d.totals.OfferedNs != 0 || len(d.cycle(terms{share: 1}).Bubbles) != 0 {
		t.Errorf("%+v", d.totals)
	}
}

func TestDrain_AnOverrunRingIsCounted(t *testing.T) {
	m, d := &mainPage{}, &drain{}
	for i := range int64(ringEvents + 100) {
		put(m, eventCopy{begin: i + 1, end: i + 2, flags: eventIteration})
	}
	if its := drainAll(d, m); len(its) != ringEvents || d.lost != 100 {
		t.Errorf("%d read, %d lost", len(its), d.lost)
	}
	if its := drainAll(d, m); len(its) != 0 {
		t.Errorf("%d read twice", len(its))
	}
}

// A main job may write anything into its page.
func TestDrain_Nonsense(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	m, d := &mainPage{}, &drain{}
	for range 2000 {
		head := rng.Uint64()
		if rng.IntN(2) == 0 {
			head >>= rng.IntN(64)
		}
		m.RingHead.Store(head)
		for i := range m.Ring {
			e := &m.Ring[i]
			e.Seq.Store(head - ringEvents + uint64(i))
			e.BeginNs.Store(rng.Uint64() >> rng.IntN(64))
			e.EndNs.Store(rng.Uint64() >> rng.IntN(64))
			e.DeadlineNs.Store(rng.Uint64())
			e.Index.Store(rng.Uint32())
			e.Kind.Store(rng.Uint32N(6))
			e.Flags.Store(rng.Uint32())
			if i > 20 {
				break
			}
		}
		drainAll(d, m)
	}
	c := d.cycle(terms{share: 0.9})
	if c.IterationNs < 0 || c.IterationNs > longestIteration {
		t.Errorf("%+v", c)
	}
}

func TestCycle_OffersNoMemoryOfTheReserve(t *testing.T) {
	m, d := &mainPage{}, &drain{}
	at := 100 * ms
	for i := range uint64(12) {
		for index, free := range []uint64{10, 4, 7} {
			begin := at + int64(index)*20*ms
			put(m, eventCopy{iteration: i, begin: begin, end: begin + 10*ms, freeBytes: free, index: uint32(index), kind: uint32(index) / 2 * 3})
		}
		put(m, eventCopy{iteration: i, begin: at, end: at + 100*ms, flags: eventIteration})
		at += 100 * ms
	}
	d.events(m, func(e eventCopy) { d.take(e) })
	free := func(c pipefill.BubbleCycle) (all []int64) {
		for _, b := range c.Bubbles {
			all = append(all, b.FreeBytes)
		}
		return all
	}
	for reserve, want := range map[int64][]int64{0: {10, 4}, 3: {7, 1}, 4: {6}, 10: nil, 1 << 60: nil} {
		c := d.cycle(terms{share: 1, reserve: reserve})
		if diff := cmp.Diff(want, free(c)); diff != "" {
			t.Errorf("reserve %d (-want +got):\n%s", reserve, diff)
		}
		if least := max(1, 4-reserve); c.AlwaysFreeBytes != least {
			t.Errorf("reserve %d: always free %d, want %d", reserve, c.AlwaysFreeBytes, least)
		}
	}
}
