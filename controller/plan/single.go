package plan

import (
	"cmp"
	"math/big"
	"slices"

	"pipefill"
)

// rate is a steady throughput: batch x passes / cycles samples a cycle.
type rate struct {
	batch, passes, cycles int64
}

// float is the samples a cycle.
func (r rate) float() float64 {
	if r.cycles == 0 {
		return 0
	}
	return float64(r.batch) * float64(r.passes) / float64(r.cycles)
}

// compare is exact.
func (r rate) compare(other rate) int {
	left := new(big.Int).Mul(big.NewInt(r.batch), big.NewInt(r.passes))
	left.Mul(left, big.NewInt(max(other.cycles, 1)))
	right := new(big.Int).Mul(big.NewInt(other.batch), big.NewInt(other.passes))
	right.Mul(right, big.NewInt(max(r.cycles, 1)))
	return left.Cmp(right)
}

// orbit is how a configuration comes back to where it was: from op start at the
// begin of a cycle it gets there again after period cycles and passes.
type orbit struct {
	start  int
	period int
	passes int64
}

// turn runs one cycle from op first on.
func (w *way) turn(first int) (passes int64, next int) {
	for j := range w.bubbles {
		p, ops := w.step(first, j)
		passes += p
		if first += ops; first >= w.ops {
			first -= w.ops
			passes++
		}
	}
	return passes, first
}

// boundEvery is after how many cycles an orbit's bound is looked at.
const boundEvery = 32

// follow finds the steady state of "as far as fits in each bubble". That is the
// best there is: a map from op to op that is monotone over repeated passes (being
// further along never hurts), so that its throughput is the same from any start,
// and after k cycles known to within 1/k passes. It gives up (false) once that
// is less than atLeast samples a cycle.
func (w *way) follow(atLeast float64) (orbit, bool) {
	w.prepare()
	seen := make([]int32, w.ops) // the cycle, from 1, at whose begin the op was next
	count := []int64{}           // passes before each cycle
	first, passes := 0, int64(0)
	for cycle := 0; ; cycle++ {
		if before := seen[first]; before > 0 {
			return orbit{start: first, period: cycle - int(before) + 1, passes: passes - count[before-1]}, true
		}
		seen[first] = int32(cycle + 1)
		count = append(count, passes)
		if cycle%boundEvery == boundEvery-1 && float64(w.config.BatchSize)*float64(passes+2)/float64(cycle)*(1+1e-12) < atLeast {
			return orbit{}, false
		}
		p, next := w.turn(first)
		passes, first = passes+p, next
	}
}

// emit writes the chunks of an orbit.
func (w *way) emit(job string, o orbit) []Chunk {
	chunks := []Chunk{}
	first := o.start
	for cycle := range o.period {
		for j := range w.bubbles {
			passes, ops := w.step(first, j)
			if passes == 0 && ops == 0 {
				continue
			}
			chunks = append(chunks, w.chunk(job, cycle, j, first, passes, ops))
			first = (first + ops) % w.ops
		}
	}
	return chunks
}

// walker goes through cycles in one way: as far as fits, or by cuts.
type walker interface {
	emit(job string, o orbit) []Chunk
}

// best is the best configuration of a profile on some bubbles.
type best struct {
	rate   rate
	chunks []Chunk
	config int
	period int
}

// single finds the best single configuration; nil if none runs at all. always is
// what is free all the time.
func single(p *Profile, bubbles []pipefill.Bubble, always int64) *best {
	type entry struct {
		w     *way
		bound float64
	}
	var order []entry
	for i := range p.Configs {
		if p.Configs[i].staysBytes() > always {
			continue
		}
		w := newWay(&p.Configs[i], i, bubbles)
		order = append(order, entry{w, w.bound()})
	}
	// The most promising first, so that most others need not be looked at.
	slices.SortStableFunc(order, func(a, b entry) int { return cmp.Compare(b.bound, a.bound) })
	var found rate
	var winner walker
	var path orbit
	config := 0
	for _, e := range order {
		if e.bound == 0 || e.bound < found.float() {
			break
		}
		var walks walker = e.w
		var o orbit
		if e.w.config.live() {
			s := newSearch(newCuts(e.w, always))
			walks, o = s, s.run()
		} else {
			o, _ = e.w.follow(found.float())
		}
		r := rate{e.w.config.BatchSize, o.passes, int64(o.period)}
		if o.passes == 0 {
			continue
		}
		if c := r.compare(found); c > 0 || c == 0 && e.w.index < config {
			found, winner, path, config = r, walks, o, e.w.index
		}
	}
	if winner == nil {
		return nil
	}
	return &best{rate: found, chunks: winner.emit(p.Name, path), config: config, period: path.period}
}

// Single returns the best plan with one configuration of p on a device with the
// bubble cycle c: exact in the steady state, over whole periods. What fits no
// bubble is a pipefill.CodeConflict with a *Limit.
func Single(p Profile, c pipefill.BubbleCycle) (Plan, error) {
	if err := check(c, &p); err != nil {
		return Plan{}, err
	}
	b := single(&p, offered(c), alwaysFree(c))
	if b == nil {
		return Plan{}, cannotFit([]Profile{p}, c)
	}
	return makePlan(c, b.rate.float(), b.period, []string{p.Name}, b.chunks), nil
}

func makePlan(c pipefill.BubbleCycle, perCycle float64, period int, jobs []string, chunks []Chunk) Plan {
	return Plan{
		Version: Version, SamplesPerCycle: perCycle, SamplesPerSecond: perCycle / (float64(c.IterationNs) * 1e-9),
		PeriodCycles: period, Jobs: jobs, Chunks: chunks,
	}
}

// check tells whether cycle and profiles can be planned with at all.
func check(c pipefill.BubbleCycle, profiles ...*Profile) error {
	if c.IterationNs <= 0 || c.IterationNs > most || outside(c.AlwaysFreeBytes) {
		return pipefill.Errorf(pipefill.CodeInvalid, "bubble cycle: an iteration of %d ns, %d bytes always free: is there one yet?", c.IterationNs, c.AlwaysFreeBytes)
	}
	for i, b := range c.Bubbles {
		if outside(b.DurationNs) || outside(b.FreeBytes) {
			return pipefill.Errorf(pipefill.CodeInvalid, "bubble cycle: bubbles[%d] has a value that is out of its range", i)
		}
	}
	for _, p := range profiles {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	return nil
}
