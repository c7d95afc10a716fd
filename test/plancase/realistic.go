package plancase

import (
	"fmt"
	"slices"

	"pipefill"
	"pipefill/controller/plan"
)

// What the realistic profiles assume of the device: work at so many FLOPs a
// second with so large a batch (and half of it at the batch where it begins to
// pay), a launch that takes so long, and a host link.
const (
	peakFlops  = 150e12 // dense bf16 of an A100 at half its rated 312e12
	halfBatch  = 8.0
	launchNs   = 20_000
	linkBytes  = 20e9 // a second
	spreadTime = 1.15 // what a plan may count on over the median
)

// layer is one repeated piece of a model, for one sample.
type layer struct {
	name       string
	flops      float64 // forward
	activation int64   // bytes of its output
	inner      int64   // bytes more while it runs
}

// shape is a model as its paper publishes it.
type shape struct {
	name    string
	params  int64
	layers  []layer
	train   bool
	batches []int64
}

// transformer is n layers of a hidden size on sequences of seq tokens, in bf16:
// 24 h² + 4 s h FLOPs a token and layer.
func transformer(name string, params int64, n int, hidden, seq, vocabulary int64, batches ...int64) shape {
	s := shape{name: name, params: params, batches: batches}
	h, t := float64(hidden), float64(seq)
	s.layers = append(s.layers, layer{"embed", 2 * t * h, 2 * seq * hidden, 0})
	for i := range n {
		s.layers = append(s.layers,
			layer{fmt.Sprintf("layers.%d.attention", i), t * (8*h*h + 4*t*h), 2 * seq * hidden, 2*3*seq*hidden + 2*seq*seq*(hidden/64)},
			layer{fmt.Sprintf("layers.%d.feed", i), t * 16 * h * h, 2 * seq * hidden, 2 * 4 * seq * hidden})
	}
	s.layers = append(s.layers, layer{"head", 2 * t * h * float64(vocabulary), 2 * seq * vocabulary, 0})
	return s
}

// staged is a convolutional or windowed model: stages of blocks whose pictures
// get smaller and channels more.
func staged(name string, params int64, gflops float64, blocks []int, side int64, channels []int64, batches ...int64) shape {
	s := shape{name: name, params: params, batches: batches}
	total := 0
	for _, n := range blocks {
		total += n
	}
	for stage, n := range blocks {
		bytes := 2 * side * side * channels[stage]
		for i := range n {
			s.layers = append(s.layers, layer{fmt.Sprintf("stages.%d.%d", stage, i), gflops * 1e9 / float64(total), bytes, 6 * bytes})
		}
		side = max(side/2, 1)
	}
	return s
}

func shapes() []shape {
	bertTrain := transformer("BERT-base, training", 110e6, 12, 768, 512, 30522, 8)
	bertTrain.train = true
	return []shape{
		transformer("BERT-large, inference", 340e6, 24, 1024, 512, 30522, 1, 4, 16, 64, 128),
		bertTrain,
		staged("EfficientNet-B4, inference", 19e6, 8.4, []int{2, 4, 4, 6, 6, 8, 2}, 190, []int64{24, 32, 56, 112, 160, 272, 448}, 4, 16, 64, 256),
		staged("Swin-L, inference", 197e6, 68.8, []int{2, 2, 18, 2}, 56, []int64{192, 384, 768, 1536}, 1, 4, 16, 64),
		transformer("XLM-R XL, inference", 3500e6, 36, 2560, 512, 250880, 1, 4, 16, 32),
	}
}

// took is what a layer takes for a batch.
func took(flops float64, batch int64) int64 {
	b := float64(batch)
	return int64(spreadTime*(flops*b/(peakFlops*b/(b+halfBatch))*1e9) + launchNs)
}

func (s shape) profile() plan.Profile {
	p := plan.Profile{Version: plan.Version, Name: s.name, Kind: plan.Inference, Device: "A100, from published shapes"}
	if s.train {
		p.Kind = plan.Training
	}
	for _, batch := range s.batches {
		for _, how := range []plan.Technique{{Offload: "none"}, {Checkpoint: true, Offload: "none"}, {Offload: "params"}} {
			if how.Checkpoint && !s.train {
				continue
			}
			p.Configs = append(p.Configs, s.config(batch, how))
		}
	}
	return p
}

