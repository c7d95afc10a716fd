package schedule

import (
	"cmp"
	"fmt"
	"slices"

	"pipefill/controller/store"
)

// lane is the free slots of one class in a round.
type lane struct {
	x     *index
	slots []Slot // by node and device
	taken []bool
	left  int
	// The best job and the slot that it would have; i < 0: none.
	known bool
	i     int32
	at    int
	score [1 + maxLevels]float64
}

// maxLanes bounds the classes that are held against each other at once, and so
// the memory: slots of more classes are served in turns, by node.
const maxLanes = 128

// Assign pairs free slots with waiting jobs: again and again the pair with the
// highest score of all that there are. The jobs wait no more, and the slots
// count as busy, until told otherwise.
func (s *Scheduler) Assign(nowMs int64, free []Slot) []Pair {
	s.used++
	s.age(nowMs)
	if s.policy.uses.running {
		s.countRunning()
	}
	if s.waiting == 0 || len(free) == 0 {
		return nil
	}
	if len(free) > 1 {
		free = slices.Clone(free)
		slices.SortFunc(free, byPlace)
	}
	r := round{s: s, nowMs: float64(nowMs)}
	for len(free) > 0 {
		var n int
		n = r.open(free)
		r.serve()
		r.close()
		free = free[n:]
	}
	s.trim()
	return r.pairs
}

func byPlace(a, b Slot) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Device, b.Device))
}

func (s *Scheduler) countRunning() {
	s.roundsRun++
	for i := range s.groups {
		g := &s.groups[i]
		g.running, g.accountRunning = float64(s.users.counts[g.userID]), float64(s.accounts.counts[g.accountID])
	}
}

type round struct {
	s     *Scheduler
	nowMs float64
	lanes []*lane
	pairs []Pair
}

// open sorts slots into lanes, and returns how many it took.
func (r *round) open(free []Slot) int {
	byKey := map[indexKey]*lane{}
	r.lanes = r.lanes[:0]
	n := 0
	for ; n < len(free); n++ {
		key := r.s.indexKeyOf(&free[n])
		l := byKey[key]
		if l == nil {
			if len(byKey) == maxLanes {
				break
			}
			l = &lane{x: r.s.indexOf(&free[n], r.nowMs)}
			byKey[key] = l
			r.lanes = append(r.lanes, l)
		}
		l.slots = append(l.slots, free[n])
		l.taken = append(l.taken, false)
		l.left++
	}
	return n
}

func (r *round) close() {
	for _, l := range r.lanes {
		r.s.putBack(l.x)
	}
}

// serve takes pairs until there are none.
func (r *round) serve() {
	for {
		l := r.highest()
		if l == nil {
			return
		}
		r.take(l)
	}
}

// highest returns the lane with the best pair; nil: there is none.
func (r *round) highest() *lane {
	var best *lane
	for _, l := range r.lanes {
		if !l.known {
			r.look(l)
		}
		if l.i >= 0 && (best == nil || r.ahead(l, best)) {
			best = l
		}
	}
	return best
}

// look finds a lane's best pair.
func (r *round) look(l *lane) {
	l.known, l.i = true, -1
	for l.left > 0 {
		i := r.s.best(l.x)
		if i < 0 {
			return
		}
		at := l.slotFor(r.s, &r.s.facts[i])
		if at >= 0 {
			l.i, l.at = i, at
			r.s.now(l.x.table, i, r.nowMs, &l.score)
			return
		}
		l.x.aside = append(l.x.aside, i)
		r.s.next(l.x)
	}
}

// slotFor returns the lane's first free slot that a job may have; -1: none.
func (l *lane) slotFor(s *Scheduler, f *facts) int {
	for at := range l.slots {
		if !l.taken[at] && !s.vetoed(f, &l.slots[at]) {
			return at
		}
	}
	return -1
}

// ahead orders two lanes' pairs: by tier and scores, by who was first, by place.
func (r *round) ahead(a, b *lane) bool {
	for l := range a.x.stride {
		if a.score[l] != b.score[l] {
			return a.score[l] > b.score[l]
		}
	}
	if a.i != b.i {
		return r.s.first(a.i, b.i)
	}
	return byPlace(a.slots[a.at], b.slots[b.at]) < 0
}

