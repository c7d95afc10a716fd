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
	slots []Slot // by share, node and device
	taken []bool
	left  int
	head  int // the first that may be free
	// The best job and the slot that it would have; i < 0: none.
	known bool
	i     int32
	at    int
	score [1 + maxLevels]float64
}

// maxLanes bounds the classes that are held against each other at once, and so
// the memory: slots of more classes are served in turns, those open the most first.
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
	if s.policy.uses.ends {
		if s.policy.uses.worth {
			s.countSlots(free)
		}
		s.lookAhead(float64(nowMs))
	}
	if s.waiting == 0 || len(free) == 0 {
		return nil
	}
	if len(free) > 1 {
		free = slices.Clone(free)
		slices.SortFunc(free, byPlace)
	}
	r := round{s: s, nowMs: float64(nowMs), lookEvery: lookEvery(len(free))}
	for len(free) > 0 {
		n := r.open(free)
		r.serve()
		r.close()
		r.gangs, r.hosts = nil, nil
		free = free[n:]
	}
	s.trim()
	return r.pairs
}

// byPlace orders slots that are as good by their scores: that which is open the
// most, then by node and device.
func byPlace(a, b Slot) int {
	return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Device, b.Device))
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

	lookEvery, sinceLook int // pairs; see lookAhead

	hosts     []host
	gangs     []*gang
	kept      []Slot // free, for a gang that waits for others to be
	keptUntil float64
}

// open sorts slots into lanes, and returns how many it took.
func (r *round) open(free []Slot) int {
	byKey := map[indexKey]*lane{}
	r.lanes = r.lanes[:0]
	n := 0
	if len(free) == 1 {
		r.lanes = append(r.lanes, &lane{x: r.s.indexOf(&free[0], r.nowMs), slots: free, taken: []bool{false}, left: 1})
		return 1
	}
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
	r.enterAll()
	return n
}

// enterAll brings all lanes' indexes up to date.
func (r *round) enterAll() {
	for _, l := range r.lanes {
		r.s.rate(l.x.table, r.nowMs)
	}
	inParallel(len(r.lanes), func(i int) {
		if r.lanes[i].left > 0 {
			r.s.enter(r.lanes[i].x)
		}
	})
}

func (r *round) close() {
	for _, l := range r.lanes {
		r.s.putBack(l.x)
	}
}

