package schedule

import (
	"math"
	"slices"
	"strings"

	"pipefill"
)

// tableKey is what a policy's scores depend on of a slot: slots with the same
// are one class.
type tableKey struct {
	share, iteration, longest float64
	bubbles                   int
	free, mainEndMs           int64
	kind, node, cycle         string
}

// indexKey tells besides which jobs fit.
type indexKey struct {
	table    tableKey
	allow    string
	kind     pipefill.DeviceKind
	cycle    string
	launches bool
	// Of the memory that jobs ask for, the most that the slot has; -1: it has
	// all, or is not known.
	memBytes int64
}

// table holds the scores of all jobs on slots of a class, 1 + levels numbers a
// job: the tier, then the policy's.
type table struct {
	slot   Slot
	speeds []float64
	scores []float64
	stride int
	upto   int // jobs so far
	nowMs  float64
	shares int
	rounds int
	run    int // counts rebuilds, for the indexes
	used   int
}

// index keeps the jobs that fit a class of slots in order: a heap a group, and
// over them one of the groups by their best. What is gone is found out when it
// comes up.
type index struct {
	*table

	key     indexKey
	fits    []int8 // by shape: 0 not looked at, 1 fits, -1 does not
	upto    int
	run     int
	buckets []bucket
	top     []int32 // groups, a heap
	parked  []int32 // groups at their limit
	aside   []int32 // jobs that no free slot of the class may have
	used    int
}

type bucket struct {
	jobs   []int32
	heaped bool // jobs is a heap; else only jobs[0] is the best
	at     int32
}

const notInTop = -1

// tableKeyOf keeps of a slot what the policy looks at.
func (s *Scheduler) tableKeyOf(slot *Slot) tableKey {
	u := &s.policy.uses
	key := tableKey{}
	if u.share || u.timed {
		key.share = slot.Share
	}
	if u.timed && len(s.profiles) > 1 {
		key.cycle = slot.Cycle
	}
	if u.cycle {
		key.iteration, key.longest, key.bubbles = slot.IterationS, slot.LongestS, slot.Bubbles
	}
	if u.free {
		key.free = slot.FreeBytes
	}
	if u.remains {
		key.mainEndMs = slot.MainEndMs
	}
	if u.kind {
		key.kind = string(slot.Device.Kind())
	}
	if u.node {
		key.node = slot.Node
	}
	return key
}

func (s *Scheduler) indexKeyOf(slot *Slot) indexKey {
	key := indexKey{table: s.tableKeyOf(slot), allow: allowOf(slot.Options), kind: slot.Device.Kind(), launches: slot.Launches, memBytes: -1}
	if len(s.profiles) > 1 {
		key.cycle = slot.Cycle
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
			t = &table{slot: *slot, stride: 1 + len(s.policy.levels)}
			s.tables[key.table] = t
		}
		x = &index{table: t, key: key}
		s.indexes[key] = x
	}
	x.used, x.table.used = s.used, s.used
	s.rate(x.table, nowMs)
	s.enter(x)
	return x
}

// rate brings a table up to date.
func (s *Scheduler) rate(t *table, nowMs float64) {
	u := &s.policy.uses
	if t.upto > 0 && (!u.steady && t.nowMs != nowMs || u.shares && t.shares != s.sharesRun || u.running && t.rounds != s.roundsRun) {
		t.upto = 0
		t.run++
	}
	if t.upto == 0 {
		t.nowMs, t.shares, t.rounds = nowMs, s.sharesRun, s.roundsRun
	}
	for p := len(t.speeds); p < len(s.profiles); p++ {
		t.speeds = append(t.speeds, s.speedOf(p, &t.slot))
	}
	if need := len(s.facts) * t.stride; need > cap(t.scores) {
		t.scores = append(make([]float64, 0, need+need/4), t.scores...)
	}
	t.scores = t.scores[:len(s.facts)*t.stride]
	var out [block]float64
	for ; t.upto < len(s.facts); t.upto = min(t.upto+block, len(s.facts)) {
		n := min(block, len(s.facts)-t.upto)
		s.ready(t, t.nowMs, t.upto, n)
		for k := range n {
			t.scores[(t.upto+k)*t.stride] = s.batch.facts[k].tier
		}
		for l, level := range s.policy.levels {
			spread(&s.batch, level, out[:n])
			for k, score := range out[:n] {
				f := &s.batch.facts[k]
				if f.starving {
					score = 0 // among these, who was first
				} else if math.IsNaN(score) || math.IsInf(score, 0) {
					score = s.refuse(f, t, score)
				}
				t.scores[(t.upto+k)*t.stride+1+l] = score
			}
		}
	}
}

// speedOf is what speeds[p] is.
func (s *Scheduler) speedOf(p int, slot *Slot) float64 {
	if p == 0 || s.options.Speed == nil {
		return slot.Share
	}
	return s.options.Speed(s.profiles[p], *slot)
}

// ready points the batch at n jobs from first on.
func (s *Scheduler) ready(t *table, nowMs float64, first, n int) {
	s.batch.context = context{nowMs: nowMs, slot: &t.slot, speeds: t.speeds, groups: s.groups}
	s.batch.facts = s.facts[first : first+n]
}

