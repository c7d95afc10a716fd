package workload

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"pipefill/controller/plan"
)

// Device is what fill jobs compute on, as far as their models need it.
type Device struct {
	MemoryBytes  int64
	FLOPS        float64 // what fill work reaches on it alone, in FLOP/s
	HostLinkBps  float64 // bytes/s between device and host, one way
	Inference    float64 // speed within a bubble, of the speed alone: 1 loses nothing
	Training     float64 // the same of training
	ReserveBytes int64   // of its own context and workspaces: never for tensors
}

// Kind is a model of a fill job: what a sample costs on a device, and in which
// configurations it can run. FLOPs and bytes are computed from the published
// shape of the network (docs/simulator.md has the figures and where they are
// from); nothing here was measured.
type Kind struct {
	Name        string
	Training    bool
	Parameters  float64
	Layers      int
	SampleFLOP  float64 // of one sample's forward pass
	LayerBytes  float64 // activations of one sample in one layer that training keeps
	WorkBytes   float64 // of one sample, while a layer runs
	HalfBatch   float64 // samples at which the device reaches half of its speed
	MostBatch   int64   // a larger one wins nothing
	FixedBatch  int64   // training: its batch size; what of it runs at once is a micro-batch
	WeightBytes float64 // a parameter, for inference
}

// Kinds are the paper's five models. Larger ones than 700 M parameters are filled in as
// inference only, as the paper has it.
var Kinds = kinds()

func kinds() []Kind {
	bertBase := Kind{Name: "bert-base", Parameters: 110e6, Layers: 12, SampleFLOP: 22.4e9, LayerBytes: 4.3e6, WorkBytes: 2.4e6, HalfBatch: 2, MostBatch: 256, FixedBatch: 32}
	bertLarge := Kind{Name: "bert-large", Parameters: 335e6, Layers: 24, SampleFLOP: 79.0e9, LayerBytes: 5.8e6, WorkBytes: 3.2e6, HalfBatch: 1, MostBatch: 128, FixedBatch: 32}
	efficientNet := Kind{Name: "efficientnet", Parameters: 120e6, Layers: 55, SampleFLOP: 74.0e9, LayerBytes: 9.5e6, WorkBytes: 30e6, HalfBatch: 1, MostBatch: 64, FixedBatch: 16}
	swinLarge := Kind{Name: "swin-large", Parameters: 780e6, Layers: 24, SampleFLOP: 208e9, LayerBytes: 22e6, WorkBytes: 40e6, HalfBatch: 0.5, MostBatch: 64}
	xlmRoberta := Kind{Name: "xlm-roberta-xl", Parameters: 2.8e9, Layers: 36, SampleFLOP: 717e9, LayerBytes: 14e6, WorkBytes: 8e6, HalfBatch: 0.2, MostBatch: 64}
	var all []Kind
	for _, k := range []Kind{bertBase, bertLarge, efficientNet} {
		k.Training = true
		k.Name += "-training"
		all = append(all, k)
	}
	for _, k := range []Kind{bertBase, bertLarge, efficientNet, swinLarge, xlmRoberta} {
		k.WeightBytes = 2
		k.Name += "-inference"
		all = append(all, k)
	}
	return all
}

// KindNamed finds one of Kinds.
func KindNamed(name string) (Kind, bool) {
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return Kinds[i], true
}

// KindNames lists them.
func KindNames() string {
	var names []string
	for _, k := range Kinds {
		names = append(names, k.Name)
	}
	return strings.Join(names, ", ")
}

// trainingBytes is what mixed precision with Adam keeps of a parameter: weights
// and gradients in two bytes each, and a master copy and two moments in four.
const (
	gradientBytes  = 4
	optimizerBytes = 12
)

// efficiency is the share of its speed that a device reaches with so many samples
// at once.
func (k Kind) efficiency(batch float64) float64 { return batch / (batch + k.HalfBatch) }

// Alone is the samples a second that it does on an idle device of its own, in
// the best configuration that fits there; 0 where none does.
func (k Kind) Alone(d Device) float64 {
	d.Inference, d.Training = 1, 1
	return Alone(k.Profile(d), d.MemoryBytes-d.ReserveBytes)
}

// Alone is the samples a second of a profile's best configuration on a device of
// so many bytes that it has for itself, where nothing is swapped; 0: none fits.
func Alone(p plan.Profile, memoryBytes int64) float64 {
	best := 0.0
	for _, c := range p.Configs {
		var passNs, peak int64
		for _, op := range c.Ops {
			passNs += op.TimeNs
			peak = max(peak, op.PeakBytes)
		}
		if c.ResidentBytes+peak <= memoryBytes && passNs > 0 {
			best = max(best, float64(c.BatchSize)*1e9/float64(passNs))
		}
	}
	return best
}