// config is one configuration. Training: parameters and gradients in bf16 and
// Adam's state in fp32 stay, backward takes twice the time of forward, and
// activations live until then, or only those between layers.
func (s shape) config(batch int64, how plan.Technique) plan.Config {
	c := plan.Config{BatchSize: batch, Technique: how, ResidentBytes: 2 * s.params}
	if s.train {
		c.ResidentBytes = 16 * s.params
	}
	if how.Offload != "none" {
		c.SwapInNs = int64(float64(c.ResidentBytes) / linkBytes * 1e9)
		if s.train {
			c.SwapOutNs = c.SwapInNs
		}
	}
	live := int64(0)
	for _, l := range s.layers {
		kept := batch * l.activation
		if s.train && !how.Checkpoint {
			kept += batch * l.inner
		}
		if !s.train {
			live = 0
		}
		c.Ops = append(c.Ops, plan.Op{Name: l.name, TimeNs: took(l.flops, batch), PeakBytes: live + batch*(2*l.activation+l.inner), LiveBytes: live + kept})
		live += kept
	}
	if !s.train {
		c.Ops[len(c.Ops)-1].LiveBytes = 0
		return c
	}
	for _, l := range slices.Backward(s.layers) {
		kept, flops := batch*l.activation, 2*l.flops
		if how.Checkpoint {
			flops += l.flops
		} else {
			kept += batch * l.inner
		}
		peak := live + batch*(l.activation+l.inner)
		live -= kept
		c.Ops = append(c.Ops, plan.Op{Name: l.name + ":backward", TimeNs: took(flops, batch), PeakBytes: peak, LiveBytes: live})
	}
	// Adam reads and writes all of it, at 1.5 TB/s.
	const parts = 16
	for i := range parts {
		c.Ops = append(c.Ops, plan.Op{Name: fmt.Sprintf("optimizer.%d", i), TimeNs: int64(float64(s.params) * 28 / parts / 1.5e12 * 1e9)})
	}
	return c
}

// WithoutLive is a profile whose chunks may end anywhere at no cost.
func WithoutLive(p plan.Profile) plan.Profile {
	p.Configs = append([]plan.Config{}, p.Configs...)
	for i := range p.Configs {
		ops := append([]plan.Op{}, p.Configs[i].Ops...)
		for j := range ops {
			ops[j].LiveBytes = 0
		}
		p.Configs[i].Ops = ops
	}
	return p
}

// Realistic are five fill jobs of the paper's kinds, from published shapes.
func Realistic() []plan.Profile {
	var out []plan.Profile
	for _, s := range shapes() {
		out = append(out, s.profile())
	}
	return out
}

// Stage is the cycle of a stage of a pipeline with micro micro-batches, as 1F1B
// or GPipe leaves it: forward takes forwardMs, backward twice that. A tenth of
// each bubble is guard. free is the memory while no micro-batch's activations are
// held, each of which takes held bytes.
func Stage(schedule string, stages, stage, micro int, forwardMs float64, free, held int64) pipefill.BubbleCycle {
	f, b := forwardMs*ms, 2*forwardMs*ms
	behind := stages - 1 - stage
	c := pipefill.BubbleCycle{Version: plan.Version, IterationNs: int64(float64(micro+stages-1) * (f + b))}
	add := func(kind string, start, length float64, flying int) {
		if usable := int64(0.9 * length); usable > 0 {
			c.Bubbles = append(c.Bubbles, pipefill.Bubble{
				Index: len(c.Bubbles), Kind: kind, StartNs: int64(start), DurationNs: usable, FreeBytes: free - int64(flying)*held,
			})
		}
	}
	at := float64(stage) * f
	add("fill-drain", 0, at, 0)
	most := micro
	if schedule == "gpipe" {
		at += float64(micro) * f
		add("fwd-bwd", at, float64(behind)*(f+b), micro)
	} else {
		// Warm-up forwards, the wait for the first backward, and in the cool-down a
		// gap of a forward before each backward.
		most = min(behind+1, micro)
		at += float64(most) * f
		wait := float64(behind)*b + float64(behind+1-most)*f
		add("fwd-bwd", at, wait, most)
		gaps := min(behind, micro-1)
		at = float64(c.IterationNs) - float64(stage)*b - float64(gaps)*(f+b)
		for i := range gaps {
			add("steady", at, f, gaps-i)
			at += f + b
		}
	}
	add("fill-drain", float64(c.IterationNs)-float64(stage)*b, float64(stage)*b, 0)
	c.AlwaysFreeBytes = free - int64(most)*held
	return c
}
