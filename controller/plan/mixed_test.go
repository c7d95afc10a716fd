package plan_test

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/test/plancase"
)

// A plan of whatever form is never below the best single configuration.
func TestMake_NeverBelowSingle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, c := drawProfile(t, "job", rapid.Bool().Draw(t, "live")), drawCycle(t)
		p.Kind = rapid.SampledFrom([]string{plan.Inference, plan.Training}).Draw(t, "kind")
		want := best(p, c)
		got, err := plan.Make(c, []plan.Profile{p}, plan.Options{})
		if err != nil {
			if want.Sign() != 0 || pipefill.ErrorCode(err) != pipefill.CodeConflict {
				t.Fatalf("%v, and the oracle has %s samples a cycle", err, want)
			}
			return
		}
		samples, err := replay(got, []pipefill.BubbleCycle{c}, []plan.Profile{p})
		if err != nil {
			t.Fatalf("%v\n%+v", err, got)
		}
		have := big.NewRat(samples["job"], int64(got.PeriodCycles))
		if exact, _ := have.Float64(); have.Cmp(want) < 0 || !near(got.SamplesPerCycle, exact) {
			t.Fatalf("%s samples a cycle, the plan says %g, single %s", have, got.SamplesPerCycle, want)
		}
		if p.Kind == plan.Training {
			for _, k := range got.Chunks {
				if p.Configs[k.Config].BatchSize != p.Configs[got.Chunks[0].Config].BatchSize {
					t.Fatal("training changes its batch size")
				}
			}
		}
	})
}

// A bubble with room for the large batch and one without: each gets its own.
func TestMake_MixesByMemory(t *testing.T) {
	config := func(batch, ms, peak int64) plan.Config {
		return plan.Config{BatchSize: batch, Technique: plan.Technique{Offload: "none"}, Ops: []plan.Op{{Name: "all", TimeNs: ms * 1e6, PeakBytes: peak}}}
	}
	p := plan.Profile{Version: 1, Name: "job", Kind: plan.Inference, Configs: []plan.Config{config(8, 10, 10), config(1, 4, 2)}}
	c := pipefill.BubbleCycle{IterationNs: 100e6, Bubbles: []pipefill.Bubble{
		{Index: 0, Kind: "fill-drain", DurationNs: 40e6, FreeBytes: 10}, {Index: 1, Kind: "steady", DurationNs: 8e6, FreeBytes: 2},
	}}
	got, err := plan.Make(c, []plan.Profile{p}, plan.Options{})
	if err != nil || got.SamplesPerCycle != 34 {
		t.Errorf("%+v %v, want 4 x 8 + 2 x 1 samples", got, err)
	}
	if got, err = plan.Make(c, []plan.Profile{p}, plan.Options{SingleOnly: true}); err != nil || got.SamplesPerCycle != 32 {
		t.Errorf("%+v %v, want 4 x 8 samples", got, err)
	}
}

func TestMake_Random(t *testing.T) {
	for seed := range uint64(20) {
		p, c := plancase.Random(seed, 5+int(seed)*3, 8, 6)
		got, err := plan.Make(c, []plan.Profile{p}, plan.Options{})
		if err != nil {
			if pipefill.ErrorCode(err) != pipefill.CodeConflict {
				t.Fatal(err)
			}
			continue
		}
		if _, err := replay(got, []pipefill.BubbleCycle{c}, []plan.Profile{p}); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}
