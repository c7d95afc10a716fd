package executor

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// job is a main job in numbers: what filling costs it, as a function of the
// share offered, and its noise.
type job struct {
	cost  func(share float64) float64
	noise float64
	rng   *rand.Rand
}

// play runs n iterations under a governor, from iteration first.
func (j job) play(g *governor, first, n uint64) {
	drift := 0.0
	for i := first; i < first+n; i++ {
		drift = 0.9*drift + j.noise*0.3*j.rng.NormFloat64()
		x := drift + j.noise*j.rng.NormFloat64()
		control := isControl(42, i, controlPpm(i))
		if !control && g.disabled == "" {
			x += j.cost(g.share)
		}
		g.observe(iteration{number: i, length: time.Duration(float64(200*time.Millisecond) * math.Exp(x)), control: control})
	}
}

func TestGovernor_LeavesACheapJobAlone(t *testing.T) {
	for seed := range uint64(20) {
		g := newGovernor(0.01, 0.9, 5*time.Millisecond)
		job{func(float64) float64 { return 0.001 }, 0.01, rand.New(rand.NewPCG(seed, 1))}.play(g, 0, 3000)
		if g.disabled != "" || g.share < 0.5 {
			t.Errorf("seed %d: share %.2f %s", seed, g.share, g.disabled)
		}
		lo, hi := g.interval()
		if lo > 0.001 || hi < 0.001 {
			t.Errorf("seed %d: the interval [%.4f, %.4f] misses 0.001", seed, lo, hi)
		}
	}
}

func TestGovernor_TurnsOffWhatStaysOverBudget(t *testing.T) {
	g := newGovernor(0.01, 0.9, 5*time.Millisecond)
	job{func(float64) float64 { return 0.08 }, 0.01, rand.New(rand.NewPCG(1, 1))}.play(g, 0, 1500)
	if g.disabled == "" {
		t.Errorf("8%% slow-down at any share: share %.2f after %d cuts and %d pairs", g.share, g.cuts, g.pairs.n)
	}
	t.Log(g.disabled)
}

func TestGovernor_ShrinksUntilItFits(t *testing.T) {
	g := newGovernor(0.01, 0.9, 5*time.Millisecond)
	cost := func(share float64) float64 { return 0.1 * max(0, share-0.5) }
	job{cost, 0.005, rand.New(rand.NewPCG(1, 2))}.play(g, 0, 4000)
	if g.disabled != "" || cost(g.share) > 0.015 {
		t.Errorf("share %.2f costs %.3f, %s", g.share, cost(g.share), g.disabled)
	}
	if g.guard <= 5*time.Millisecond {
		t.Errorf("guard %s", g.guard)
	}
}

func TestGovernor_PairsOnlyNeighbours(t *testing.T) {
	g := newGovernor(0.01, 0.9, 0)
	for _, it := range []iteration{
		{number: 1, length: 100, control: false},
		{number: 3, length: 100, control: true},
		{number: 4, length: 110},
		{number: 9, length: 100, control: true},
		{number: 10, length: 100, control: true},
	} {
		g.observe(it)
	}
	if g.pairs.n != 0 {
		t.Errorf("%d pairs of iterations that are not adjacent on both sides", g.pairs.n)
	}
	g.observe(iteration{number: 11, length: 110})
	if g.pairs.n != 1 || math.Abs(g.pairs.mean-math.Log(1.1)) > 1e-9 {
		t.Errorf("%d pairs, mean %f", g.pairs.n, g.pairs.mean)
	}
}

func TestGovernor_LatenessGrowsTheGuard(t *testing.T) {
	g := newGovernor(0.01, 0.9, 5*time.Millisecond)
	g.lateness(1000, 1)
	if g.guard != 5*time.Millisecond {
		t.Errorf("one in a thousand: %s", g.guard)
	}
	g.lateness(1100, 11)
	first := g.guard
	if first <= 5*time.Millisecond {
		t.Errorf("one in ten: %s", first)
	}
	g.lateness(60, 30) // another fill job, worse
	if g.guard <= first {
		t.Errorf("half: %s", g.guard)
	}
	for i := uint64(1); i < 100; i++ {
		g.lateness(60+100*i, 30+100*i)
	}
	if g.guard > 25*time.Millisecond {
		t.Errorf("the guard grew without bound: %s", g.guard)
	}
}

func TestIsControl_AsInC(t *testing.T) {
	// From pf_page_is_control(7, 0..31, 250000).
	var got uint32
	for i := range uint64(32) {
		if isControl(7, i, 250_000) {
			got |= 1 << i
		}
	}
	if want := uint32(0x11680124); got != want {
		t.Errorf("%#x, want %#x", got, want)
	}
}