// serve takes pairs until there are none.
func (r *round) serve() {
	r.gather()
	for {
		l, g := r.highest(), r.firstGang()
		switch {
		case g != nil && (l == nil || r.aheadOf(g.score, l.score, g.i, l.i, g.x.stride)):
			r.seat(g)
		case l != nil:
			r.serveLane(l)
		default:
			r.backfill()
			return
		}
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
	if len(r.lanes) == 1 && len(l.slots) == 1 && l.left == 1 && r.once(l) {
		return
	}
	for l.left > 0 {
		i := r.s.best(l.x)
		if i < 0 {
			return
		}
		at := l.slotFor(r.s, i)
		if at >= 0 {
			l.i, l.at = i, at
			r.s.now(l.x.table, i, r.nowMs, &l.score)
			return
		}
		l.x.aside = append(l.x.aside, i)
		r.s.next(l.x)
	}
}

// scansFirst is how often a class is scanned for a single slot before its jobs
// are put in order, where that order would last.
const scansFirst = 2

// once serves a single slot without an index, where that is less work.
func (r *round) once(l *lane) bool {
	s, u := r.s, &r.s.policy.uses
	lasts := (u.steady || u.falls) && !u.shares && !u.running
	if l.x.scans++; !l.x.stale() || lasts && l.x.scans > scansFirst {
		s.enter(l.x)
		return false
	}
	s.exact(l.x.table)
	if l.i = s.scan(l.x, &l.slots[0], nil); l.i >= 0 {
		l.at = 0
	}
	return true
}

// slotFor returns the lane's first free slot that a job may have; -1: none.
func (l *lane) slotFor(s *Scheduler, i int32) int {
	for l.head < len(l.taken) && l.taken[l.head] {
		l.head++
	}
	for at := l.head; at < len(l.slots); at++ {
		if !l.taken[at] && !s.vetoed(i, &l.slots[at]) {
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

// serveLane gives a lane's best pair away. A user's own priorities only permute the
// places of the user's jobs: another of them may have the slot.
func (r *round) serveLane(l *lane) {
	s, slot := r.s, l.slots[l.at]
	i := s.preferred(l.x, l.i, &slot, r.nowMs)
	f := s.facts(i)
	time := s.timeOn(&slot, &f)
	s.drop(i)
	delete(s.places, f.job.ID)
	if i != l.i {
		r.trade(l.i, f)
	}
	r.give(&f, slot, time)
	l.take(l.at)
	r.check()
	r.lookAgain()
}

// give writes a pair down.
func (r *round) give(f *facts, slot Slot, timeS float64) {
	worst := int64(r.nowMs) + milliseconds(r.s.worstOn(&slot, f))
	r.s.Occupy(Busy{Slot: slot, User: f.job.User, Account: f.job.Account, UntilMs: worst, ExpectMs: int64(r.nowMs) + milliseconds(timeS)})
	r.pairs = append(r.pairs, Pair{Job: *f.job, Slot: slot, ExpectMs: milliseconds(timeS), Source: f.source})
}

// take marks a slot as taken.
func (l *lane) take(at int) {
	l.taken[at] = true
	l.left--
	l.known = false
}

// check has lanes look again whose best job is gone or may have no more slots.
func (r *round) check() {
	for _, o := range r.lanes {
		if o.known && o.i >= 0 && (r.s.gone[o.i] || r.s.full(r.s.group[o.i], 1)) {
			o.known = false
		}
	}
}

// trade gives the job that was to be served the place of the one that was
// served instead: else a job that waits would be a place for any number of its
// user's later ones.
func (r *round) trade(i int32, place facts) {
	s := r.s
	j := s.job[i]
	s.drop(i)
	s.places[j.ID] = place
	s.add(j, false)
	for _, l := range r.lanes {
		s.rate(l.x.table, r.nowMs)
		if !l.x.stale() {
			s.enter(l.x)
		}
		l.known = false
	}
}

// timeOn is how long a job takes on a slot, in seconds.
func (s *Scheduler) timeOn(slot *Slot, f *facts) float64 {
	speed := slot.Share
	if f.profile > 0 {
		speed = s.cycleOf(slot).speeds[f.profile-1]
	}
	return f.ownWorkS / max(speed, leastSpeed)
}

// preferred returns the job of i's user that the user wants first, of those that
// may have the slot.
func (s *Scheduler) preferred(x *index, i int32, slot *Slot, nowMs float64) int32 {
	levels := s.levels[s.groups[s.group[i]].userID]
	if len(levels) < 2 {
		return i
	}
	var above []int64
	for level := range levels {
		if level > s.job[i].Priority {
			above = append(above, level)
		}
	}
	slices.SortFunc(above, func(a, b int64) int { return cmp.Compare(b, a) })
	for _, level := range above {
		levels[level] = slices.DeleteFunc(levels[level], func(k int32) bool { return s.gone[k] })
		if len(levels[level]) == 0 {
			delete(levels, level)
			continue
		}
		best, first := int32(-1), [1 + maxLevels]float64{}
		for _, k := range levels[level] {
			if s.devices[k] > 1 || !s.fits(x, s.shape[k]) || s.full(s.group[k], 1) || s.vetoed(k, slot) {
				continue
			}
			var key [1 + maxLevels]float64
			if s.now(x.table, k, nowMs, &key); key[0] <= never {
				continue
			}
			if c := slices.Compare(key[:x.stride], first[:x.stride]); best < 0 || c > 0 || c == 0 && s.first(k, best) {
				best, first = k, key
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
func (s *Scheduler) refuse(i int, t *table, score float64) float64 {
	s.badMu.Lock()
	defer s.badMu.Unlock()
	if s.bad == "" && !s.gone[i] {
		s.bad = fmt.Sprintf("policy %s: the score of fill job %d on %s %s is %g: it is served last; change the policy so that it is always a number",
			s.policy.Name, s.job[i].JobID, t.slot.Node, t.slot.Device, score)
	}
	return lowest
}

// Assign pairs free slots with jobs once, without keeping anything: for tests
// and short queues.
func Assign(p *Policy, nowMs int64, jobs []store.FillJob, free []Slot) []Pair {
	s := New(p, Options{})
	s.Put(jobs...)
	return s.Assign(nowMs, free)
}
