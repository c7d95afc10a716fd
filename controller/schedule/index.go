package schedule

import (
	"slices"
	"strings"

	"pipefill"
)

// indexKey tells besides which jobs fit.
type indexKey struct {
	table tableKey
	fitKey
}

type fitKey struct {
	allow    string
	kind     pipefill.DeviceKind
	plans    string // the profiles that fit
	launches bool
	alone    bool
	// Of the memory that jobs ask for, the most that the slot has; -1: it has
	// all, or is not known.
	memBytes int64
}

// index keeps the jobs that fit a class of slots in order: a bucket a group, and
// over them a heap of the groups by their best. What is gone is found out when it
// comes up.
type index struct {
	*table

	key     indexKey
	fits    []int8 // by shape: 0 not looked at, 1 fits, -1 does not
	looked  int    // shapes so far that scan has looked at
	upto    int
	run     int
	buckets []bucket
	top     []int32 // groups, a heap
	parked  []int32 // groups at their limit
	aside   []int32 // jobs that no free slot of the class may have
	scans   int     // since it was last up to date
	used    int
}

// bucket is the jobs of a group: those that are next in order, the best last,
// behind the others in none. When they are used up, more are looked for.
type bucket struct {
	jobs  []int32
	ready int   // at the end of jobs; at least one, where there are jobs
	more  int   // how many to look for
	at    int32 // in top
}

// A group of 200 jobs seldom has more than a few served in a round; one of
// 100,000 has, and is put in order in a few goes.
const (
	readyFirst = 8
	readyMore  = 4 // times as many each time, up to
	readyMost  = 1 << 20
)

func (b *bucket) best() int32 { return b.jobs[len(b.jobs)-1] }

const notInTop = -1

func (s *Scheduler) indexKeyOf(slot *Slot) indexKey {
	key := indexKey{table: s.tableKeyOf(slot), fitKey: fitKey{allow: allowOf(slot.Options), kind: slot.Device.Kind(), launches: slot.Launches, alone: slot.Alone, memBytes: -1}}
	if len(s.profiles) > 1 {
		key.plans = s.cycleOf(slot).plans
	}
	if slot.FreeBytes > 0 {
		n, found := slices.BinarySearch(s.mems, slot.FreeBytes)
		if found {
			n++
		}
		if n < len(s.mems) {
			key.memBytes = 0
			if n > 0 {
				key.memBytes = s.mems[n-1]
			}
		}
	}
	if s.policy.uses.falls {
		key.table.own = key.fitKey
	}
	return key
}

func allowOf(options string) string {
	for pair := range strings.SplitSeq(options, ",") {
		if list, found := strings.CutPrefix(pair, "allow="); found {
			return list + "+" // never empty: a list of nobody is one
		}
	}
	return ""
}

// indexOf returns the class of a slot, up to date.
func (s *Scheduler) indexOf(slot *Slot, nowMs float64) *index {
	key := s.indexKeyOf(slot)
	x := s.indexes[key]
	if x == nil {
		t := s.tables[key.table]
		if t == nil {
			t = s.newTable(slot)
			s.tables[key.table] = t
		}
		x = &index{table: t, key: key}
		s.indexes[key] = x
	}
	x.used, x.table.used = s.used, s.used
	s.rate(x.table, nowMs)
	return x
}

// scan finds the best job for one slot without putting the others in order; -1:
// none. more, if given, has a say. It is what an index costs to build, less the building.
func (s *Scheduler) scan(x *index, slot *Slot, more func(i int32) bool) int32 {
	for ; x.looked < len(s.shapes); x.looked++ {
		s.fits(x, int32(x.looked)) // now: the parts must not write
	}
	parts := (s.len() + partOf - 1) / partOf
	bests := make([]int32, parts)
	inParallel(parts, func(p int) { bests[p] = s.scanPart(x, slot, more, p*partOf, min((p+1)*partOf, s.len())) })
	best := int32(-1)
	for _, i := range bests {
		if i >= 0 && (best < 0 || s.before(x, i, best)) {
			best = i
		}
	}
	return best
}

