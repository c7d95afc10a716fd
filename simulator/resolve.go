package simulator

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/controller/schedule"
	"pipefill/simulator/pipeline"
	"pipefill/simulator/workload"
)

// policy finds one by name, or by its file.
func (f *File) policy(name string) (*schedule.Policy, error) {
	if strings.HasSuffix(name, schedule.Suffix) {
		return schedule.LoadFile(f.path(name))
	}
	if p, ok := schedule.Builtin()[name]; ok {
		return p, nil
	}
	return nil, pipefill.Errorf(pipefill.CodeInvalid, "%q is no policy: write some of %s, or a file that ends in %s",
		name, strings.Join(schedule.Builtin().Names(), ", "), schedule.Suffix)
}

func (f *File) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(f.dir, name)
}

func toNs(ms float64) int64 { return int64(math.Round(ms * 1e6)) }

func bytesOf(gib float64) int64 { return int64(gib * (1 << 30)) }

// replicas is how many pipelines a main job has.
func (j *MainFile) replicas() int { return j.GPUs / max(1, j.Stages*max(1, j.TensorParallel)) }

// pipeline makes the event graph's model, and says which keys make none.
func (j *MainFile) pipeline(d DeviceFile) (p pipeline.Model, wrong []string) {
	s := pipeline.Schedule(j.Schedule)
	chunks := j.Chunks
	if chunks == 0 {
		chunks = map[pipeline.Schedule]int{pipeline.Interleaved: 2, pipeline.ZBV: 2}[s]
	}
	chunks = max(1, chunks)
	tensor := max(1, j.TensorParallel)
	per := max(1, j.Stages) * tensor
	if j.GPUs%per != 0 {
		wrong = append(wrong, fmt.Sprintf("gpus: %d: write a multiple of stages x tensor_parallel, %d", j.GPUs, per))
	}
	micro := j.MicroBatches
	if (micro > 0) == (j.GlobalMicroBatches > 0) {
		wrong = append(wrong, fmt.Sprintf("micro_batches: %d, and global_micro_batches: %d: write one of the two", micro, j.GlobalMicroBatches))
	} else if replicas := max(1, j.replicas()); micro == 0 {
		micro = j.GlobalMicroBatches / replicas
		if micro*replicas != j.GlobalMicroBatches {
			wrong = append(wrong, fmt.Sprintf("global_micro_batches: %d: write a multiple of the %d replicas", j.GlobalMicroBatches, replicas))
		}
	}
	if j.GlobalMicroBatches < 0 || len(wrong) > 0 {
		return pipeline.Uniform(pipeline.GPipe, 1, 1, 1, 1, 1, 0), wrong
	}
	p = pipeline.Model{
		Schedule: s, Stages: j.Stages, MicroBatches: micro, Chunks: chunks,
		ForwardNs: spread(j.ForwardMs, j.Stages, chunks), BackwardNs: spread(j.BackwardMs, j.Stages, chunks),
		TransferNs: toNs(j.TransferMs), ReduceNs: toNs(j.ReduceMs), OptimizerNs: toNs(j.OptimizerMs),
		GlobalNorm: j.GlobalNorm == nil || *j.GlobalNorm, Jitter: j.JitterPct / 100, Seed: 1,
		Memory: pipeline.Memory{
			DeviceBytes: bytesOf(d.MemoryGiB), ReserveBytes: bytesOf(j.Memory.ReserveGiB), Parameters: j.Memory.Parameters, TensorParallel: tensor,
			DataParallel: j.replicas(), WeightBytes: j.Memory.WeightBytes, OptimizerBytes: j.Memory.OptimizerBytes, ShardOptimizer: j.Memory.ShardOptimizer,
			ActivationBytes: bytesOf(j.Memory.ActivationGiB),
		},
	}
	switch {
	case s.ZeroBubble() && len(j.WeightMs) > 0:
		p.WeightNs = spread(j.WeightMs, j.Stages, chunks)
	case s.ZeroBubble() && len(j.BackwardMs) > 0:
		// Without a word on it: half of the backward pass is the weights' gradient.
		p.WeightNs = slices.Clone(p.BackwardNs)
		for i := range p.BackwardNs {
			p.WeightNs[i] = p.BackwardNs[i] / 2
			p.BackwardNs[i] -= p.WeightNs[i]
		}
	case len(j.WeightMs) > 0:
		// Of schedules that do not part it, it is within the backward pass.
		for i, ns := range spread(j.WeightMs, j.Stages, chunks) {
			if i < len(p.BackwardNs) {
				p.BackwardNs[i] += ns
			}
		}
	}
	return p, nil
}

