package plan_test

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/plan"
)

// worth is the least time that a job's sample takes on an idle device.
func worth(p plan.Profile) *big.Rat {
	var least *big.Rat
	for _, c := range p.Configs {
		sum := int64(0)
		for _, op := range c.Ops {
			sum += op.TimeNs
		}
		if r := big.NewRat(sum, c.BatchSize); least == nil || r.Cmp(least) < 0 {
			least = r
		}
	}
	return least
}

// Jobs that share a device make at least as much of it as any one of them does.
func TestMake_SharedNeverBelowSingle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCycle(t)
		ps := []plan.Profile{drawProfile(t, "a", false), drawProfile(t, "b", rapid.Bool().Draw(t, "live"))}
		if rapid.Bool().Draw(t, "three") {
			ps = append(ps, drawProfile(t, "c", false))
		}
		want := new(big.Rat)
		for _, p := range ps {
			if one := new(big.Rat).Mul(best(p, c), worth(p)); one.Cmp(want) > 0 {
				want = one
			}
		}
		got, err := plan.Make(c, ps, plan.Options{})
		if err != nil {
			if want.Sign() != 0 || pipefill.ErrorCode(err) != pipefill.CodeConflict {
				t.Fatalf("%v, want %s", err, want)
			}
			return
		}
		samples, err := replay(got, []pipefill.BubbleCycle{c}, ps)
		if err != nil {
			t.Fatalf("%v\n%+v", err, got)
		}
		have, all := new(big.Rat), int64(0)
		for _, p := range ps {
			have.Add(have, new(big.Rat).Mul(big.NewRat(samples[p.Name], int64(got.PeriodCycles)), worth(p)))
			all += samples[p.Name]
		}
		if have.Cmp(want) < 0 || !near(got.SamplesPerCycle, float64(all)/float64(got.PeriodCycles)) {
			t.Fatalf("%s ns a cycle, one alone %s; %g samples said, %d in %d", have, want, got.SamplesPerCycle, all, got.PeriodCycles)
		}
	})
}

func plainJob(name string, batch int64, ops ...plan.Op) plan.Profile {
	return plan.Profile{Version: 1, Name: name, Kind: plan.Inference, Configs: []plan.Config{
		{BatchSize: batch, Technique: plan.Technique{Offload: "none"}, Ops: ops},
	}}
}

// The job of long ops gets the long bubble, that of short ones the rest.
func TestMake_Shares(t *testing.T) {
	long, short := plainJob("long", 1, plan.Op{Name: "x", TimeNs: 40e6}), plainJob("short", 1, plan.Op{Name: "y", TimeNs: 3e6})
	c := pipefill.BubbleCycle{IterationNs: 200e6, Bubbles: []pipefill.Bubble{
		{Index: 0, Kind: "fill-drain", DurationNs: 40e6}, {Index: 1, Kind: "steady", DurationNs: 6e6}, {Index: 2, Kind: "steady", DurationNs: 9e6},
	}}
	got, err := plan.Make(c, []plan.Profile{short, long}, plan.Options{})
	if err != nil || len(got.Jobs) != 2 || got.SamplesPerCycle != 1+2+3 {
		t.Fatalf("%+v %v", got, err)
	}
	if got.Chunks[0].Job != "long" || got.Chunks[1].Job != "short" || got.Chunks[2].OpCount != 3 {
		t.Errorf("%+v", got.Chunks)
	}
}

func TestMake_TwoOfAName(t *testing.T) {
	p := plainJob("x", 1, plan.Op{TimeNs: 1})
	_, err := plan.Make(pipefill.BubbleCycle{IterationNs: 1}, []plan.Profile{p, p}, plan.Options{})
	if err == nil || err.Error() != `plan: two profiles are named "x": rename one` || pipefill.ErrorCode(err) != pipefill.CodeInvalid {
		t.Error(err)
	}
}

// Moving main state away pays where the transfers cost less than the room gives.
func TestMake_OffloadsMainState(t *testing.T) {
	job := plainJob("job", 4, plan.Op{Name: "x", TimeNs: 5e6, PeakBytes: 10})
	c := pipefill.BubbleCycle{IterationNs: 200e6, Bubbles: []pipefill.Bubble{
		{Index: 0, Kind: "fill-drain", DurationNs: 30e6, FreeBytes: 6},
		{Index: 1, Kind: "steady", DurationNs: 6e6, FreeBytes: 12},
		{Index: 4, Kind: "fwd-bwd", DurationNs: 20e6, FreeBytes: 6},
	}}
	without, err := plan.Make(c, []plan.Profile{job}, plan.Options{})
	if err != nil || without.SamplesPerCycle != 4 || without.MainOffload != nil {
		t.Fatalf("%+v %v", without, err)
	}
	state := plan.MainState{Name: "optimizer", Bytes: 5, OutNs: 4e6, InNs: 4e6}
	got, err := plan.Make(c, []plan.Profile{job}, plan.Options{MainState: []plan.MainState{state}})
	want := []plan.MainOffload{{Name: "optimizer", Bytes: 5, OutBubble: 0, InBubble: 4}}
	// 26 ms, 6 ms and 16 ms hold 5, 1 and 3 ops.
	if err != nil || got.SamplesPerCycle != 36 || len(got.MainOffload) != 1 || got.MainOffload[0] != want[0] {
		t.Errorf("%+v %v", got, err)
	}
	state.OutNs, state.InNs = 28e6, 20e6
	if got, err = plan.Make(c, []plan.Profile{job}, plan.Options{MainState: []plan.MainState{state}}); err != nil || got.MainOffload != nil || got.SamplesPerCycle != 4 {
		t.Errorf("a transfer that costs more than it gives: %+v %v", got, err)
	}
}

// Offloading is only chosen where it gives more, and then the plan keeps to the
// bubbles that are left.
func TestMake_OffloadNeverBelow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, c := drawProfile(t, "job", false), drawCycle(t)
		state := plan.MainState{Name: "s", Bytes: rapid.Int64Range(1, 9).Draw(t, "bytes"), OutNs: rapid.Int64Range(0, 9).Draw(t, "out"), InNs: rapid.Int64Range(0, 9).Draw(t, "in")}
		got, err := plan.Make(c, []plan.Profile{p}, plan.Options{MainState: []plan.MainState{state}})
		want := best(p, c)
		if err != nil {
			if want.Sign() != 0 {
				t.Fatal(err)
			}
			return
		}
		away := false
		for i := range c.Bubbles {
			b := &c.Bubbles[i]
			for _, m := range got.MainOffload {
				if b.Index == m.OutBubble {
					away = true
					b.DurationNs -= state.OutNs
				}
				if away {
					b.FreeBytes += m.Bytes
				}
				if b.Index == m.InBubble {
					away = false
					b.DurationNs -= state.InNs
				}
			}
		}
		samples, err := replay(got, []pipefill.BubbleCycle{c}, []plan.Profile{p})
		if err != nil {
			t.Fatalf("%v\n%+v", err, got)
		}
		if have := big.NewRat(samples["job"], int64(got.PeriodCycles)); have.Cmp(want) < 0 {
			t.Fatalf("%s, without %s", have, want)
		}
	})
}
