package plan

import (
	"cmp"
	"slices"

	"pipefill"
)

// moment is a point in time between passes: a bubble, counted on through
// repeated cycles, and what is used of it.
type moment struct {
	slot int
	used int64
}

func (m moment) before(other moment) bool {
	return m.slot < other.slot || m.slot == other.slot && m.used < other.used
}

// finish runs a pass from m on, with op first next, as far as fits in each
// bubble, and tells when it ends, and after how many bubbles; false if it never
// does. visit, if there is one, gets each chunk.
func (w *way) finish(m moment, first int, visit func(slot, first, ops int)) (end moment, steps int, ok bool) {
	idle := 0
	for n := len(w.bubbles); idle <= n; m = (moment{m.slot + 1, 0}) {
		steps++
		j := m.slot % n
		ops := 0
		if budget := w.budget[j] - m.used; budget >= 0 && w.room[j] >= 0 {
			ops = w.reach(first, w.ops-first, w.sums[first]+budget)
			if w.room[j] < w.peak {
				ops = w.roomy(first, ops, w.room[j])
			}
		}
		if ops == 0 {
			idle++
			continue
		}
		idle = 0
		if visit != nil {
			visit(m.slot, first, ops)
		}
		if first+ops == w.ops {
			return moment{m.slot, m.used + w.timeNs(first, 0, ops)}, steps, true
		}
		first += ops
	}
	return moment{}, steps, false
}

// label is how soon so many samples can be done, and by what last pass.
type label struct {
	at   moment
	way  int32 // -1: not reached, or the begin
	done bool  // reached
}

// Bounds of the search for a mix: bubbles stepped through, some 50 ns each, and
// configurations mixed.
const (
	mixSteps  = 50_000
	mixWays   = 6
	mixCycles = 32 // the longest period
	mixEnds   = 3  // ways whose stretches are looked at
)

// mixed mixes configurations between passes. The earliest end of any mix of
// passes with so many samples follows from those with fewer (to be earlier never
// hurts), so that each number of samples needs one label: exact up to where
// mixSteps are used up. A stretch of the way there that comes back to the same
// place of the cycle, or an earlier one, is a period. nil if there is none
// better than atLeast samples a cycle.
func mixed(p *Profile, bubbles []pipefill.Bubble, always int64, atLeast *best) *best {
	var found *best
	for _, ways := range mixable(p, bubbles, always, atLeast) {
		m := newMix(ways, len(bubbles))
		m.fill()
		if b := m.period(p.Name); b != nil && (found == nil || b.rate.compare(found.rate) > 0) && (atLeast == nil || b.rate.compare(atLeast.rate) > 0) {
			found = b
		}
	}
	return found
}

// mixable are the groups of configurations that may follow one another: those
// that stay on the device, or those that are swapped; for training of one batch
// size. Of each group the most promising for some bubble.
func mixable(p *Profile, bubbles []pipefill.Bubble, always int64, best *best) [][]*way {
	type key struct {
		swapped bool
		batch   int64
	}
	groups := map[key][]*way{}
	var keys []key
	for i := range p.Configs {
		c := &p.Configs[i]
		if c.live() || c.staysBytes() > always {
			continue
		}
		k := key{swapped: c.swapped()}
		if p.Kind == Training {
			k.batch = c.BatchSize
		}
		if groups[k] == nil {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], newWay(c, i, bubbles))
	}
	var out [][]*way
	for _, k := range keys {
		chosen := promising(groups[k], best)
		if len(chosen) < 2 {
			continue
		}
		for _, w := range chosen {
			w.prepare()
		}
		out = append(out, chosen)
	}
	return out
}

// promising are the ways that give most in some bubble by itself, whole passes
// or a part of one, and the best single one.
func promising(ways []*way, best *best) []*way {
	votes := make([]float64, len(ways))
	for j := range ways[0].bubbles {
		top, most := -1, 0.0
		for i, w := range ways {
			if w.budget[j] <= 0 || w.room[j] < w.peak {
				continue
			}
			passes := float64(w.budget[j]) / float64(w.passNs)
			if passes > 1 {
				passes = float64(w.budget[j] / w.passNs)
			}
			if gain := passes * float64(w.config.BatchSize); gain > most {
				top, most = i, gain
			}
		}
		if top >= 0 {
			votes[top] += most
		}
	}
	order := make([]int, len(ways))
	for i, w := range ways {
		order[i] = i
		if best != nil && w.index == best.config {
			votes[i] += float64(most)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(votes[b], votes[a]) })
	var out []*way
	for _, i := range order {
		if votes[i] > 0 && len(out) < mixWays {
			out = append(out, ways[i])
		}
	}
	return out
}