func (s *Scheduler) scanPart(x *index, slot *Slot, more func(i int32) bool, from, to int) int32 {
	best, of := int32(-1), [1 + maxLevels]float64{never}
	scores, stride := x.scores[from*x.stride:to*x.stride], x.stride
	for i := int32(from); len(scores) >= stride; i, scores = i+1, scores[stride:] {
		if scores[0] <= never || behind(scores[:stride], &of) {
			continue
		}
		if s.gone[i] || best >= 0 && !s.before(x, i, best) {
			continue
		}
		if s.devices[i] <= 1 && x.fits[s.shape[i]] > 0 && !s.full(s.group[i], 1) && !s.vetoed(i, slot) && (more == nil || more(i)) {
			best = i
			copy(of[:], scores[:stride])
		}
	}
	return best
}

// behind tells whether scores are less than the best so far.
func behind(scores []float64, best *[1 + maxLevels]float64) bool {
	for l, score := range scores {
		if score != best[l] {
			return score < best[l]
		}
	}
	return false
}

// stale tells whether an index must be built anew before it can be used.
func (x *index) stale() bool { return x.run != x.table.run || x.upto == 0 }

// enter brings an index up to date with its table.
func (s *Scheduler) enter(x *index) {
	if x.stale() {
		x.run, x.upto = x.table.run, 0
		for g := range x.buckets {
			b := &x.buckets[g]
			b.jobs, b.ready, b.more, b.at = b.jobs[:0], 0, readyFirst, notInTop
		}
		x.top, x.parked, x.aside = x.top[:0], x.parked[:0], x.aside[:0]
	}
	fresh := x.upto == 0
	for ; x.upto < s.len(); x.upto++ {
		if !s.gone[x.upto] && s.devices[x.upto] <= 1 && s.fits(x, s.shape[x.upto]) {
			s.place(x, s.group[x.upto], int32(x.upto), fresh)
		}
	}
	if !fresh {
		return
	}
	for g := range x.buckets {
		if s.prepare(x, &x.buckets[g]); len(x.buckets[g].jobs) > 0 {
			x.buckets[g].at = int32(len(x.top))
			x.top = append(x.top, int32(g))
		}
	}
	for i := len(x.top)/2 - 1; i >= 0; i-- {
		s.sink(x, i)
	}
}

// fits tells whether jobs of a shape may have slots of the class.
func (s *Scheduler) fits(x *index, id int32) bool {
	for len(x.fits) <= int(id) {
		x.fits = append(x.fits, 0)
	}
	if x.fits[id] == 0 {
		x.fits[id] = -1
		h := s.shapes[id]
		g := &s.groups[h.group]
		device := pipefill.DeviceID(x.key.kind + ":")
		if !h.once && (!h.gang || !x.key.alone) && (!h.gpu || x.key.kind == pipefill.KindGPU) && h.mode.Obstacle(device, x.key.launches) == "" && (x.key.memBytes < 0 || h.memBytes <= x.key.memBytes) &&
			(x.key.allow == "" || allows(x.key.allow, g.user, g.account)) && (h.profile == 0 || x.key.plans[h.profile-1] == '+') {
			x.fits[id] = 1
		}
	}
	return x.fits[id] > 0
}

// place puts a job into its group's bucket. While an index is built all are put
// in order later.
func (s *Scheduler) place(x *index, g, i int32, building bool) {
	for len(x.buckets) <= int(g) {
		x.buckets = append(x.buckets, bucket{at: notInTop, more: readyFirst})
	}
	b := &x.buckets[g]
	b.jobs = append(b.jobs, i)
	if building {
		return
	}
	if last := len(b.jobs) - 1; b.ready == 0 {
		b.ready = 1
	} else {
		ready := b.jobs[last-b.ready : last]
		at, _ := slices.BinarySearchFunc(ready, i, func(j, i int32) int { return s.worstFirst(x, j, i) })
		at += last - b.ready
		if at > last-b.ready {
			b.ready++
		}
		copy(b.jobs[at+1:], b.jobs[at:last])
		b.jobs[at] = i
	}
	if b.at == notInTop {
		b.at = int32(len(x.top))
		x.top = append(x.top, g)
	}
	s.rise(x, int(b.at))
}

func (s *Scheduler) worstFirst(x *index, a, b int32) int {
	switch {
	case a == b:
		return 0
	case s.before(x, a, b):
		return 1
	}
	return -1
}

