package schedule

import (
	"cmp"
	"slices"
)

// lookAhead works out when which speeds will be to be had, for job.elsewhere_s,
// and what slots are worth, for job.misfit and job.done_s. For each profile only the
// lower envelope of the lines "free in + work times seconds a second of work" is
// kept: few of the thousands of slots that are taken.
func (s *Scheduler) lookAhead(nowMs float64) {
	s.endsRun++
	soonest, taken, busyMs := make([]float64, len(s.kinds)), make([]int, len(s.kinds)), make([]int64, len(s.kinds))
	for k := range soonest {
		soonest[k] = -1
	}
	last := int64(0)
	for i := range s.taken {
		b := &s.taken[i]
		taken[b.kind]++
		if at := cmp.Or(b.ExpectMs, b.UntilMs); at != 0 {
			in := max(0, (float64(at)-nowMs)/1000)
			if was := soonest[b.kind]; was < 0 || in < was {
				soonest[b.kind] = in
			}
			ms := max(0, at-int64(nowMs))
			busyMs[b.kind] += ms
			last = max(last, ms)
		}
	}
	if s.policy.uses.worth {
		s.value(soonest, taken, busyMs)
		s.market.doneS = max(s.market.doneS, float64(last)/1000)
	}
	s.later = make([][]opening, len(s.profiles))
	for p := range s.profiles {
		var lines []opening
		for k, in := range soonest {
			slot := s.kinds[k]
			speed := slot.Share
			if p > 0 {
				speed = s.cycleOf(&slot).speeds[p-1]
			}
			if speed > 0 && in >= 0 {
				lines = append(lines, opening{inS: in, perS: 1 / max(speed, leastSpeed)})
			}
		}
		s.later[p] = envelope(lines)
	}
}

// value finds what slots are worth, from when those of a kind are free first, how
// many are taken, and for how long in all.
func (s *Scheduler) value(soonest []float64, taken []int, busyMs []int64) {
	var pools []pool
	for k := range s.kinds {
		if k >= len(s.slotKinds) || s.slotKinds[k] == 0 {
			continue
		}
		slot, count := &s.kinds[k], s.slotKinds[k]
		one := pool{speeds: append([]float64{slot.Share}, s.cycleOf(slot).speeds...), count: float64(count), busyMs: busyMs[k]}
		if count == taken[k] {
			one.soonS = max(soonest[k], 0)
		}
		pools = append(pools, one)
	}
	work, longest := make([]float64, len(s.profiles)), make([]float64, len(s.profiles))
	for p, ms := range s.workOf {
		work[p], longest[p] = float64(ms)/1000, s.longestOf(p)
	}
	s.market = newMarket(joinPools(pools), work, longest)
}

// countSlots counts all slots by kind.
func (s *Scheduler) countSlots(free []Slot) {
	s.slotKinds = s.slotKinds[:0]
	count := func(k int) {
		for len(s.slotKinds) <= k {
			s.slotKinds = append(s.slotKinds, 0)
		}
		s.slotKinds[k]++
	}
	for i := range free {
		count(s.kindOfSlot(&free[i]))
	}
	for i := range s.taken {
		count(s.taken[i].kind)
	}
}

// kindOfSlot numbers the slots that differ in cycle or share.
func (s *Scheduler) kindOfSlot(slot *Slot) int {
	key := slotKind{slot.Cycle, slot.Share}
	k, ok := s.kindIDs[key]
	if !ok {
		k = len(s.kinds)
		s.kindIDs[key] = k
		s.kinds = append(s.kinds, *slot)
	}
	return k
}

// lookEvery is after how many pairs a round of n slots looks ahead again: what it
// gives away ends too, and may be worth waiting for. A look costs as much as the
// beginning of a round, so that long rounds have but one more.
func lookEvery(n int) int {
	looks := 8
	if n > 64 {
		looks = 2
	}
	return (n + looks - 1) / looks
}

// lookAgain does so in a round, when its time has come.
func (r *round) lookAgain() {
	if !r.s.policy.uses.ends {
		return
	}
	if r.sinceLook++; r.sinceLook < r.lookEvery {
		return
	}
	r.sinceLook = 0
	r.s.lookAhead(r.nowMs)
	for _, l := range r.lanes {
		l.known = false
	}
	r.enterAll()
}

// envelope keeps the lines that are the lowest for some amount of work, with up
// to where.
func envelope(lines []opening) []opening {
	slices.SortFunc(lines, func(a, b opening) int { return cmp.Or(cmp.Compare(a.inS, b.inS), cmp.Compare(a.perS, b.perS)) })
	var out []opening
	for _, l := range lines {
		for len(out) > 0 {
			last := &out[len(out)-1]
			if l.perS >= last.perS {
				break // later, and no faster
			}
			last.untilS = (l.inS - last.inS) / (last.perS - l.perS)
			if len(out) > 1 && last.untilS <= out[len(out)-2].untilS {
				out = out[:len(out)-1]
				continue
			}
			break
		}
		if len(out) == 0 || l.perS < out[len(out)-1].perS {
			l.untilS = 1e300
			out = append(out, l)
		}
	}
	return out
}
