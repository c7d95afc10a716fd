package pipeline

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"pipefill"
)

const (
	// settle is how many iterations pass before the first that counts: the
	// pipeline's ends run into each other.
	settle = 3
	// jitterIterations are what jitter is averaged over; the library learns from
	// the last sixteen.
	jitterIterations = 64
)

// wait is one receive of one iteration: how long the device waited before it, the
// transfer's own time left out.
type wait struct {
	startNs, lengthNs int64
}

// runner is the event graph's evaluation, iteration after iteration.
type runner struct {
	m       Model
	orders  [][]operation
	indexes [][]int // of each operation's receive, -1: it receives nothing
	waits   int     // most receives of a stage; the one before the optimizer is the last
	random  *rand.Rand
	freeNs  []int64 // when each device is done with what it has done so far
	markNs  []int64 // each device's iteration mark
	// exact tells how long an operation took, where that is known: in tests, of
	// the engine's traces.
	exact func(stage int, op operation) int64
}

// Unroll evaluates the event graph of some iterations and returns a settled one.
func (m Model) Unroll() (Unrolled, error) {
	if wrong := m.Check(); len(wrong) > 0 {
		return Unrolled{}, pipefill.Errorf(pipefill.CodeInvalid, "pipeline: %s", wrong[0])
	}
	r := newRunner(m)
	rounds := 1
	if m.Jitter > 0 {
		rounds = jitterIterations
	}
	seen := make([][][]wait, m.Stages) // stage, receive, iteration
	for s := range seen {
		seen[s] = make([][]wait, r.waits+1)
	}
	var begin int64
	for i := range settle + rounds {
		waits, err := r.iteration()
		if err != nil {
			return Unrolled{}, err
		}
		if i < settle {
			begin = slices.Max(r.markNs)
			continue
		}
		for s, list := range waits {
			for k, w := range list {
				seen[s][k] = append(seen[s][k], w)
			}
		}
	}
	u := Unrolled{IterationNs: (slices.Max(r.markNs) - begin) / int64(rounds), commNs: m.ReduceNs + m.OptimizerNs}
	for s := range m.Stages {
		u.Stages = append(u.Stages, r.cycle(s, seen[s]))
	}
	return u, nil
}

func newRunner(m Model) *runner {
	r := &runner{
		m: m, random: rand.New(rand.NewPCG(m.Seed, 0x70697065)), //nolint:gosec // a simulation's, to be the same again
		freeNs: make([]int64, m.Stages), markNs: make([]int64, m.Stages),
	}
	last := m.Stages*m.Chunks - 1
	for s := range m.Stages {
		order := m.order(s)
		index := make([]int, len(order))
		n := 0
		for i, op := range order {
			index[i] = -1
			v := m.virtual(s, op.chunk)
			receives := op.work == forward && v > 0 && m.device(v-1) != s || op.work == backward && v < last && m.device(v+1) != s
			if receives {
				index[i] = n
				n++
			}
		}
		r.orders, r.indexes = append(r.orders, order), append(r.indexes, index)
		r.waits = max(r.waits, n)
	}
	return r
}

// timeNs draws how long an operation takes.
func (r *runner) timeNs(s int, op operation, ns int64) int64 {
	if r.exact != nil {
		return r.exact(s, op)
	}
	if r.m.Jitter == 0 {
		return ns
	}
	// Log-normal with mean 1.
	sigma := math.Sqrt(math.Log1p(r.m.Jitter * r.m.Jitter))
	return max(1, int64(float64(ns)*math.Exp(sigma*r.random.NormFloat64()-sigma*sigma/2)))
}

// iteration runs every device's list once, and returns its waits, by stage and
// receive.
func (r *runner) iteration() ([][]wait, error) {
	m := r.m
	virtual := m.Stages * m.Chunks
	// When the forward and the backward of a chunk are done, by micro-batch.
	var done [2][]int64
	for w := range done {
		done[w] = slices.Repeat([]int64{-1}, virtual*m.MicroBatches)
	}
	waits := make([][]wait, m.Stages)
	for s := range waits {
		waits[s] = make([]wait, r.waits+1)
	}
	next := make([]int, m.Stages)
	for left := true; left; {
		left = false
		moved := false
		for s := range m.Stages {
			for next[s] < len(r.orders[s]) && r.step(s, next[s], done, waits[s]) {
				next[s]++
				moved = true
			}
			left = left || next[s] < len(r.orders[s])
		}
		if left && !moved {
			return nil, fmt.Errorf("schedule %s with %d stages and %d micro-batches waits for itself", m.Schedule, m.Stages, m.MicroBatches)
		}
	}
	r.finish(waits)
	return waits, nil
}

