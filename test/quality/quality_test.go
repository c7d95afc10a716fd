package quality

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The exact methods agree with each other and bound what they are to bound.
func TestExact(t *testing.T) {
	for seed := range uint64(20) {
		in := draw(rand.New(rand.NewPCG(seed, 4)), 7, 5, true)
		if a, b := in.most(0, 0), in.mostOf(); math.Abs(a-b) > 1e-9 {
			t.Errorf("seed %d: all assignments give %v, Kuhn and Munkres %v", seed, a, b)
		}
		if in.utilization() > in.most(0, 0)+1e-9 {
			t.Errorf("seed %d: more than the most", seed)
		}
		in = draw(rand.New(rand.NewPCG(seed, 4)), 8, 3, seed%2 == 0)
		if bound, exact, made := in.bound(), in.soonest(), in.makespan(); bound > exact+1e-6 || exact > made+0.01 {
			t.Errorf("seed %d: bound %v, exact %v, made %v", seed, bound, exact, made)
		}
	}
}

// Within 5 % of exact in the mean.
func TestQuality(t *testing.T) {
	for _, r := range Measure(40) {
		t.Logf("%s: mean %.4f, p95 %.4f, most %.4f", r.Family, r.Mean, r.P95, r.Most)
		if r.Mean > Aim && !r.Bound || r.Mean < 1-1e-9 {
			t.Errorf("%s: %.3f of exact in the mean of %d, the aim is %.2f", r.Family, r.Mean, r.N, Aim)
		}
	}
}
