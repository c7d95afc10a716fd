package schedule

import (
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
)

// tableKey is what a policy's scores depend on of a slot: slots with the same
// are one class.
type tableKey struct {
	share, iteration, longest float64
	bubbles                   int
	free, mainEndMs           int64
	kind, node                string
	speeds                    string // of the profiles
	own                       fitKey // where scores fall: see trend.go
}

// table holds the scores of all jobs on slots of a class, 1 + levels numbers a
// job: the tier, then the policy's.
type table struct {
	slot    Slot
	speeds  []float64
	scores  []float64
	stride  int
	upto    int       // jobs so far
	nowMs   []float64 // of each level's numbers
	shares  int
	rounds  int
	ends    int
	misfits []float64 // by profile
	run     int       // counts rebuilds, for the indexes
	used    int
}

// tableKeyOf keeps of a slot what the policy looks at.
func (s *Scheduler) tableKeyOf(slot *Slot) tableKey {
	u := &s.policy.uses
	key := tableKey{}
	if u.share || u.timed {
		key.share = slot.Share
	}
	if u.timed && len(s.profiles) > 1 {
		key.speeds = s.cycleOf(slot).text
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

// inParallel does n things that do not depend on each other, as many at a time as
// there are processors.
func inParallel(n int, do func(i int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	if workers < 2 {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var done sync.WaitGroup
	for range workers {
		done.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	done.Wait()
}

// partOf is how many jobs are worth a processor of their own.
const partOf = 16 * 1024

func (s *Scheduler) newTable(slot *Slot) *table {
	return &table{slot: *slot, stride: 1 + len(s.policy.levels), nowMs: make([]float64, len(s.policy.levels))}
}

// rate brings a table up to date: the numbers of jobs that are new, and of all
// jobs those that have moved against each other since.
func (s *Scheduler) rate(t *table, nowMs float64) {
	if len(t.speeds) < len(s.profiles) {
		t.speeds = append([]float64{t.slot.Share}, s.cycleOf(&t.slot).speeds...)
	}
	if need := s.len() * t.stride; need > cap(t.scores) {
		t.scores = append(make([]float64, 0, need+need/4), t.scores...)
	}
	t.scores = t.scores[:s.len()*t.stride]
	if s.policy.uses.worth && (t.upto == 0 || t.ends != s.endsRun) {
		t.misfits = s.market.misfits(t.speeds)
	}
	moved := false
	for l := range t.nowMs {
		u := &s.policy.levelUses[l]
		passed := t.nowMs[l] != nowMs
		if u.falls && nowMs >= t.nowMs[l] { // what was worked out bounds it
			t.nowMs[l], passed = nowMs, false
		}
		if t.upto == 0 || !u.steady && passed || u.shares && t.shares != s.sharesRun || u.running && t.rounds != s.roundsRun || u.ends && t.ends != s.endsRun {
			moved = true
			t.nowMs[l] = nowMs
			s.score(t, l, 0, t.upto)
		}
	}
	if moved {
		t.run++
	}
	t.shares, t.rounds, t.ends = s.sharesRun, s.roundsRun, s.endsRun
	for l := range t.nowMs {
		s.score(t, l, t.upto, s.len())
	}
	t.upto = s.len()
}

// score computes one level's numbers of some jobs.
func (s *Scheduler) score(t *table, l, from, to int) {
	if to-from <= block {
		s.scorePart(&s.batch, t, l, from, to)
		return
	}
	inParallel((to-from+partOf-1)/partOf, func(i int) {
		first := from + i*partOf
		b, ok := s.batches.Get().(*batch)
		if !ok || len(b.registers) != s.policy.registers {
			b = s.newBatch()
		}
		s.scorePart(b, t, l, first, min(first+partOf, to))
		s.batches.Put(b)
	})
}

func (s *Scheduler) newBatch() *batch {
	return &batch{registers: make([][block]float64, s.policy.registers)}
}

func (s *Scheduler) scorePart(b *batch, t *table, l, from, to int) {
	var room [block]float64
	for first := from; first < to; first += block {
		out := room[:min(block, to-first)]
		s.point(b, t, t.nowMs[l], first)
		spread(b, s.policy.levels[l], out)
		at := first*t.stride + 1 + l
		for k, score := range out {
			if score-score != 0 { // NaN or infinite
				score = s.refuse(first+k, t, score)
			}
			if l == 0 { // never: behind all, whatever its tier
				t.scores[at-1] = s.tier[first+k]
				if score <= never {
					t.scores[at-1], score = never, 0
				}
			}
			t.scores[at] = score
			at += t.stride
		}
		if s.late > 0 {
			for k := range out {
				if s.starving[first+k] { // among these, who was first
					t.scores[(first+k)*t.stride], t.scores[(first+k)*t.stride+1+l] = s.tier[first+k], 0
				}
			}
		}
	}
}

// cycle is what profiles' plans make of a bubble cycle.
type cycle struct {
	speeds []float64 // of profiles 1 and on
	text   string    // the same, to compare
	plans  string    // a + for each that fits
}

// cycleOf asks for the speeds of all profiles; where nobody tells they are the
// slot's share.
func (s *Scheduler) cycleOf(slot *Slot) *cycle {
	key := slot.Cycle
	if s.options.Speed == nil {
		key = strconv.FormatFloat(slot.Share, 'g', -1, 64)
	}
	c := s.cycles[key]
	if c == nil {
		c = &cycle{}
		s.cycles[key] = c
	}
	for p := len(c.speeds) + 1; p < len(s.profiles); p++ {
		speed, fits := slot.Share, "+"
		if s.options.Speed != nil {
			speed = roundTo(s.options.Speed(s.profiles[p], *slot), 3) // or no two cycles would be of one class
		}
		if speed <= 0 && s.options.Speed != nil {
			fits = "-"
		}
		c.speeds = append(c.speeds, speed)
		c.text += strconv.FormatFloat(speed, 'g', -1, 64) + " "
		c.plans += fits
	}
	return c
}

// ready points the batch at the jobs from first on.
func (s *Scheduler) ready(t *table, nowMs float64, first int) { s.point(&s.batch, t, nowMs, first) }

func (s *Scheduler) point(b *batch, t *table, nowMs float64, first int) {
	b.context = context{columns: &s.columns, nowMs: nowMs, slot: &t.slot, speeds: t.speeds, groups: s.groups, later: s.later, misfits: t.misfits, doneS: s.market.doneS}
	b.first = first
}

// now returns a job's tier and scores at this time.
func (s *Scheduler) now(t *table, i int32, nowMs float64, out *[1 + maxLevels]float64) {
	copy(out[:], t.scores[int(i)*t.stride:(int(i)+1)*t.stride])
	if s.starving[i] {
		return
	}
	s.ready(t, nowMs, int(i))
	for l, level := range s.policy.levels {
		if level.pace() != still && (t.nowMs[l] != nowMs || s.policy.levelUses[l].falls) {
			level.eval(&s.batch, out[1+l:2+l])
			if x := out[1+l]; x-x != 0 {
				out[1+l] = s.refuse(int(i), t, x)
			}
			if l == 0 { // as in scorePart
				out[0] = s.tier[i]
				if out[1] <= never {
					out[0], out[1] = never, 0
				}
			}
		}
	}
}
