package plan

import (
	"math/bits"
	"slices"
)

// cuts are where the chunks of a configuration with live bytes may end, and
// what that costs.
type cuts struct {
	*way
	allowed []bool  // a chunk may end before op p (p = 0: at a pass's end)
	inNs    []int64 // beyond SwapInNs, of a chunk that begins with op p
	outNs   []int64 // beyond SwapOutNs, of one that ends before op p
}

func newCuts(w *way, alwaysFree int64) *cuts {
	w.prepare()
	c := &cuts{way: w, allowed: make([]bool, w.ops), inNs: make([]int64, w.ops), outNs: make([]int64, w.ops)}
	for p := range w.ops {
		live := w.config.Ops[(p+w.ops-1)%w.ops].LiveBytes
		stays := w.config.staysBytes()
		if w.config.swapped() && w.config.ResidentBytes > 0 {
			c.inNs[p] = proportion(live, w.config.SwapInNs, w.config.ResidentBytes)
			c.outNs[p] = proportion(live, w.config.SwapOutNs, w.config.ResidentBytes)
		} else {
			stays += live
		}
		c.allowed[p] = stays <= alwaysFree
	}
	return c
}

// proportion is a*b/c, rounded up, and at most what no bubble has.
func proportion(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))  //nolint:gosec // none is negative
	lo, carry := bits.Add64(lo, uint64(c-1), 0) //nolint:gosec // c is positive
	hi += carry
	if hi >= uint64(c) { //nolint:gosec // c is positive
		return most
	}
	quotient, _ := bits.Div64(hi, lo, uint64(c)) //nolint:gosec // c is positive
	return int64(min(quotient, most))
}

// cut is one way to go on: so many passes and ops, where to, and for how long.
type cut struct {
	passes int64
	ops    int
}

// each calls f for every place where a chunk that begins with op first in bubble
// j may end; of ends at the same op only the one after the most passes, since
// being further along never hurts. The last one may be no chunk at all.
func (c *cuts) each(first, j int, f func(cut)) {
	f(cut{})
	budget := c.budget[j] - c.inNs[first]
	if c.room[j] < 0 || budget < 0 {
		return
	}
	whole := c.room[j] >= c.peak
	for d := 1; d <= c.ops; d++ {
		if !whole && c.peaks[first+d-1] > c.room[j] {
			return
		}
		took := c.sums[first+d] - c.sums[first]
		if took > budget {
			return
		}
		end := first + d
		if end >= c.ops {
			end -= c.ops
		}
		left := budget - took - c.outNs[end]
		if left < 0 || !c.allowed[end] {
			continue
		}
		passes := int64(0)
		if whole && left >= c.passNs {
			passes = min(left/c.passNs, maxPasses)
		}
		f(cut{passes, d})
	}
}

// search finds the cuts with the best cycle ratio, passes for cycles of bubbles,
// by policy iteration (Cochet-Terrasson et al., "Numerical computation of
// spectral elements in max-plus algebra", 1998): a state is a bubble and the op
// that is next, a policy one cut for each. All in whole numbers, so that it ends
// and is exact.
type search struct {
	*cuts
	choice []cut   // by state: bubble x ops + op
	ratioP []int64 // passes of the cycle that a state's policy leads to
	ratioQ []int64 // and its cycles of bubbles
	value  []int64 // passes*Q - cycles*P on the way there, relative to the cycle's root
	order  []int32
	mark   []int32
}

func newSearch(c *cuts) *search {
	n := c.ops * len(c.bubbles)
	s := &search{
		cuts: c, choice: make([]cut, n), ratioP: make([]int64, n), ratioQ: make([]int64, n), value: make([]int64, n),
		mark: make([]int32, n), order: make([]int32, 0, n),
	}
	for j := range c.bubbles {
		for p := range c.ops {
			// As far as fits, to begin with.
			c.each(p, j, func(e cut) {
				if e.passes*int64(c.ops)+int64(e.ops) >= s.choice[j*c.ops+p].passes*int64(c.ops)+int64(s.choice[j*c.ops+p].ops) {
					s.choice[j*c.ops+p] = e
				}
			})
		}
	}
	return s
}

// next is where a cut leads, the passes that end on the way, and whether a
// cycle of bubbles does.
func (s *search) next(state int, e cut) (to int, passes, cycles int64) {
	j, p := state/s.ops, state%s.ops
	passes, p = e.passes, p+e.ops
	if p >= s.ops {
		p -= s.ops
		passes++
	}
	if j++; j == len(s.bubbles) {
		j, cycles = 0, 1
	}
	return j*s.ops + p, passes, cycles
}

// evaluate works out what the policy gives from each state.
func (s *search) evaluate() {
	clear(s.mark)
	for state := range s.choice {
		s.order = s.order[:0]
		at := state
		for s.mark[at] == 0 {
			s.mark[at] = int32(state) + 1
			s.order = append(s.order, int32(at))
			at, _, _ = s.next(at, s.choice[at])
		}
		if s.mark[at] == int32(state)+1 && len(s.order) > 0 {
			s.closeCycle(at)
		}
		// Backwards from the cycle, or from what was evaluated before.
		for _, state := range slices.Backward(s.order) {
			if at := int(state); s.mark[at] > 0 {
				s.take(at)
			}
		}
	}
}

