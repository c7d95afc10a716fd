// Package pipeline unrolls a pipeline schedule into the bubbles of every stage.
// It is pure: times per stage in, bubble cycles with their free memory out. It
// knows nothing of fill jobs.
//
// Schedules: GPipe (arXiv 1811.06965), 1F1B (PipeDream-Flush, arXiv 2006.09503),
// interleaved 1F1B (arXiv 2104.04473), and the zero-bubble schedules ZB-H1 (arXiv
// 2401.10241) and ZBV (arXiv 2405.15362), which part a backward pass into the
// gradient of its input (here "backward") and that of its weights.
package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"pipefill"
)

// Schedule names an order of forwards and backwards.
type Schedule string

// The schedules.
const (
	GPipe       Schedule = "gpipe"
	OneFOneB    Schedule = "1f1b"
	Interleaved Schedule = "interleaved"
	ZBH1        Schedule = "zb-h1"
	ZBV         Schedule = "zbv"
)

// Schedules lists what a file may name.
var Schedules = []Schedule{GPipe, OneFOneB, Interleaved, ZBH1, ZBV}

// ZeroBubble tells whether s parts the backward pass.
func (s Schedule) ZeroBubble() bool { return s == ZBH1 || s == ZBV }

// Model is a pipeline: Stages devices in a row (with tensor parallelism, rows of
// them that act as one). Times are of one micro-batch on one device and have one
// entry a model chunk: Stages*Chunks of them, in the order in which activations
// run through them.
type Model struct {
	Schedule     Schedule
	Stages       int
	MicroBatches int
	Chunks       int     // model chunks a device: 2 for zbv, 2 or more for interleaved, else 1
	ForwardNs    []int64 //
	BackwardNs   []int64 // the whole backward pass; of zero-bubble schedules, the input's gradient
	WeightNs     []int64 // zero-bubble schedules: the weights' gradient; else nil
	TransferNs   int64   // of one micro-batch's activations to the next device
	ReduceNs     int64   // data-parallel reduction, after a device's last backward
	OptimizerNs  int64   // the optimizer step
	// GlobalNorm: every stage waits for all others before its optimizer step, as
	// clipping by the norm of all gradients needs.
	GlobalNorm bool
	Jitter     float64 // coefficient of variation of each forward and backward, 0: none
	Seed       uint64  // of the jitter
	// LateNs is what handing a device back costs at the end of each bubble: the
	// operation that waited begins so much later.
	LateNs int64
	// AnnounceNs is what announcing costs before each wait, on the device's time.
	AnnounceNs int64
	Memory     Memory
}

// Memory is what a device's memory is used for. Parameters are the whole
// model's; a device has its share by stages and tensor parallelism.
type Memory struct {
	DeviceBytes     int64   // of the device; 0: not known, and then all free memory is 0
	ReserveBytes    int64   // never offered: contexts, communication buffers, fragments
	Parameters      float64 // of the model
	TensorParallel  int     // devices that share each layer
	DataParallel    int     // replicas, among which ShardOptimizer shares the optimizer's state
	WeightBytes     float64 // a parameter: weights and gradients (2+2 in mixed precision)
	OptimizerBytes  float64 // a parameter: master copy and moments (12 for Adam in mixed precision)
	ShardOptimizer  bool    // ZeRO stage 1, the distributed optimizer
	ActivationBytes int64   // kept for one micro-batch in flight on one device, of all its chunks
}

// Bubble is one wait of a stage. Times count from the stage's iteration mark, in
// ns, without jitter exact, with it means over iterations.
type Bubble struct {
	Index     int // among the stage's receives, in order, as the engine numbers them
	Kind      pipefill.BubbleKind
	StartNs   int64
	LengthNs  int64 // mean
	LowNs     int64 // the lower quartile over iterations: what the library would learn
	FreeBytes int64
	InFlight  int // micro-batches' activations held, in chunks
}

// StageCycle is one iteration of one stage.
type StageCycle struct {
	Bubbles         []Bubble
	AlwaysFreeBytes int64
	BusyNs          int64 // forwards, backwards and weights
}

// Unrolled is one iteration of the whole pipeline.
type Unrolled struct {
	IterationNs int64
	Stages      []StageCycle
	commNs      int64
}

// BubbleFraction is the share of the pipeline's own time (the iteration without
// reduction and optimizer step) that a device waits, the mean over stages.
func (u Unrolled) BubbleFraction() float64 {
	var bubble float64
	for _, s := range u.Stages {
		for _, b := range s.Bubbles {
			bubble += float64(b.LengthNs)
		}
	}
	return bubble / float64(int64(len(u.Stages))*(u.IterationNs-u.commNs))
}

// usableNs is usableOf of executor/drain.go.
func usableNs(lengthNs int64, share float64, guardNs int64) int64 {
	if share > 1 {
		return int64(share*float64(lengthNs)) - guardNs
	}
	return min(int64(share*float64(lengthNs)), lengthNs-guardNs)
}