// now returns a job's tier and scores at this time.
func (s *Scheduler) now(t *table, i int32, nowMs float64, out *[1 + maxLevels]float64) {
	copy(out[:], t.scores[int(i)*t.stride:(int(i)+1)*t.stride])
	if t.nowMs == nowMs || s.facts[i].starving {
		return
	}
	s.ready(t, nowMs, int(i), 1)
	for l, level := range s.policy.levels {
		if level.pace() != still {
			level.eval(&s.batch, out[1+l:2+l])
			if x := out[1+l]; math.IsNaN(x) || math.IsInf(x, 0) {
				out[1+l] = s.refuse(&s.facts[i], t, x)
			}
		}
	}
}

// enter brings an index up to date with its table.
func (s *Scheduler) enter(x *index) {
	if x.run != x.table.run || x.upto == 0 {
		x.run, x.upto = x.table.run, 0
		for g := range x.buckets {
			b := &x.buckets[g]
			b.jobs, b.heaped, b.at = b.jobs[:0], false, notInTop
		}
		x.top, x.parked, x.aside = x.top[:0], x.parked[:0], x.aside[:0]
	}
	fresh := x.upto == 0
	for ; x.upto < len(s.facts); x.upto++ {
		f := &s.facts[x.upto]
		if f.gone || f.devices > 1 || !s.fits(x, f.shape) {
			continue
		}
		s.place(x, f.group, int32(x.upto), fresh)
	}
	if !fresh {
		return
	}
	for g := range x.buckets {
		if len(x.buckets[g].jobs) > 0 {
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
		for p := len(x.speeds); p < len(s.profiles); p++ {
			x.speeds = append(x.speeds, s.speedOf(p, &x.slot))
		}
		device := pipefill.DeviceID(x.key.kind + ":")
		if !h.once && (!h.gpu || x.key.kind == pipefill.KindGPU) && h.mode.Obstacle(device, x.key.launches) == "" && (x.key.memBytes < 0 || h.memBytes <= x.key.memBytes) &&
			(x.key.allow == "" || allows(x.key.allow, g.user, g.account)) && (h.profile == 0 || s.options.Speed == nil || s.fitsPlan(x, h.profile)) {
			x.fits[id] = 1
		}
	}
	return x.fits[id] > 0
}

// fitsPlan asks for the class's own cycle, which the table may not tell apart.
func (s *Scheduler) fitsPlan(x *index, profile int32) bool {
	slot := x.slot
	slot.Cycle = x.key.cycle
	return s.options.Speed(s.profiles[profile], slot) > 0
}

// place puts a job into its group's bucket. While an index is built the groups
// are ordered later.
func (s *Scheduler) place(x *index, g, i int32, building bool) {
	for len(x.buckets) <= int(g) {
		x.buckets = append(x.buckets, bucket{at: notInTop})
	}
	b := &x.buckets[g]
	b.jobs = append(b.jobs, i)
	last := len(b.jobs) - 1
	if b.heaped {
		s.lift(x, b.jobs, last)
	} else if last > 0 && s.before(x, i, b.jobs[0]) {
		b.jobs[0], b.jobs[last] = i, b.jobs[0]
	}
	if building {
		return
	}
	if b.at == notInTop {
		b.at = int32(len(x.top))
		x.top = append(x.top, g)
	}
	s.rise(x, int(b.at))
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
	f, g := &s.facts[a], &s.facts[b]
	if f.firstMs != g.firstMs {
		return f.firstMs < g.firstMs
	}
	return f.job.JobID < g.job.JobID || f.job.JobID == g.job.JobID && f.job.ID < g.job.ID
}

func (s *Scheduler) lift(x *index, jobs []int32, k int) {
	for k > 0 {
		up := (k - 1) / 2
		if !s.before(x, jobs[k], jobs[up]) {
			return
		}
		jobs[k], jobs[up] = jobs[up], jobs[k]
		k = up
	}
}

func (s *Scheduler) settle(x *index, jobs []int32, k int) {
	for {
		best := 2*k + 1
		if best >= len(jobs) {
			return
		}
		if best+1 < len(jobs) && s.before(x, jobs[best+1], jobs[best]) {
			best++
		}
		if !s.before(x, jobs[best], jobs[k]) {
			return
		}
		jobs[k], jobs[best] = jobs[best], jobs[k]
		k = best
	}
}

// pop takes the best job off a bucket.
func (s *Scheduler) pop(x *index, b *bucket) {
	last := len(b.jobs) - 1
	b.jobs[0] = b.jobs[last]
	b.jobs = b.jobs[:last]
	if b.heaped {
		s.settle(x, b.jobs, 0)
		return
	}
	// The first time: what is gone already need not be ordered.
	b.jobs = slices.DeleteFunc(b.jobs, func(i int32) bool { return s.facts[i].gone })
	for k := len(b.jobs)/2 - 1; k >= 0; k-- {
		s.settle(x, b.jobs, k)
	}
	b.heaped = true
}

func (s *Scheduler) better(x *index, g, h int32) bool {
	return s.before(x, x.buckets[g].jobs[0], x.buckets[h].jobs[0])
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
		i := x.buckets[g].jobs[0]
		switch {
		case s.facts[i].gone:
			s.next(x)
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
		if !s.facts[i].gone {
			s.place(x, s.facts[i].group, i, false)
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
