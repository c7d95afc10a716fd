package plan_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/plan"
)

// From wherever the jobs are, a new plan is reached without an op that is
// skipped or run twice.
func TestReplan_LosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCycle(t)
		ps := []plan.Profile{drawProfile(t, "a", rapid.Bool().Draw(t, "live"))}
		if rapid.Bool().Draw(t, "two") {
			ps = append(ps, drawProfile(t, "b", false))
		}
		var at []plan.Position
		r := newRunner([]pipefill.BubbleCycle{c}, ps)
		for _, p := range ps {
			k := rapid.IntRange(0, len(p.Configs)-1).Draw(t, "config")
			op := rapid.IntRange(0, len(p.Configs[k].Ops)-1).Draw(t, "op")
			at = append(at, plan.Position{Job: p.Name, Config: k, Op: op})
			r.at[p.Name] = position{k, op}
		}
		revision, err := plan.Replan(c, ps, at, plan.Options{})
		if err != nil {
			if pipefill.ErrorCode(err) != pipefill.CodeConflict {
				t.Fatal(err)
			}
			return
		}
		// What passes from before have on the device is there in any case.
		r.apart = true
		if _, err := r.run(revision.LeadIn, revision.LeadCycles); err != nil {
			t.Fatalf("lead-in from %+v: %v\n%+v", at, err, revision)
		}
		r.apart = false
		clear(r.stays)
		for range 2 {
			if _, err := r.run(revision.Plan.Chunks, revision.Plan.PeriodCycles); err != nil {
				t.Fatalf("plan after the lead-in from %+v: %v\n%+v", at, err, revision)
			}
		}
	})
}

// The pass of a batch that is too slow now is ended before the next one begins.
func TestReplan_EndsTheOldPass(t *testing.T) {
	p := plainJob("job", 1, plan.Op{TimeNs: 2e6}, plan.Op{TimeNs: 2e6})
	p.Configs = append(p.Configs, plan.Config{BatchSize: 8, Technique: plan.Technique{Offload: "none"}, Ops: []plan.Op{
		{TimeNs: 6e6}, {TimeNs: 5e6}, {TimeNs: 5e6},
	}})
	c := pipefill.BubbleCycle{IterationNs: 100e6, Bubbles: []pipefill.Bubble{{Index: 0, Kind: "fill-drain", DurationNs: 5e6}}}
	r, err := plan.Replan(c, []plan.Profile{p}, []plan.Position{{Job: "job", Config: 1, Op: 1}}, plan.Options{})
	if err != nil || r.LeadCycles != 2 || len(r.LeadIn) != 2 || r.LeadIn[0].Config != 1 || r.LeadIn[0].FirstOp != 1 || r.Plan.Chunks[0].Config != 0 {
		t.Errorf("%+v %v", r, err)
	}
	_, err = plan.Replan(c, []plan.Profile{p}, []plan.Position{{Job: "job", Config: 2, Op: 0}}, plan.Options{})
	if pipefill.ErrorCode(err) != pipefill.CodeInvalid {
		t.Error(err)
	}
	p.Configs[1].Ops[2].TimeNs = 7e6
	_, err = plan.Replan(c, []plan.Profile{p}, []plan.Position{{Job: "job", Config: 1, Op: 1}}, plan.Options{})
	if limit, ok := plan.LimitOf(err); !ok || limit.Kind != plan.LimitTime || limit.Op != 2 || limit.Over() != 2e6 {
		t.Errorf("%v", err)
	}
}

func TestDrift(t *testing.T) {
	c := pipefill.BubbleCycle{IterationNs: 1000, Bubbles: []pipefill.Bubble{
		{Index: 0, Kind: "fill-drain", DurationNs: 300, FreeBytes: 8}, {Index: 1, Kind: "steady", DurationNs: 100, FreeBytes: 8}, {Index: 2, Kind: "other", DurationNs: 100},
	}}
	for _, tc := range []struct {
		change func(*pipefill.BubbleCycle)
		want   float64
	}{
		{func(*pipefill.BubbleCycle) {}, 0},
		{func(c *pipefill.BubbleCycle) { c.Bubbles[2].DurationNs = 5 }, 0},
		{func(c *pipefill.BubbleCycle) { c.Bubbles[0].DurationNs, c.Bubbles[1].DurationNs = 280, 120 }, 0.1},
		{func(c *pipefill.BubbleCycle) { c.Bubbles = c.Bubbles[:1] }, 0.25},
		{func(c *pipefill.BubbleCycle) { c.Bubbles[0].FreeBytes = 6 }, 0.25},
		{func(c *pipefill.BubbleCycle) { c.IterationNs = 1500 }, 0.5},
	} {
		now := c
		now.Bubbles = append([]pipefill.Bubble{}, c.Bubbles...)
		tc.change(&now)
		if got := plan.Drift(c, now); math.Abs(got-tc.want) > 1e-12 {
			t.Errorf("%+v: %g, want %g", now, got, tc.want)
		}
	}
	if !math.IsInf(plan.Drift(pipefill.BubbleCycle{IterationNs: 1000}, c), 1) {
		t.Error("from no bubbles to some is no drift")
	}
}