// Cycle is a stage's bubbles as a node would report them: of the lower quartile
// what share and guard leave, kinds that are not offered and what is shorter than
// leastNs left out. Bubbles of a memory model without a device's size have no
// free memory.
func (u Unrolled) Cycle(stage int, share float64, guardNs, leastNs int64, kinds []pipefill.BubbleKind) pipefill.BubbleCycle {
	s := u.Stages[stage]
	cycle := pipefill.BubbleCycle{Version: 1, IterationNs: u.IterationNs, AlwaysFreeBytes: s.AlwaysFreeBytes, Bubbles: []pipefill.Bubble{}}
	for _, b := range s.Bubbles {
		usable := usableNs(b.LowNs, share, guardNs)
		if usable < leastNs || usable <= 0 || !slices.Contains(kinds, b.Kind) {
			continue
		}
		cycle.Bubbles = append(cycle.Bubbles, pipefill.Bubble{
			Index: b.Index, Kind: b.Kind.String(), StartNs: b.StartNs, DurationNs: usable, FreeBytes: b.FreeBytes,
		})
	}
	return cycle
}

// Check names every rule that m breaks.
func (m Model) Check() []string {
	var wrong []string
	rule := func(holds bool, format string, args ...any) {
		if !holds {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	rule(slices.Contains(Schedules, m.Schedule), "schedule: %q: write one of %s", m.Schedule, names())
	rule(m.Stages >= 1 && m.Stages <= 1024, "stages: %d: write 1 to 1024", m.Stages)
	rule(m.MicroBatches >= 1 && m.MicroBatches <= 65536, "micro_batches: %d: write 1 to 65536", m.MicroBatches)
	if len(wrong) > 0 {
		return wrong
	}
	switch m.Schedule {
	case Interleaved:
		rule(m.Chunks >= 2, "chunks: %d: an interleaved schedule has 2 or more model chunks a device", m.Chunks)
		rule(m.MicroBatches%m.Stages == 0, "micro_batches: %d: an interleaved schedule needs a multiple of stages (%d)", m.MicroBatches, m.Stages)
	case ZBV:
		rule(m.Chunks == 2, "chunks: %d: zbv has 2 model chunks a device", m.Chunks)
	default:
		rule(m.Chunks == 1, "chunks: %d: %s has 1 model chunk a device", m.Chunks, m.Schedule)
	}
	virtual := m.Stages * m.Chunks
	rule(len(m.ForwardNs) == virtual, "forward_ms: %d times for %d model chunks", len(m.ForwardNs), virtual)
	rule(len(m.BackwardNs) == virtual, "backward_ms: %d times for %d model chunks", len(m.BackwardNs), virtual)
	if m.Schedule.ZeroBubble() {
		rule(len(m.WeightNs) == virtual, "weight_ms: %d times for %d model chunks: %s parts the weights' gradient from the backward pass", len(m.WeightNs), virtual, m.Schedule)
	} else {
		rule(len(m.WeightNs) == 0, "weight_ms: only zb-h1 and zbv part the weights' gradient from the backward pass")
	}
	for _, list := range [][]int64{m.ForwardNs, m.BackwardNs, m.WeightNs} {
		rule(len(list) != virtual || !slices.ContainsFunc(list, func(ns int64) bool { return ns <= 0 }), "forward_ms, backward_ms and weight_ms: each must be more than 0")
	}
	rule(m.TransferNs >= 0 && m.ReduceNs >= 0 && m.OptimizerNs >= 0, "transfer_ms, reduce_ms and optimizer_ms: each must be 0 or more")
	rule(m.Jitter >= 0 && m.Jitter <= 1, "jitter_pct: write 0 to 100")
	return wrong
}

func names() string {
	var all []string
	for _, s := range Schedules {
		all = append(all, string(s))
	}
	return strings.Join(all, ", ")
}

// even spreads ns over the chunks of a model of so many devices.
func even(stages, chunks int, ns int64) []int64 {
	return slices.Repeat([]int64{ns / int64(chunks)}, stages*chunks)
}

// Uniform is a pipeline of equal stages. Times are of one micro-batch on one
// device, all its model chunks together; weightNs is only used by zero-bubble
// schedules, whose backwardNs is then the rest of a backward pass.
func Uniform(schedule Schedule, stages, microBatches, chunks int, forwardNs, backwardNs, weightNs int64) Model {
	m := Model{
		Schedule: schedule, Stages: stages, MicroBatches: microBatches, Chunks: chunks,
		ForwardNs: even(stages, chunks, forwardNs), BackwardNs: even(stages, chunks, backwardNs),
	}
	if schedule.ZeroBubble() {
		m.WeightNs = even(stages, chunks, weightNs)
	}
	return m
}