// step runs one operation if what it waits for is known.
func (r *runner) step(s, i int, done [2][]int64, waits []wait) bool {
	m, op := r.m, r.orders[s][i]
	v := m.virtual(s, op.chunk)
	arrived := int64(0)
	transfer := int64(0)
	if op.work != weight {
		from := v - 1
		if op.work == backward {
			from = v + 1
		}
		if from >= 0 && from < m.Stages*m.Chunks {
			if arrived = done[op.work][from*m.MicroBatches+op.micro]; arrived < 0 {
				return false
			}
			if m.device(from) != s {
				transfer = m.TransferNs
			}
			arrived += transfer
		}
	}
	begin := r.freeNs[s]
	if k := r.indexes[s][i]; k >= 0 {
		begin += m.AnnounceNs
		if bubble := arrived - transfer - begin; bubble > 0 {
			waits[k] = wait{begin - r.markNs[s], bubble}
			arrived += m.LateNs
		} else {
			waits[k] = wait{begin - r.markNs[s], 0}
		}
	}
	begin = max(begin, arrived)
	switch op.work {
	case forward:
		r.freeNs[s] = begin + r.timeNs(s, op, m.ForwardNs[v])
	case backward:
		r.freeNs[s] = begin + r.timeNs(s, op, m.BackwardNs[v])
	case weight:
		r.freeNs[s] = begin + r.timeNs(s, op, m.WeightNs[v])
	}
	if op.work != weight {
		done[op.work][v*m.MicroBatches+op.micro] = r.freeNs[s]
	}
	return true
}

// finish reduces gradients, waits for the others if the norm of all is wanted,
// and steps.
func (r *runner) finish(waits [][]wait) {
	last := int64(0)
	for s := range r.freeNs {
		r.freeNs[s] += r.m.ReduceNs
		last = max(last, r.freeNs[s])
	}
	for s := range r.freeNs {
		if r.m.GlobalNorm {
			if bubble := last - r.freeNs[s]; bubble > 0 {
				waits[s][r.waits] = wait{r.freeNs[s] - r.markNs[s], bubble}
			}
			r.freeNs[s] = last
		}
		r.freeNs[s] += r.m.OptimizerNs
		r.markNs[s] = r.freeNs[s]
	}
}

// cycle sums up what a stage waited.
func (r *runner) cycle(s int, seen [][]wait) StageCycle {
	c := StageCycle{AlwaysFreeBytes: r.m.freeBytes(r.peak(s))}
	var sofar progress
	for i, op := range r.orders[s] {
		v := r.m.virtual(s, op.chunk)
		switch op.work {
		case forward:
			c.BusyNs += r.m.ForwardNs[v]
		case backward:
			c.BusyNs += r.m.BackwardNs[v]
		case weight:
			c.BusyNs += r.m.WeightNs[v]
		}
		if k := r.indexes[s][i]; k >= 0 {
			if b, waited := summed(seen[k]); waited {
				b.Index, b.Kind, b.InFlight = k, sofar.kind(op, r.m.MicroBatches*r.m.Chunks), sofar.held
				b.FreeBytes = r.m.freeBytes(b.InFlight)
				c.Bubbles = append(c.Bubbles, b)
			}
		}
		sofar.add(op, r.m.Schedule)
	}
	if b, waited := summed(seen[r.waits]); waited {
		b.Index, b.Kind, b.FreeBytes = r.waits, pipefill.BubbleFillDrain, r.m.freeBytes(0)
		c.Bubbles = append(c.Bubbles, b)
	}
	return c
}

func summed(waits []wait) (b Bubble, waited bool) {
	var lengths []int64
	for _, w := range waits {
		b.StartNs += w.startNs
		b.LengthNs += w.lengthNs
		lengths = append(lengths, w.lengthNs)
	}
	n := int64(len(waits))
	b.StartNs /= n
	b.LengthNs /= n
	slices.Sort(lengths)
	b.LowNs = lengths[len(lengths)/4]
	return b, b.LengthNs > 0
}

// progress is how far a stage's list is.
type progress struct {
	forwards, backwards int
	held                int // chunks whose activations are kept
}

// add counts an operation that is done. Activations are kept from a forward to its
// backward, or to its weights' gradient where that is apart.
func (p *progress) add(op operation, schedule Schedule) {
	switch op.work {
	case forward:
		p.forwards++
		p.held++
	case backward:
		p.backwards++
		if !schedule.ZeroBubble() {
			p.held--
		}
	case weight:
		p.held--
	}
}

// kind of the wait before an operation, as engine/pipefill/schedule.py tells it.
func (p *progress) kind(op operation, forwards int) pipefill.BubbleKind {
	switch {
	case op.work == forward && p.forwards == 0:
		return pipefill.BubbleFillDrain
	case op.work == backward && p.backwards == 0:
		return pipefill.BubbleFwdBwd
	case op.work == backward && p.forwards == forwards:
		return pipefill.BubbleFillDrain
	}
	return pipefill.BubbleSteady
}
