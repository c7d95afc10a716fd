package plan_test

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/plan"
)

// best is the oracle's optimum over the configurations, in samples a cycle.
func best(p plan.Profile, c pipefill.BubbleCycle) *big.Rat {
	most := new(big.Rat)
	for i := range p.Configs {
		r := new(big.Rat).Mul(oracle(&p.Configs[i], c), big.NewRat(p.Configs[i].BatchSize, 1))
		if r.Cmp(most) > 0 {
			most = r
		}
	}
	return most
}

func checkSingle(t *rapid.T, live bool) {
	p, c := drawProfile(t, "job", live), drawCycle(t)
	want := best(p, c)
	got, err := plan.Single(p, c)
	if err != nil {
		limit, ok := plan.LimitOf(err)
		if want.Sign() != 0 || pipefill.ErrorCode(err) != pipefill.CodeConflict || !ok || limit.Kind != plan.LimitBubbles && limit.Over() <= 0 {
			t.Fatalf("%v (%+v), and the oracle has %s samples a cycle", err, limit, want)
		}
		return
	}
	samples, err := replay(got, []pipefill.BubbleCycle{c}, []plan.Profile{p})
	if err != nil {
		t.Fatal(err)
	}
	if have := big.NewRat(samples["job"], int64(got.PeriodCycles)); have.Cmp(want) != 0 {
		t.Fatalf("%s samples a cycle, the oracle has %s", have, want)
	}
	exact, _ := want.Float64()
	if !near(got.SamplesPerCycle, exact) || !near(got.SamplesPerSecond, exact/1e-6) {
		t.Fatalf("the plan says %g a cycle, %g a second, want %g a cycle of 1 us", got.SamplesPerCycle, got.SamplesPerSecond, exact)
	}
}

func near(a, b float64) bool { return a-b <= 1e-9*b && b-a <= 1e-9*b }

func TestSingle_Oracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkSingle(t, false) })
}

func TestSingle_OracleWithLiveBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkSingle(t, true) })
}
