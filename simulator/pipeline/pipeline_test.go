package pipeline

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

const ms = 1_000_000

func unroll(t testing.TB, m Model) Unrolled {
	t.Helper()
	u, err := m.Unroll()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// What the schedules' papers say of equal stages without transfers.
func TestUnroll_ClosedForms(t *testing.T) {
	for _, p := range []int{2, 4, 8, 16} {
		for _, k := range []int{1, 2, 4} {
			m := k * 2 * p
			f, b := int64(12*ms), int64(24*ms)
			check := func(name string, model Model, bubbleNs, busyNs int64) {
				for _, norm := range []bool{false, true} {
					model.GlobalNorm = norm
					u := unroll(t, model)
					for s, stage := range u.Stages {
						var waited int64
						for _, bubble := range stage.Bubbles {
							waited += bubble.LengthNs
						}
						if waited != bubbleNs || stage.BusyNs != busyNs {
							t.Errorf("%s p=%d m=%d norm %t: stage %d waits %d ns and works %d, want %d and %d", name, p, m, norm, s, waited, stage.BusyNs, bubbleNs, busyNs)
						}
					}
					if u.IterationNs != busyNs+bubbleNs {
						t.Errorf("%s p=%d m=%d: iteration %d, want %d", name, p, m, u.IterationNs, busyNs+bubbleNs)
					}
				}
			}
			P, M := int64(p-1), int64(m)
			check("gpipe", Uniform(GPipe, p, m, 1, f, b, 0), P*(f+b), M*(f+b))
			check("1f1b", Uniform(OneFOneB, p, m, 1, f, b, 0), P*(f+b), M*(f+b))
			for _, v := range []int{2, 3, 4} {
				check(fmt.Sprint("interleaved ", v), Uniform(Interleaved, p, m, v, f, b, 0), P*(f+b)/int64(v), M*(f+b))
			}
			check("zb-h1", Uniform(ZBH1, p, m, 1, f, b/2, b/2), P*(f+b/2-b/2), M*(f+b))
			check("zb-h1 of uneven thirds", Uniform(ZBH1, p, m, 1, f, b, f), P*(f+b-f), M*(f+b+f))
		}
	}
}

func TestUnroll_Zbv(t *testing.T) {
	for _, p := range []int{2, 4, 8} {
		u := unroll(t, Uniform(ZBV, p, 4*p, 2, 20*ms, 20*ms, 20*ms))
		if f := u.BubbleFraction(); f > 0.001 {
			t.Errorf("p=%d: thirds of one length leave %.4f of bubbles, want none", p, f)
		}
	}
}

func TestUnroll_PublishedFractions(t *testing.T) {
	for m, want := range map[int]string{64: "0.1899", 32: "0.3191", 16: "0.4839", 8: "0.6522"} {
		for _, s := range []Schedule{GPipe, OneFOneB} {
			model := Uniform(s, 16, m, 1, 50*ms, 100*ms, 0)
			model.ReduceNs, model.OptimizerNs = 400*ms, 50*ms
			if got := fmt.Sprintf("%.4f", unroll(t, model).BubbleFraction()); got != want {
				t.Errorf("%s m=%d: %s, want %s", s, m, got, want)
			}
		}
	}
}

// GPipe's two waits: s stages' way in, and the others' way there and back.
func TestUnroll_GPipeBubbles(t *testing.T) {
	u := unroll(t, Uniform(GPipe, 4, 8, 1, 10*ms, 20*ms, 0))
	for s, stage := range u.Stages {
		lengths := map[string]int64{}
		for _, b := range stage.Bubbles {
			lengths[b.Kind.String()] += b.LengthNs
		}
		if lengths["fill-drain"] != int64(s)*30*ms || lengths["fwd-bwd"] != int64(3-s)*30*ms || lengths["steady"] != 0 {
			t.Errorf("stage %d: %v", s, lengths)
		}
	}
}

func TestUnroll_MemoryFollowsTheSchedule(t *testing.T) {
	memory := Memory{
		DeviceBytes: 80 << 30, ReserveBytes: 4 << 30, Parameters: 8e9, TensorParallel: 1, DataParallel: 4, WeightBytes: 4, OptimizerBytes: 12,
		ShardOptimizer: true, ActivationBytes: 1 << 30,
	}
	state := int64(8e9 / 4 * (4 + 12/4.0))
	for schedule, peak := range map[Schedule][4]int{GPipe: {8, 8, 8, 8}, OneFOneB: {4, 3, 2, 1}, ZBH1: {4, 4, 4, 4}} {
		m := Uniform(schedule, 4, 8, 1, 10*ms, 10*ms, 10*ms)
		m.Memory = memory
		for s, stage := range unroll(t, m).Stages {
			want := memory.DeviceBytes - memory.ReserveBytes - state - int64(peak[s])<<30
			if stage.AlwaysFreeBytes != want {
				t.Errorf("%s stage %d: always free %d, want %d", schedule, s, stage.AlwaysFreeBytes, want)
			}
			for _, b := range stage.Bubbles {
				if b.FreeBytes < stage.AlwaysFreeBytes {
					t.Errorf("%s stage %d: bubble %d has %d free, less than the least, %d", schedule, s, b.Index, b.FreeBytes, stage.AlwaysFreeBytes)
				}
			}
		}
	}
}

// A wait that is late by e costs some 2(p-1)e an iteration where every hop waits.
func TestUnroll_LatenessCosts(t *testing.T) {
	for _, m := range []int{8, 64} {
		model := Uniform(GPipe, 16, m, 1, 50*ms, 100*ms, 0)
		before := unroll(t, model).IterationNs
		model.LateNs = ms
		late := unroll(t, model).IterationNs - before
		if late < 28*ms || late > 32*ms {
			t.Errorf("m=%d: a millisecond at each wait makes the iteration %d ns longer, want some 2*15 ms", m, late)
		}
	}
}

// Whatever the times: the iteration is a device's work, its waits, and its
// transfers; nothing overlaps and nothing is lost.
func TestUnroll_Property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		schedule := rapid.SampledFrom(Schedules).Draw(t, "schedule")
		p := rapid.IntRange(1, 6).Draw(t, "stages")
		m := rapid.IntRange(1, 12).Draw(t, "micro-batches")
		chunks := 1
		switch schedule {
		case Interleaved:
			m, chunks = m*p, rapid.IntRange(2, 3).Draw(t, "chunks")
		case ZBV:
			chunks = 2
		case GPipe, OneFOneB, ZBH1:
		}
		model := Uniform(schedule, p, m, chunks, 1, 1, 1)
		for _, list := range [][]int64{model.ForwardNs, model.BackwardNs, model.WeightNs} {
			for i := range list {
				list[i] = rapid.Int64Range(1, 1000).Draw(t, "time")
			}
		}
		model.GlobalNorm = rapid.Bool().Draw(t, "norm")
		u, err := model.Unroll()
		if err != nil {
			t.Fatal(err)
		}
		for s, stage := range u.Stages {
			var waited, end int64
			for _, b := range stage.Bubbles {
				waited += b.LengthNs
				if b.StartNs < end {
					t.Fatalf("stage %d: bubble %d begins at %d, before the end of the last at %d", s, b.Index, b.StartNs, end)
				}
				end = b.StartNs + b.LengthNs
			}
			// Without a common step the ends of stages drift against each other until
			// the slowest leads; three iterations settle most, not all.
			if model.GlobalNorm && waited+stage.BusyNs != u.IterationNs {
				t.Fatalf("stage %d: waits %d and works %d in an iteration of %d", s, waited, stage.BusyNs, u.IterationNs)
			}
		}
	})
}

