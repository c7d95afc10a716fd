package measure_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill/measure"
)

func TestUnion_MergesAndDropsEmpty(t *testing.T) {
	got := measure.Union([]measure.Interval{{30, 40}, {0, 10}, {5, 12}, {12, 20}, {25, 25}})
	want := []measure.Interval{{0, 20}, {30, 40}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestIntersectAndOverlap_Agree(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var a, b []measure.Interval
		for range 1 + random.IntN(20) {
			x, y := random.Int64N(1000), random.Int64N(1000)
			a = append(a, measure.Interval{x, x + random.Int64N(50)})
			b = append(b, measure.Interval{y, y + random.Int64N(50)})
		}
		ua, ub := measure.Union(a), measure.Union(b)
		var sum int64
		for _, iv := range ua {
			sum += measure.Overlap(iv, ub)
		}
		if both := measure.Length(measure.Intersect(ua, ub)); both != sum {
			t.Fatalf("intersection %d ns, overlaps %d ns", both, sum)
		}
	}
}

func TestFilled_TakesTheWorstCase(t *testing.T) {
	bubbles := []measure.Interval{{100, 200}}
	cases := []struct {
		name            string
		readings        []measure.Reading
		inside, outside int64
	}{
		{"all within", []measure.Reading{{100, 0}, {200, 90}}, 90, 0},
		{"half beyond", []measure.Reading{{100, 0}, {300, 150}}, 50, 100},
		{"little used, long beyond", []measure.Reading{{100, 0}, {1000, 50}}, 0, 50},
		{"nothing used between", []measure.Reading{{100, 0}, {200, 90}, {500, 90}}, 90, 0},
		{"used while it should stand", []measure.Reading{{100, 0}, {200, 90}, {500, 95}}, 90, 5},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			inside, outside := measure.Filled(tc.readings, bubbles)
			if inside != tc.inside || outside != tc.outside {
				t.Errorf("inside %d outside %d, want %d and %d", inside, outside, tc.inside, tc.outside)
			}
		})
	}
}

// The interval must hold the true difference about as often as it says, on
// iterations that drift as a noisy machine's do.
func TestOverhead_Covers(t *testing.T) {
	const runs, length, truth = 400, 600, 0.01
	random := rand.New(rand.NewPCG(3, 4))
	covered := 0
	for range runs {
		drift := 0.0
		iterations := make([]measure.Iteration, length)
		for i := range iterations {
			drift = 0.95*drift + 0.005*random.NormFloat64()
			log := math.Log(200e6) + drift + 0.02*random.NormFloat64()
			control := random.IntN(2) == 0
			if !control {
				log += truth
			}
			iterations[i] = measure.Iteration{Number: int64(i), Control: control, Ns: int64(math.Exp(log))}
		}
		e, ok := measure.Overhead(iterations, 10)
		if !ok {
			t.Fatal("no estimate")
		}
		if e.Lo <= math.Expm1(truth) && math.Expm1(truth) <= e.Hi {
			covered++
		}
	}
	if share := float64(covered) / runs; share < 0.92 || share > 0.99 {
		t.Errorf("the 95 %% interval held the truth in %.1f %% of runs", 100*share)
	}
}

func TestOverhead_NeedsBothSorts(t *testing.T) {
	if e, ok := measure.Overhead(make([]measure.Iteration, 50), 10); ok {
		t.Errorf("an estimate %+v of nothing", e)
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	if got := measure.Quantile(values, 0.5); got != 2.5 {
		t.Errorf("median %v, want 2.5", got)
	}
	if got := measure.Quantile(values, 1); got != 4 {
		t.Errorf("maximum %v, want 4", got)
	}
	if !math.IsNaN(measure.Quantile(nil, 0.5)) {
		t.Error("a quantile of nothing")
	}
}

// An evaluation is no slow-down: iterations are compared without what they
// spent in phases that are never offered.
func TestCompared_WithoutPhases(t *testing.T) {
	const iteration = 8
	events := []measure.Event{
		{Iteration: 1, Kind: "fwd-bwd", BeginNs: 20, EndNs: 50},
		{Iteration: 1, BeginNs: 0, EndNs: 100, Flags: iteration},
		{Iteration: 2, Kind: "other", Index: 255, BeginNs: 120, EndNs: 900},
		{Iteration: 2, BeginNs: 100, EndNs: 1000, Flags: iteration},
		{Iteration: 3, Kind: "other", Index: 255, BeginNs: 1000, EndNs: 1100},
		{Iteration: 3, BeginNs: 1000, EndNs: 1100, Flags: iteration},
	}
	fills := []measure.Fill{{Device: "cpu:0", Readings: []measure.Reading{{AtNs: 0}, {AtNs: 2000}}}}
	traces, err := measure.Announced(map[string][]measure.Event{"cpu:0": events}, fills, []string{"cpu:0"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]measure.Iteration{{Number: 1, Ns: 100}, {Number: 2, Ns: 120}}, measure.Compared(traces)); d != "" {
		t.Error(d)
	}
	if n := len(traces.Ranks[0].Waits); n != 1 {
		t.Errorf("%d waits", n)
	}
}