// spread makes a time of each model chunk of one for all stages, of one for each
// stage, or of one for each model chunk.
func spread(ms numbers, stages, chunks int) []int64 {
	var out []int64
	switch len(ms) {
	case stages * chunks:
		for _, x := range ms {
			out = append(out, toNs(x))
		}
	case 1, stages:
		for i := range stages * chunks {
			out = append(out, toNs(ms[i%len(ms)]/float64(chunks)))
		}
	default:
		out = make([]int64, len(ms))
	}
	return out
}

// loadTrace reads the workload's file, once for all of a sweep.
func (f *File) loadTrace() error {
	if f.Workload.Source == sourceSynthetic || f.Workload.Source == sourceCluster {
		return nil // a cluster's is there already
	}
	trace, err := workload.Load(workload.Format(f.Workload.Source), f.path(f.Workload.File))
	f.trace = &trace
	return err
}

// scenario makes what runs of the file.
func (f *File) scenario() (*Scenario, error) {
	g, d := &f.Filling, f.Device
	s := &Scenario{
		plans: f.plans, Name: f.Name, Duration: time.Duration(f.Days * 24 * float64(time.Hour)),
		Filling: Filling{
			Share: g.Share, GuardNs: toNs(g.GuardMs), LeastNs: toNs(g.LeastMs), Control: g.ControlPct / 100, OpenNs: toNs(g.OpenUs / 1e3), LateNs: toNs(g.LateUs / 1e3),
			Announce: toNs(g.AnnounceUs / 1e3), Start: time.Duration(g.StartS * float64(time.Second)), Program: g.ProgramPct / 100, BestPlans: g.Plans == "best",
		},
		Device: workload.Device{
			MemoryBytes: bytesOf(d.MemoryGiB), FLOPS: d.TFLOPS * 1e12, HostLinkBps: d.HostLinkGBps * 1e9, Inference: g.InferencePct / 100, Training: g.TrainingPct / 100,
			ReserveBytes: bytesOf(d.ReserveGiB),
		},
		Workload: Workload{
			Load: f.Workload.Load, Backlog: f.Workload.Backlog, LongestMs: int64(f.Workload.LongestH * 3600e3), Users: f.Workload.Users, Gangs: f.Workload.Gangs,
			Deadline: f.Workload.DeadlineFactor,
		},
	}
	for i, name := range offeredKinds {
		if slices.Contains(g.Kinds, name) {
			s.Filling.Kinds = append(s.Filling.Kinds, pipefill.BubbleKind(i))
		}
	}
	for _, m := range f.recorded {
		if f.Filling.BubbleScalePct != 100 {
			m.LengthScale = f.Filling.BubbleScalePct / 100
		}
		s.Mains = append(s.Mains, m)
	}
	for i := range f.MainJobs {
		main, err := f.main(i)
		if err != nil {
			return nil, err
		}
		s.Mains = append(s.Mains, main)
	}
	return s, f.fills(s)
}