// take gives a lane's best pair away. A user's own priorities only permute the
// places of the user's jobs: another of them may have the slot.
func (r *round) take(l *lane) {
	s, slot := r.s, l.slots[l.at]
	i := s.preferred(l.x, l.i, &slot)
	f := s.facts[i]
	time := s.timeOn(l.x, &f)
	s.drop(i)
	delete(s.places, f.job.ID)
	if i != l.i {
		r.trade(l.i, f)
	}
	s.Occupy(Busy{Slot: slot, User: f.job.User, Account: f.job.Account, UntilMs: int64(r.nowMs) + milliseconds(time)})
	r.pairs = append(r.pairs, Pair{Job: *f.job, Slot: slot, ExpectMs: milliseconds(time), Source: f.source})
	l.taken[l.at] = true
	l.left--
	for l.left > 0 && l.taken[0] { // keep slotFor short
		l.taken, l.slots = l.taken[1:], l.slots[1:]
	}
	l.known = false
	for _, o := range r.lanes {
		if o.known && o.i >= 0 && (s.facts[o.i].gone || s.full(s.facts[o.i].group, 1)) {
			o.known = false
		}
	}
}

// trade gives the job that was to be served the place of the one that was
// served instead: else a job that waits would be a place for any number of its
// user's later ones.
func (r *round) trade(i int32, place facts) {
	s := r.s
	j := s.facts[i].job
	s.drop(i)
	s.places[j.ID] = place
	s.add(j, false)
	for _, l := range r.lanes {
		s.rate(l.x.table, r.nowMs)
		s.enter(l.x)
		l.known = false
	}
}

// timeOn is how long a job takes on slots of a class, in seconds.
func (s *Scheduler) timeOn(x *index, f *facts) float64 {
	return f.ownWorkS / max(x.speeds[f.profile], leastSpeed)
}

// preferred returns the job of i's user that the user wants first, of those that
// may have the slot.
func (s *Scheduler) preferred(x *index, i int32, slot *Slot) int32 {
	f := &s.facts[i]
	levels := s.levels[s.groups[f.group].userID]
	if len(levels) < 2 {
		return i
	}
	var above []int64
	for level := range levels {
		if level > f.job.Priority {
			above = append(above, level)
		}
	}
	slices.SortFunc(above, func(a, b int64) int { return cmp.Compare(b, a) })
	for _, level := range above {
		levels[level] = slices.DeleteFunc(levels[level], func(k int32) bool { return s.facts[k].gone })
		if len(levels[level]) == 0 {
			delete(levels, level)
			continue
		}
		best := int32(-1)
		for _, k := range levels[level] {
			g := &s.facts[k]
			if g.devices <= 1 && s.fits(x, g.shape) && !s.full(g.group, 1) && !s.vetoed(g, slot) && (best < 0 || s.before(x, k, best)) {
				best = k
			}
		}
		if best >= 0 {
			return best
		}
	}
	return i
}

// trim forgets classes that were not asked for lately, when there are many.
func (s *Scheduler) trim() {
	if len(s.indexes) > maxLanes {
		for key, x := range s.indexes {
			if x.used != s.used {
				delete(s.indexes, key)
			}
		}
	}
	if len(s.tables) > maxLanes {
		for key, t := range s.tables {
			if t.used != s.used {
				delete(s.tables, key)
			}
		}
	}
}

// refuse notes a score that is no finite number, and returns the lowest.
func (s *Scheduler) refuse(f *facts, t *table, score float64) float64 {
	if s.bad == "" && !f.gone {
		s.bad = fmt.Sprintf("policy %s: the score of fill job %d on %s %s is %g: it is served last; change the policy so that it is always a number",
			s.policy.Name, f.job.JobID, t.slot.Node, t.slot.Device, score)
	}
	return lowest
}

const lowest = -1e300

// Assign pairs free slots with jobs once, without keeping anything: for tests
// and short queues.
func Assign(p *Policy, nowMs int64, jobs []store.FillJob, free []Slot) []Pair {
	s := New(p, Options{})
	s.Put(jobs...)
	return s.Assign(nowMs, free)
}