// prepare puts the next few of a bucket in order. What is gone it drops.
func (s *Scheduler) prepare(x *index, b *bucket) {
	b.jobs = slices.DeleteFunc(b.jobs, func(i int32) bool { return s.gone[i] })
	b.ready = min(b.more, len(b.jobs))
	b.more = min(b.more*readyMore, readyMost) // a bucket lives as long as its index
	if b.ready == 0 {
		return
	}
	if 4*b.ready > len(b.jobs) {
		b.ready = len(b.jobs)
	}
	rest, ready := b.jobs[:len(b.jobs)-b.ready], b.jobs[len(b.jobs)-b.ready:]
	slices.SortFunc(ready, func(i, j int32) int { return s.worstFirst(x, i, j) })
	worst := x.scores[int(ready[0])*x.stride:]
	for k, i := range rest {
		p := x.scores[int(i)*x.stride:]
		if p[0] < worst[0] || p[0] == worst[0] && p[1] < worst[1] || !s.before(x, i, ready[0]) {
			continue
		}
		rest[k] = ready[0]
		at := 0
		for ; at+1 < len(ready) && s.before(x, i, ready[at+1]); at++ {
			ready[at] = ready[at+1]
		}
		ready[at] = i
		worst = x.scores[int(ready[0])*x.stride:]
	}
}

// before orders jobs of one class: by tier and scores, then who was first.
func (s *Scheduler) before(x *index, a, b int32) bool {
	p, q := x.scores[int(a)*x.stride:], x.scores[int(b)*x.stride:]
	for l := range x.stride {
		if p[l] != q[l] {
			return p[l] > q[l]
		}
	}
	return s.first(a, b)
}

func (s *Scheduler) first(a, b int32) bool {
	if s.firstMs[a] != s.firstMs[b] {
		return s.firstMs[a] < s.firstMs[b]
	}
	j, k := s.job[a], s.job[b]
	return j.JobID < k.JobID || j.JobID == k.JobID && j.ID < k.ID
}

// pop takes the best job off a bucket.
func (s *Scheduler) pop(x *index, b *bucket) {
	b.jobs = b.jobs[:len(b.jobs)-1]
	if b.ready--; b.ready == 0 {
		s.prepare(x, b)
	}
}

func (s *Scheduler) better(x *index, g, h int32) bool {
	return s.before(x, x.buckets[g].best(), x.buckets[h].best())
}

func (x *index) swap(a, b int) {
	x.top[a], x.top[b] = x.top[b], x.top[a]
	x.buckets[x.top[a]].at, x.buckets[x.top[b]].at = int32(a), int32(b)
}

func (s *Scheduler) rise(x *index, k int) {
	for k > 0 && s.better(x, x.top[k], x.top[(k-1)/2]) {
		x.swap(k, (k-1)/2)
		k = (k - 1) / 2
	}
}

func (s *Scheduler) sink(x *index, k int) {
	for {
		best := 2*k + 1
		if best >= len(x.top) {
			return
		}
		if best+1 < len(x.top) && s.better(x, x.top[best+1], x.top[best]) {
			best++
		}
		if !s.better(x, x.top[best], x.top[k]) {
			return
		}
		x.swap(k, best)
		k = best
	}
}

// leave takes the first group off the top.
func (s *Scheduler) leave(x *index) {
	last := len(x.top) - 1
	g := x.top[0]
	x.swap(0, last)
	x.top = x.top[:last]
	x.buckets[g].at = notInTop
	if last > 0 {
		s.sink(x, 0)
	}
}

// next drops the best job of the first group.
func (s *Scheduler) next(x *index) {
	b := &x.buckets[x.top[0]]
	s.pop(x, b)
	if len(b.jobs) == 0 {
		s.leave(x)
		return
	}
	s.sink(x, 0)
}

// best returns the best job that waits and is not at a limit; -1: none.
func (s *Scheduler) best(x *index) int32 {
	for len(x.top) > 0 {
		g := x.top[0]
		i := x.buckets[g].best()
		switch {
		case s.gone[i]:
			s.next(x)
		case s.policy.uses.falls && !s.current(x, i):
			s.putDown(x)
		case x.scores[int(i)*x.stride] <= never:
			return -1
		case s.full(g, 1):
			s.leave(x)
			x.parked = append(x.parked, g)
		default:
			return i
		}
	}
	return -1
}

// putBack undoes what best and a round set aside.
func (s *Scheduler) putBack(x *index) {
	for _, i := range x.aside {
		if !s.gone[i] {
			s.place(x, s.group[i], i, false)
		}
	}
	x.aside = x.aside[:0]
	for _, g := range x.parked {
		if b := &x.buckets[g]; b.at == notInTop && len(b.jobs) > 0 {
			b.at = int32(len(x.top))
			x.top = append(x.top, g)
			s.rise(x, int(b.at))
		}
	}
	x.parked = x.parked[:0]
}
