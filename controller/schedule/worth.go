package schedule

import (
	"math"
	"slices"
)

// pool is the slots, free or not, that run any work alike.
type pool struct {
	speeds []float64 // by profile, the first of jobs without; 0: it fits no bubble
	count  float64
	busyMs int64   // until they are all free, added up: whole, so that their order does not matter
	soonS  float64 // until the first is free
}

// market is what slots are worth: the prices of the linear program that ends all
// that waits as soon as can be, of jobs that may be parted (as in Lawler and
// Labetoulle's bound for unrelated machines; its dual). Work then belongs where it
// costs the least: the slot that is the fastest for all is better kept for
// those for which others would be slower still.
type market struct {
	pools []pool
	worth []float64 // of a second of a slot, by pool
	costs []float64 // of a second of work where that is least, by profile
	doneS float64   // nothing ends all of it sooner
}

// The prices rise where there is more work than elsewhere (multiplicative weights,
// as Plotkin, Shmoys and Tardos' for fractional packing): they are good to a few
// per cent after the most steps, and after the fewest for choices that matter.
const (
	stepsMost  = 300
	stepsLeast = 30
	stepsWork  = 400_000 // times pools and profiles
)

// newMarket finds the prices for work, in seconds by profile, and the longest of
// its jobs. Equal arguments give the same to the bit.
func newMarket(pools []pool, work, longest []float64) market {
	m := market{pools: pools, worth: make([]float64, len(pools)), costs: make([]float64, len(work))}
	if len(pools) == 0 {
		return m
	}
	var asked []int // profiles
	for p, seconds := range work {
		if seconds > 0 && slices.ContainsFunc(pools, func(k pool) bool { return k.speed(p) > 0 }) {
			asked = append(asked, p)
		}
	}
	slots := 0.0
	for _, k := range pools {
		slots += k.count
	}
	for k := range m.worth {
		m.worth[k] = 1 / slots
	}
	best, prices, load := -1.0, slices.Clone(m.worth), make([]float64, len(pools))
	for step := range min(max(stepsWork/max(len(pools)*len(asked), 1), stepsLeast), stepsMost) {
		value := 0.0
		for k := range pools {
			load[k] = float64(pools[k].busyMs) / 1000
			value += prices[k] * load[k]
		}
		for _, p := range asked {
			k, cost := cheapest(pools, prices, p)
			value += work[p] * cost
			load[k] += work[p] / pools[k].speed(p)
		}
		if value > best {
			best = value
			copy(m.worth, prices)
		}
		most, sum := 0.0, 0.0
		for k := range load {
			load[k] /= pools[k].count
			most = max(most, load[k])
		}
		if most == 0 {
			break
		}
		for k := range prices {
			prices[k] *= math.Exp(load[k] / most / math.Sqrt(float64(step+4)))
			sum += prices[k] * pools[k].count
		}
		for k := range prices {
			prices[k] /= sum
		}
	}
	m.doneS = max(best, 0)
	for p, seconds := range longest {
		_, m.costs[p] = cheapest(pools, m.worth, p)
		alone := math.Inf(1)
		for _, k := range pools {
			if v := k.speed(p); v > 0 {
				alone = min(alone, k.soonS+seconds/v)
			}
		}
		if seconds > 0 && alone < Never {
			m.doneS = max(m.doneS, alone)
		}
	}
	return m
}

// cheapest is the pool where a profile's work costs the least, and how much a
// second of it.
func cheapest(pools []pool, prices []float64, profile int) (at int, cost float64) {
	at, cost = -1, math.Inf(1)
	for k := range pools {
		if v := pools[k].speed(profile); v > 0 && prices[k]/v < cost {
			at, cost = k, prices[k]/v
		}
	}
	return at, cost
}

// speed is that of jobs; 0: none fits.
func (k *pool) speed(profile int) float64 {
	if k.speeds[profile] <= 0 && profile > 0 {
		return 0
	}
	return max(k.speeds[profile], leastSpeed)
}

// joinPools makes one of pools that run any work alike, in an order that does
// not depend on where they are from.
func joinPools(pools []pool) []pool {
	slices.SortFunc(pools, func(a, b pool) int { return slices.Compare(a.speeds, b.speeds) })
	out := pools[:0]
	for _, k := range pools {
		if n := len(out); n > 0 && slices.Equal(out[n-1].speeds, k.speeds) {
			out[n-1].count += k.count
			out[n-1].busyMs += k.busyMs
			out[n-1].soonS = min(out[n-1].soonS, k.soonS)
			continue
		}
		out = append(out, k)
	}
	return out
}

// misfitStep is a step of job.misfit.
const misfitStep = 0.02

// misfits is how much more work costs on a slot with these speeds than where it
// costs the least, in steps, by profile. 0 also where nothing tells.
func (m *market) misfits(speeds []float64) []float64 {
	out := make([]float64, len(m.costs))
	k, found := slices.BinarySearchFunc(m.pools, speeds, func(k pool, speeds []float64) int { return slices.Compare(k.speeds, speeds) })
	if !found {
		return out
	}
	for p, cost := range m.costs {
		if v := m.pools[k].speed(p); v > 0 && cost > 0 {
			out[p] = math.Floor(math.Log(m.worth[k]/v/cost) / misfitStep)
		}
	}
	return out
}