// Profile makes a fill profile: every batch size (of training, every micro-batch
// of its batch) with every technique that changes something.
func (k Kind) Profile(d Device) plan.Profile {
	p := plan.Profile{Version: 1, Name: k.Name, Kind: plan.Inference, Device: "modelled"}
	if !k.Training {
		for batch := int64(1); batch <= k.MostBatch; batch *= 2 {
			p.Configs = append(p.Configs, k.inference(d, batch)...)
		}
		return p
	}
	p.Kind = plan.Training
	for micro := k.FixedBatch; micro >= 1; micro /= 4 {
		for _, checkpoint := range []bool{false, true} {
			for _, offload := range []string{"none", "optimizer"} {
				p.Configs = append(p.Configs, k.training(d, micro, plan.Technique{Checkpoint: checkpoint, Offload: offload})...)
			}
		}
	}
	return p
}

// ns is how long FLOP take at an efficiency, in a bubble of d.
func (k Kind) ns(d Device, flop, efficiency float64) int64 {
	speed := d.Inference
	if k.Training {
		speed = d.Training
	}
	return max(1, int64(math.Round(1e9*flop/(d.FLOPS*efficiency*speed))))
}

// moveNs is how long bytes take between device and host.
func (d Device) moveNs(bytes float64) int64 { return int64(1e9 * bytes / d.HostLinkBps) }

// stays returns a configuration that stays on the device between bubbles, and the
// same one swapped in and out.
func (d Device) stays(c plan.Config, outBytes float64) []plan.Config {
	swapped := c
	swapped.SwapInNs, swapped.SwapOutNs = d.moveNs(float64(c.ResidentBytes)), d.moveNs(outBytes)
	return []plan.Config{c, swapped}
}

// inference keeps the weights on the device, or streams them layer by layer with
// the next layer's on their way while one computes.
func (k Kind) inference(d Device, batch int64) []plan.Config {
	b := float64(batch)
	weights := k.Parameters * k.WeightBytes
	layer := k.ns(d, k.SampleFLOP/float64(k.Layers)*b, k.efficiency(b))
	stream := max(layer, d.moveNs(weights/float64(k.Layers)))
	work := int64(k.WorkBytes * b)
	keep := plan.Config{BatchSize: batch, Technique: plan.Technique{Offload: "none"}, ResidentBytes: int64(weights)}
	away := plan.Config{BatchSize: batch, Technique: plan.Technique{Offload: "params"}, ResidentBytes: work / 2}
	for i := range k.Layers {
		name := fmt.Sprintf("layer %d", i)
		keep.Ops = append(keep.Ops, plan.Op{Name: name, TimeNs: layer, PeakBytes: work})
		away.Ops = append(away.Ops, plan.Op{Name: name, TimeNs: stream, PeakBytes: work + int64(2*weights/float64(k.Layers))})
	}
	return append(d.stays(keep, 0), away)
}

// training runs a batch in micro-batches: forward and backward layer by layer,
// and the optimizer's step at the end. With checkpointing only the layers' inputs
// are kept, and a forward pass is run again; with the optimizer's state on the
// host, it is moved for each step.
func (k Kind) training(d Device, micro int64, how plan.Technique) []plan.Config {
	b := float64(micro)
	rounds := k.FixedBatch / micro
	kept, backward := k.LayerBytes*b, 2.0
	if how.Checkpoint {
		kept, backward = k.LayerBytes*b/17, 3.0 // of 34 bytes a hidden value, the layer's input has 2
	}
	flop := k.SampleFLOP / float64(k.Layers) * b
	state := gradientBytes * k.Parameters
	step := 4 * float64(optimizerBytes) * k.Parameters / stepBps
	if how.Offload == "optimizer" {
		step = 2 * optimizerBytes * k.Parameters / d.HostLinkBps
	} else {
		state += optimizerBytes * k.Parameters
	}
	c := plan.Config{BatchSize: k.FixedBatch, Technique: how, ResidentBytes: int64(state)}
	work := k.WorkBytes * b
	if how.Checkpoint {
		work += k.LayerBytes * b
	}
	for range rounds {
		for i := range 2 * k.Layers {
			// The i-th layer forward, or back.
			name, layers, time := fmt.Sprintf("forward %d", i), i+1, 1.0
			if i >= k.Layers {
				name, layers, time = fmt.Sprintf("backward %d", 2*k.Layers-1-i), 2*k.Layers-1-i, backward
			}
			live := int64(kept * float64(layers))
			c.Ops = append(c.Ops, plan.Op{
				Name: name, TimeNs: k.ns(d, time*flop, k.efficiency(b)), PeakBytes: live + int64(work+kept), LiveBytes: live,
			})
		}
	}
	for i := range k.Layers {
		c.Ops = append(c.Ops, plan.Op{Name: fmt.Sprintf("optimizer %d", i), TimeNs: max(1, int64(1e9*step/float64(k.Layers))), PeakBytes: int64(work)})
	}
	return d.stays(c, state)
}

// stepBps is how fast the optimizer's step runs through its state on the device,
// in bytes/s: memory bandwidth, of a V100.
const stepBps = 900e9