func TestUnroll_Jitter(t *testing.T) {
	m := Uniform(OneFOneB, 8, 16, 1, 50*ms, 100*ms, 0)
	m.Jitter, m.Seed = 0.05, 1
	a, b := unroll(t, m), unroll(t, m)
	if a.IterationNs != b.IterationNs {
		t.Error("one seed gave two results")
	}
	still := unroll(t, Uniform(OneFOneB, 8, 16, 1, 50*ms, 100*ms, 0))
	if a.IterationNs <= still.IterationNs {
		t.Errorf("jitter made the iteration no longer: %d, %d without", a.IterationNs, still.IterationNs)
	}
	for s, stage := range a.Stages {
		for _, bubble := range stage.Bubbles {
			if bubble.LowNs > bubble.LengthNs*3/2 {
				t.Errorf("stage %d: lower quartile %d of mean %d", s, bubble.LowNs, bubble.LengthNs)
			}
		}
	}
	if f := a.BubbleFraction(); math.Abs(f-7.0/23) > 0.08 {
		t.Errorf("bubble fraction %.3f, want some .30", f)
	}
}

func TestCheck_NamesTheRule(t *testing.T) {
	good := func() Model { return Uniform(OneFOneB, 4, 8, 1, ms, ms, 0) }
	for want, change := range map[string]func(*Model){
		`schedule: "1b1f": write one of gpipe, 1f1b, interleaved, zb-h1, zbv`:             func(m *Model) { m.Schedule = "1b1f" },
		"stages: 0: write 1 to 1024":                                                      func(m *Model) { m.Stages = 0 },
		"chunks: 2: 1f1b has 1 model chunk a device":                                      func(m *Model) { m.Chunks = 2 },
		"forward_ms: 3 times for 4 model chunks":                                          func(m *Model) { m.ForwardNs = m.ForwardNs[1:] },
		"chunks: 1: an interleaved schedule has 2 or more model chunks a device":          func(m *Model) { m.Schedule = Interleaved },
		"chunks: 1: zbv has 2 model chunks a device":                                      func(m *Model) { m.Schedule = ZBV },
		"weight_ms: only zb-h1 and zbv part the weights' gradient from the backward pass": func(m *Model) { m.WeightNs = m.ForwardNs },
		"jitter_pct: write 0 to 100":                                                      func(m *Model) { m.Jitter = 2 },
	} {
		m := good()
		change(&m)
		if wrong := m.Check(); len(wrong) == 0 || wrong[0] != want {
			t.Errorf("%v, want %q", wrong, want)
		}
	}
	if wrong := good().Check(); len(wrong) != 0 {
		t.Errorf("a good model: %v", wrong)
	}
}
