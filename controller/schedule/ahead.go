package schedule

import (
	"cmp"
	"math"
	"slices"
)

// lookAhead works out when which speeds will be to be had, for job.elsewhere_s.
// For each profile only the lower envelope of the lines "free in + work times
// seconds a second of work" is kept: few of the thousands of slots that are
// taken.
func (s *Scheduler) lookAhead(nowMs float64) {
	s.endsRun++
	s.queue, s.queueS = float64(s.workMs)/1000, 0
	if s.capacity > 0 {
		s.queueS = s.queue / (float64(s.capacity) / 1e6)
	}
	type kind struct {
		cycle string
		share float64
	}
	soonest := map[kind]float64{}
	like := map[kind]Slot{}
	for _, b := range s.busy {
		at := cmp.Or(b.ExpectMs, b.UntilMs)
		if at == 0 {
			continue
		}
		in := max(0, (float64(at)-nowMs)/1000)
		k := kind{b.Slot.Cycle, b.Slot.Share}
		if was, known := soonest[k]; !known || in < was {
			soonest[k], like[k] = in, b.Slot
		}
	}
	s.later = make([][]opening, len(s.profiles))
	for p := range s.profiles {
		var lines []opening
		for k, in := range soonest {
			slot, speed := like[k], k.share
			if p > 0 {
				speed = s.cycleOf(&slot).speeds[p-1]
			}
			if speed > 0 {
				lines = append(lines, opening{inS: in, perS: 1 / max(speed, leastSpeed)})
			}
		}
		s.later[p] = envelope(lines)
	}
}

// measureSlots adds up the shares of all slots, as whole numbers so that their
// order does not matter.
func (s *Scheduler) measureSlots(free []Slot) {
	s.capacity = 0
	for _, slot := range free {
		s.capacity += int64(math.Round(1e6 * slot.Share))
	}
	for _, b := range s.busy {
		s.capacity += int64(math.Round(1e6 * b.Slot.Share))
	}
}

// looksInRound is how often a round looks ahead: what it gives away ends too, and
// may be worth waiting for.
const looksInRound = 8

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
		if l.left > 0 {
			r.s.rate(l.x.table, r.nowMs)
			r.s.enter(l.x)
		}
	}
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