// mix is one group's search.
type mix struct {
	ways   []*way
	slots  int   // bubbles of a cycle
	unit   int64 // all batch sizes are multiples of it
	labels []label
	final  int // labels up to here are as early as can be
}

func newMix(ways []*way, slots int) *mix {
	m := &mix{ways: ways, slots: slots}
	for _, w := range ways {
		m.unit = gcd(m.unit, w.config.BatchSize)
	}
	return m
}

// fill works out the labels until mixSteps are used up.
func (m *mix) fill() {
	m.labels = []label{{done: true, way: -1}}
	usable := slices.Clone(m.ways)
	steps := 0
	for s := 0; s < len(m.labels) && steps < mixSteps; s++ {
		m.final = s
		if !m.labels[s].done {
			steps++
			continue
		}
		for i, w := range usable {
			if w == nil {
				continue
			}
			end, took, ok := w.finish(m.labels[s].at, 0, nil)
			steps += took
			if !ok {
				usable[i] = nil
				continue
			}
			to := s + int(w.config.BatchSize/m.unit)
			for len(m.labels) <= to {
				m.labels = append(m.labels, label{way: -1})
			}
			if l := &m.labels[to]; !l.done || end.before(l.at) {
				*l = label{at: end, way: int32(i), done: true}
			}
		}
	}
}

// path are the labels on the way to one, in their order.
func (m *mix) path(to int) []int {
	var out []int
	for s := to; ; s -= int(m.ways[m.labels[s].way].config.BatchSize / m.unit) {
		out = append(out, s)
		if s == 0 {
			break
		}
	}
	slices.Reverse(out)
	return out
}

// period is the stretch with the best rate on the ways to the last labels.
func (m *mix) period(job string) *best {
	var found rate
	var stretch []int
	for s, tried := m.final, 0; s > 0 && tried < mixEnds; s-- {
		if !m.labels[s].done {
			continue
		}
		tried++
		path := m.path(s)
		for cycles := 1; cycles <= mixCycles && cycles*m.slots <= m.labels[s].at.slot+m.slots; cycles++ {
			end := 0
			for begin := range path {
				until := m.labels[path[begin]].at
				until.slot += cycles * m.slots
				for end+1 < len(path) && !until.before(m.labels[path[end+1]].at) {
					end++
				}
				r := rate{m.unit, int64(path[end] - path[begin]), int64(cycles)}
				if float64(r.passes)*float64(max(found.cycles, 1)) > float64(found.passes)*float64(cycles) {
					found, stretch = r, path[begin:end+1]
				}
			}
		}
	}
	if len(stretch) < 2 {
		return nil
	}
	return &best{rate: found, chunks: m.emit(job, stretch, int(found.cycles)), config: -1, period: int(found.cycles)}
}

// emit writes the chunks of a stretch as a period that begins with a cycle.
func (m *mix) emit(job string, stretch []int, cycles int) []Chunk {
	base := m.labels[stretch[0]].at.slot / m.slots * m.slots
	round := cycles * m.slots
	// What wraps around runs before what the period begins with in the same bubble.
	own, wrapped := make([][]Chunk, round), make([][]Chunk, round)
	for i, s := range stretch[:len(stretch)-1] {
		w := m.ways[m.labels[stretch[i+1]].way]
		w.finish(m.labels[s].at, 0, func(slot, first, ops int) {
			to := own
			if slot -= base; slot >= round {
				slot, to = slot-round, wrapped
			}
			to[slot] = append(to[slot], w.chunk(job, slot/m.slots, slot%m.slots, first, 0, ops))
		})
	}
	chunks := []Chunk{}
	for slot := range round {
		chunks = append(chunks, m.merge(append(wrapped[slot], own[slot]...))...)
	}
	return chunks
}

// merge joins the chunks of one bubble that go on in the same configuration.
func (m *mix) merge(list []Chunk) []Chunk {
	var out []Chunk
	for _, one := range list {
		if len(out) == 0 || out[len(out)-1].Config != one.Config {
			out = append(out, one)
			continue
		}
		last := &out[len(out)-1]
		i := slices.IndexFunc(m.ways, func(w *way) bool { return w.index == one.Config })
		last.OpCount += one.OpCount
		last.TimeNs += one.TimeNs - m.ways[i].config.SwapInNs - m.ways[i].config.SwapOutNs
		last.PeakBytes = max(last.PeakBytes, one.PeakBytes)
	}
	return out
}
