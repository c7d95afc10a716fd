// Package plancase makes cases for the planner: random ones by seed, five
// realistic profiles, and one that is as slow as any to plan.
package plancase

import (
	"fmt"
	"math"
	"math/rand/v2"

	"pipefill"
	"pipefill/controller/plan"
)

const (
	ms  = 1e6
	gib = 1 << 30
)

// Random makes a profile of configs configurations with ops ops each, and a
// cycle of bubbles. Op times are log-normal around 0.1 ms x batch^0.8, memory
// grows with the batch, every third technique offloads; bubbles are some long
// (fill-drain, fwd-bwd) and many short ones.
func Random(seed uint64, ops, configs, bubbles int) (plan.Profile, pipefill.BubbleCycle) {
	r := rand.New(rand.NewPCG(seed, 0x70697065))
	p := plan.Profile{Version: plan.Version, Name: fmt.Sprintf("random %d", seed), Kind: plan.Inference, Device: "random"}
	base := 0.1 * ms * math.Exp(0.5*r.NormFloat64())
	shape := make([]float64, ops)
	for i := range shape {
		shape[i] = math.Exp(0.8 * r.NormFloat64())
	}
	weights := (0.5 + 3*r.Float64()) * gib
	activation := (0.01 + 0.1*r.Float64()) * gib
	for k := range configs {
		batch := int64(1 + r.IntN(64))
		c := plan.Config{BatchSize: batch, Technique: plan.Technique{Offload: "none"}, ResidentBytes: int64(weights)}
		slower := 1.0
		if k%3 == 2 {
			c.Technique.Offload = "params"
			c.SwapInNs, c.SwapOutNs = int64(weights/20/gib*1e9/20), int64(weights/20/gib*1e9/40)
		}
		if r.IntN(2) == 0 {
			c.Technique.Checkpoint, slower = true, 1.05
		}
		for i := range ops {
			took := base * shape[i] * math.Pow(float64(batch), 0.8) * slower * (1 + 0.05*r.NormFloat64())
			c.Ops = append(c.Ops, plan.Op{
				Name: fmt.Sprintf("op.%d", i), TimeNs: max(1000, int64(took)), PeakBytes: int64(activation * math.Sqrt(shape[i]) * float64(batch)),
			})
		}
		p.Configs = append(p.Configs, c)
	}
	return p, randomCycle(r, bubbles)
}

func randomCycle(r *rand.Rand, bubbles int) pipefill.BubbleCycle {
	c := pipefill.BubbleCycle{Version: plan.Version}
	at := int64(10 * ms)
	for i := range bubbles {
		b := pipefill.Bubble{Index: i, Kind: "steady", StartNs: at, DurationNs: int64((2 + 18*r.Float64()) * ms), FreeBytes: int64((2 + 14*r.Float64()) * gib)}
		if r.IntN(4) == 0 || i == 0 {
			b.Kind = []string{"fill-drain", "fwd-bwd"}[r.IntN(2)]
			b.DurationNs = int64((50 + 200*r.Float64()) * ms)
		}
		c.Bubbles = append(c.Bubbles, b)
		at += b.DurationNs + int64((10+30*r.Float64())*ms)
		if c.AlwaysFreeBytes == 0 || b.FreeBytes < c.AlwaysFreeBytes {
			c.AlwaysFreeBytes = b.FreeBytes
		}
	}
	c.IterationNs = at
	return c
}

// Short makes a case of short passes, by seed, as inference has them: 2 to 40 ops
// of some ms, 2 to 8 batch sizes, 2 to 16 bubbles of 3 to 80 ms whose memory
// differs.
func Short(seed uint64) (plan.Profile, pipefill.BubbleCycle) {
	r := rand.New(rand.NewPCG(seed, 0x73686f7274))
	p := plan.Profile{Version: plan.Version, Name: fmt.Sprintf("short %d", seed), Kind: plan.Inference, Device: "random"}
	ops := 2 + r.IntN(39)
	shape := make([]float64, ops)
	for i := range shape {
		shape[i] = math.Exp(0.6 * r.NormFloat64())
	}
	base := (0.02 + 0.3*r.Float64()) * ms
	weights, activation := (0.1+2*r.Float64())*gib, (0.005+0.05*r.Float64())*gib
	for k := range 2 + r.IntN(7) {
		batch := int64(1) << r.IntN(8)
		c := plan.Config{BatchSize: batch, Technique: plan.Technique{Offload: "none"}, ResidentBytes: int64(weights)}
		if k%4 == 3 {
			c.Technique.Offload, c.SwapInNs = "params", int64(weights/gib/20*1e9)
		}
		for i := range ops {
			c.Ops = append(c.Ops, plan.Op{
				Name: fmt.Sprintf("op.%d", i), TimeNs: int64(base * shape[i] * math.Pow(float64(batch), 0.7)), PeakBytes: int64(activation * shape[i] * float64(batch)),
			})
		}
		p.Configs = append(p.Configs, c)
	}
	c := pipefill.BubbleCycle{Version: plan.Version, AlwaysFreeBytes: 2 * gib}
	at := int64(5 * ms)
	for i := range 2 + r.IntN(15) {
		b := pipefill.Bubble{Index: i, Kind: "steady", StartNs: at, DurationNs: int64(ms * math.Exp(math.Log(3)+r.Float64()*math.Log(80.0/3))), FreeBytes: int64((2 + 10*r.Float64()) * gib)}
		c.Bubbles = append(c.Bubbles, b)
		at += b.DurationNs + int64((5+20*r.Float64())*ms)
	}
	c.IterationNs = at
	return p, c
}

// Worst is a case in which nothing can be left out: all configurations promise
// the same, and each comes back to where it was only after as many cycles as it
// has ops.
func Worst(ops, configs, bubbles int) (plan.Profile, pipefill.BubbleCycle) {
	p := plan.Profile{Version: plan.Version, Name: "worst", Kind: plan.Inference, Device: "none"}
	for range configs {
		c := plan.Config{BatchSize: 8, Technique: plan.Technique{Offload: "none"}}
		for i := range ops {
			c.Ops = append(c.Ops, plan.Op{Name: fmt.Sprint(i), TimeNs: ms, PeakBytes: int64(1 + i%2)})
		}
		p.Configs = append(p.Configs, c)
	}
	c := pipefill.BubbleCycle{Version: plan.Version, IterationNs: int64(bubbles) * 100 * ms}
	for j := range bubbles {
		// 3 ops in each, and 2 in the last: as many as have no divisor with 2,000.
		took := 3
		if j == bubbles-1 {
			took = 4 - bubbles%2*2
		}
		c.Bubbles = append(c.Bubbles, pipefill.Bubble{Index: j, Kind: "steady", StartNs: int64(j) * 100 * ms, DurationNs: int64(took) * ms, FreeBytes: 2})
	}
	return p, c
}