func (f *File) main(i int) (Main, error) {
	j := &f.MainJobs[i]
	m := Main{Name: j.Name, Devices: j.GPUs, FLOPS: j.TFLOPS * 1e12, Iterations: j.Iterations, FreeBytes: bytesOf(j.FreeGiB)}
	if f.Filling.BubbleScalePct != 100 {
		m.LengthScale = f.Filling.BubbleScalePct / 100
	}
	if len(j.Measured) == 0 {
		var wrong []string
		m.Pipeline, wrong = j.pipeline(f.Device)
		if wrong = append(wrong, m.Pipeline.Check()...); len(wrong) > 0 {
			return m, pipefill.Errorf(pipefill.CodeInvalid, "%s: main_jobs[%d].%s", f.from.name, i, wrong[0])
		}
		return m, nil
	}
	m.Devices = 0
	for _, d := range j.Measured {
		cycle, err := readCycle(f.path(d.Cycle))
		if err != nil {
			return m, err
		}
		bubble := toNs(d.BubbleMs)
		if bubble == 0 {
			for _, b := range cycle.Bubbles {
				bubble += b.DurationNs
			}
		}
		m.Measured = append(m.Measured, Measured{Cycle: cycle, BubbleNs: bubble, Devices: d.Devices})
		m.Devices += d.Devices
	}
	return m, nil
}

func readCycle(path string) (pipefill.BubbleCycle, error) {
	file, err := os.Open(path) //nolint:gosec // the user names it, as the user
	if err != nil {
		return pipefill.BubbleCycle{}, pipefill.Errorf(pipefill.CodeInvalid, "bubble cycle: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	return plan.DecodeCycle(file, path)
}

// fills makes the kinds of fill job: those of the mix, and profiles that were
// measured; without either, all models alike.
func (f *File) fills(s *Scenario) error {
	mix := f.Workload.Mix
	if len(mix) == 0 && len(f.Workload.Profiles) == 0 {
		mix = map[string]float64{}
		for _, k := range workload.Kinds {
			mix[k.Name] = 1
		}
	}
	for _, k := range workload.Kinds {
		if mix[k.Name] <= 0 {
			continue
		}
		p := k.Profile(s.Device)
		alone := k.Alone(s.Device)
		if alone == 0 {
			return pipefill.Errorf(pipefill.CodeInvalid, "%s: workload.mix.%s: it does not fit a device of %g GiB at all", f.from.name, k.Name, f.Device.MemoryGiB)
		}
		s.Fills = append(s.Fills, Fill{Name: k.Name, Weight: mix[k.Name], Profile: &p, Alone: alone, FLOPS: s.Device.FLOPS, key: fmt.Sprintf("%s %+v", k.Name, s.Device)})
	}
	if mix[kindProgram] > 0 {
		s.Fills = append(s.Fills, Fill{Name: kindProgram, Weight: mix[kindProgram], FLOPS: s.Device.FLOPS})
	}
	for i, entry := range f.Workload.Profiles {
		fill, err := f.profile(s, entry)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(s.Fills, func(o Fill) bool { return o.Name == fill.Name }) {
			return pipefill.Errorf(pipefill.CodeInvalid, "%s: workload.profiles[%d].file: there is another fill job of the name %s", f.from.name, i, fill.Name)
		}
		s.Fills = append(s.Fills, fill)
	}
	if len(s.Fills) == 0 {
		return pipefill.Errorf(pipefill.CodeInvalid, "%s: workload.mix: every weight is 0", f.from.name)
	}
	if f.Workload.Source != sourceSynthetic {
		s.Workload.Trace = f.trace
	}
	return nil
}

func (f *File) profile(s *Scenario, entry ProfileFile) (Fill, error) {
	path := f.path(entry.File)
	file, err := os.Open(path) //nolint:gosec // the user names it, as the user
	if err != nil {
		return Fill{}, pipefill.Errorf(pipefill.CodeInvalid, "fill profile: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	p, err := plan.DecodeProfile(file, path)
	if err != nil {
		return Fill{}, err
	}
	fill := Fill{Name: p.Name, Weight: entry.Weight, Profile: &p, FLOPS: s.Device.FLOPS, key: path}
	if entry.Weight == 0 {
		fill.Weight = 1
	}
	if entry.TFLOPS > 0 {
		fill.FLOPS = entry.TFLOPS * 1e12
	}
	if fill.Alone = workload.Alone(p, s.Device.MemoryBytes); fill.Alone == 0 {
		return fill, pipefill.Errorf(pipefill.CodeInvalid, "%s: no configuration without swapping fits a device of %g GiB: what it does alone is not known", path, f.Device.MemoryGiB)
	}
	return fill, nil
}
