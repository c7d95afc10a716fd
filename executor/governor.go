package executor

import (
	"fmt"
	"math"
	"time"
)

// The governor keeps a main job's slow-down under its budget. It is pure: it
// is told how long iterations took and answers how much may be offered.
//
// Iterations are withheld at random (control iterations), by a hash of the
// main job's seed and the iteration, so that all its devices agree without a
// word. A withheld iteration is compared with its filled neighbours; the mean
// of the log ratios, with an always-valid interval (a normal mixture, after
// Robbins and Waudby-Smith), says what filling costs.
type governor struct {
	budget    float64
	shareMost float64
	guardBase time.Duration

	share    float64
	guard    time.Duration
	disabled string // why; for good

	last    [3]iteration // the last three, newest last
	taken   int          // of last
	pairs   pairStats
	since   int // pairs since the last change of share
	cuts    int
	filled  meanNs
	control meanNs

	openings, overruns uint64 // of the window that is being judged
}

// iteration is one iteration of a main job while a fill job was attached.
type iteration struct {
	number  uint64
	length  time.Duration
	control bool
	paired  bool
}

const (
	// With fewer pairs than this the interval of a small machine is wider
	// than anything we could act on.
	pairsLeast = 8
	// A cut is given this many pairs to show before the next.
	pairsBetween = 8
	// Cuts to a third of the share, and then off.
	cutsMost = 3
	// Old pairs fade with this memory: a plan may change during a job.
	pairsMemory = 512
	// One iteration twice as long as its neighbour is a checkpoint or a
	// neighbour's noise, not our slow-down: it counts as 20 %.
	pairClip = 0.2
	// The interval holds with 95 %.
	governorAlpha = 0.05
	// Openings after which lateness is judged, and how much of it is too much.
	latenessWindow = 50
	latenessMost   = 0.02
)

func newGovernor(budget, share float64, guard time.Duration) *governor {
	return &governor{budget: budget, shareMost: share, guardBase: guard, share: share, guard: guard}
}

// controlPpm is the chance of a control iteration. It depends on nothing but
// the iteration, since all devices of a main job must decide alike: half at
// first, when nothing is known, and 3 % of the time in the long run.
func controlPpm(iteration uint64) uint32 {
	switch {
	case iteration < 64:
		return 500_000
	case iteration < 256:
		return 200_000
	case iteration < 1024:
		return 100_000
	case iteration < 4096:
		return 50_000
	}
	return 30_000
}

// isControl is pf_page_is_control of spank/page.h.
func isControl(seed, iteration uint64, ppm uint32) bool {
	x := seed + iteration*0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	x ^= x >> 31
	return uint32((x>>32)%1_000_000) < ppm
}

// observe takes in an iteration during which a fill job was attached.
func (g *governor) observe(it iteration) {
	if it.length <= 0 {
		return
	}
	if it.control {
		g.control.add(it.length)
	} else {
		g.filled.add(it.length)
	}
	if g.taken > 0 && g.last[2].number+1 != it.number {
		g.taken = 0 // a gap: neighbours are not adjacent
	}
	g.last[0], g.last[1], g.last[2] = g.last[1], g.last[2], it
	g.taken = min(g.taken+1, 3)
	g.pairUp()
	g.judge()
}

// pairUp compares a control iteration with the filled ones on both sides, so
// that a drift cancels; an iteration stands in one pair only.
func (g *governor) pairUp() {
	if g.taken < 3 || !g.last[1].control {
		return
	}
	var sum float64
	n := 0
	for _, i := range []int{0, 2} {
		if it := &g.last[i]; !it.control && !it.paired {
			it.paired = true
			sum += math.Log(it.length.Seconds())
			n++
		}
	}
	if n > 0 {
		ratio := sum/float64(n) - math.Log(g.last[1].length.Seconds())
		g.pairs.add(max(-pairClip, min(pairClip, ratio)))
		g.since++
	}
}

// judge changes share or turns filling off, when enough is known.
func (g *governor) judge() {
	if g.disabled != "" || g.pairs.n < pairsLeast || g.since < pairsBetween {
		return
	}
	lo, hi := g.interval()
	switch {
	case lo > g.budget && g.cuts >= cutsMost:
		g.disabled = fmt.Sprintf("filling slowed the main job by %.1f%% to %.1f%%, over its budget of %.1f%%, with %.0f%% of each bubble offered",
			100*lo, 100*hi, 100*g.budget, 100*g.share)
	case lo > g.budget:
		// Surely over: less at once, and what was seen before is of the past.
		g.cuts++
		g.share, g.guard = g.share*0.65, g.guard*3/2
		g.pairs, g.since = pairStats{}, 0
	case g.pairs.mean > g.budget:
		g.share, g.since = max(g.share*0.95, 0.3*g.shareMost), 0
	case hi <= g.budget:
		// Proved: a little more, and the next pairs decide again.
		g.share, g.since = min(g.share*1.05, g.shareMost), 0
		g.guard = max(g.guard*95/100, g.guardBase)
	}
}

// lateness takes in how often fill work ran past its deadline, as totals.
func (g *governor) lateness(openings, overruns uint64) {
	if openings < g.openings {
		g.openings, g.overruns = 0, 0 // another fill job
	}
	n, late := openings-g.openings, overruns-g.overruns
	if n < latenessWindow {
		return
	}
	g.openings, g.overruns = openings, overruns
	if float64(late) > latenessMost*float64(n) {
		g.guard = min(g.guard*5/4+100*time.Microsecond, 4*g.guardBase+5*time.Millisecond)
	}
}

// interval is where the mean log ratio lies; the widest there is while too
// little is known.
func (g *governor) interval() (lo, hi float64) {
	if g.pairs.n < pairsLeast {
		return -pairClip, pairClip
	}
	r := g.pairs.radius(governorAlpha)
	return max(-pairClip, g.pairs.mean-r), min(pairClip, g.pairs.mean+r)
}

// pairStats is a fading mean and variance with lag-1 correlation.
type pairStats struct {
	n            int
	mean         float64
	weight       float64 // sum of weights
	weight2      float64 // sum of their squares
	square       float64 // weighted sum of squared deviations
	product      float64 // weighted sum of neighbours' products
	lastDeviance float64
}

func (p *pairStats) add(x float64) {
	const keep = 1 - 1.0/pairsMemory
	p.n++
	p.weight = p.weight*keep + 1
	p.weight2 = p.weight2*keep*keep + 1
	before := x - p.mean
	p.mean += before / p.weight
	after := x - p.mean
	p.square = p.square*keep + before*after
	p.product = p.product*keep + before*p.lastDeviance
	p.lastDeviance = before
}

// radius is the half width of the interval at level alpha.
func (p *pairStats) radius(alpha float64) float64 {
	n := p.weight * p.weight / p.weight2
	variance := p.square / max(p.weight-1, 1)
	// Neighbouring pairs that resemble each other tell less than they seem.
	if p.square > 0 {
		variance *= 1 + 2*max(0, min(0.9, p.product/p.square))
	}
	// A machine that is never that quiet: keeps the interval from vanishing.
	variance = max(variance, 1e-8)
	// The mixture's scale is set to be narrowest at some 50 pairs.
	rho := 2 * math.Log(1/alpha) / 50
	return math.Sqrt(variance) * math.Sqrt(2*(n*rho+1)/(n*n*rho)*math.Log(math.Sqrt(n*rho+1)/alpha))
}

// meanNs is a plain mean.
type meanNs struct {
	n    int64
	mean float64
}

func (m *meanNs) add(d time.Duration) {
	m.n++
	m.mean += (float64(d) - m.mean) / float64(m.n)
}