// closeCycle sets the ratio of the cycle through root, whose value is 0.
func (s *search) closeCycle(root int) {
	var p, q int64
	at := root
	for {
		next, passes, cycles := s.next(at, s.choice[at])
		p, q = p+passes, q+cycles
		if at = next; at == root {
			break
		}
	}
	if d := gcd(p, q); s.ratioP[root] != p/d || s.ratioQ[root] != q/d {
		s.ratioP[root], s.ratioQ[root], s.value[root] = p/d, q/d, 0
	} // else its value stays: they rise from policy to policy, which is why this ends
	s.mark[root] = -1
}

// take sets a state's value from where its policy leads.
func (s *search) take(at int) {
	next, passes, cycles := s.next(at, s.choice[at])
	s.ratioP[at], s.ratioQ[at] = s.ratioP[next], s.ratioQ[next]
	s.value[at] = passes*s.ratioQ[next] - cycles*s.ratioP[next] + s.value[next]
	s.mark[at] = -1
}

// improve changes the policy where another cut gives more: a better cycle, or,
// if there is none anywhere, more on the way to one.
func (s *search) improve() bool {
	changed := false
	for state := range s.choice {
		s.each(state%s.ops, state/s.ops, func(e cut) {
			to, _, _ := s.next(state, e)
			now, _, _ := s.next(state, s.choice[state])
			if s.ratioP[to]*s.ratioQ[now] > s.ratioP[now]*s.ratioQ[to] {
				s.choice[state], changed = e, true
			}
		})
	}
	if changed {
		return true
	}
	for state := range s.choice {
		most := s.value[state]
		s.each(state%s.ops, state/s.ops, func(e cut) {
			to, passes, cycles := s.next(state, e)
			if s.ratioP[to] != s.ratioP[state] || s.ratioQ[to] != s.ratioQ[state] {
				return
			}
			if v := passes*s.ratioQ[to] - cycles*s.ratioP[to] + s.value[to]; v > most {
				most = v
				s.choice[state], changed = e, true
			}
		})
	}
	return changed
}

// run returns the orbit from op 0 at the begin of a cycle.
func (s *search) run() orbit {
	for {
		s.evaluate()
		if !s.improve() {
			break
		}
	}
	seen := make([]int, s.ops)
	count := []int64{}
	first, passes := 0, int64(0)
	for cycle := 0; ; cycle++ {
		if before := seen[first]; before > 0 {
			return orbit{start: first, period: cycle - before + 1, passes: passes - count[before-1]}
		}
		seen[first] = cycle + 1
		count = append(count, passes)
		state := first
		for range s.bubbles {
			next, more, _ := s.next(state, s.choice[state])
			passes += more
			state = next
		}
		first = state
	}
}

// emit writes the chunks of an orbit.
func (s *search) emit(job string, o orbit) []Chunk {
	chunks := []Chunk{}
	state := o.start
	for cycle := range o.period {
		for j := range s.bubbles {
			e, first := s.choice[state], state%s.ops
			if e.passes > 0 || e.ops > 0 {
				one := s.chunk(job, cycle, j, first, e.passes, e.ops)
				one.TimeNs += s.inNs[first] + s.outNs[(first+e.ops)%s.ops]
				chunks = append(chunks, one)
			}
			state, _, _ = s.next(state, e)
		}
	}
	return chunks
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// stuck is why no chunk can begin with op first in any bubble: of the places
// where one might end, the one nearest to being reached.
func (c *cuts) stuck(l Limit, first int, alwaysFree int64) *Limit {
	var nearest *Limit
	try := func(kind LimitKind, op int, need, have int64) {
		one := l
		one.Kind, one.Op, one.OpName, one.Need, one.Have = kind, op, c.config.Ops[op].Name, need, have
		if nearest == nil || one.ratio() < nearest.ratio() {
			nearest = &one
		}
	}
	var peak int64
	for d := 1; d <= c.ops; d++ {
		op, end := (first+d-1)%c.ops, (first+d)%c.ops
		peak = max(peak, c.config.ResidentBytes+c.config.Ops[op].PeakBytes)
		if !c.allowed[end] {
			try(LimitAlwaysFree, op, c.config.staysBytes()+c.config.Ops[op].LiveBytes, alwaysFree)
			continue
		}
		need := c.timeNs(first, 0, d) + c.inNs[first] + c.outNs[end]
		var longest, freest int64
		for _, b := range c.bubbles {
			longest = max(longest, b.DurationNs)
			if b.DurationNs >= need {
				freest = max(freest, b.FreeBytes)
			}
		}
		if longest < need {
			try(LimitTime, op, need, longest)
		} else {
			try(LimitMemory, op, peak, freest)
		}
	}
	return nearest
}
