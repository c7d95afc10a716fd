package simulator

import (
	"context"
	"fmt"
	"io"
	"slices"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/simulator/pipeline"
)

// StudyResult is simulate --beyond's answer.
type StudyResult struct {
	Version     int          `json:"version"`
	Sections    []Section    `json:"sections"`
	Assumptions []Assumption `json:"assumptions"`
}

// WriteText writes each study's table, and what is assumed.
func (r *StudyResult) WriteText(out io.Writer) error {
	if err := writeSections(out, r.Sections); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\nAssumed:")
	return writeAssumptions(out, r.Assumptions)
}

// Beyond studies what goes beyond the paper on its cluster: forms of plans, gangs,
// steady bubbles, zero-bubble schedules, faster links to the host, and where
// filling stops paying; and with them the studies of --paper.
func Beyond(ctx context.Context, seed uint64, progress func(float64)) (*StudyResult, error) {
	files, err := studied()
	if err != nil {
		return nil, err
	}
	ours := files["ours"]
	r := &StudyResult{Version: FileVersion, Assumptions: paperAssumptions(files["paper"], ours)}
	studies := []func(*File) (Section, error){planForms, gangs, schedules, steadyBubbles, hostLinks, breakEven}
	for i, study := range studies {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("simulate: %w", context.Cause(ctx))
		}
		s, err := study(ours)
		if err != nil {
			return nil, err
		}
		r.Sections = append(r.Sections, s)
		progress(float64(i+1) / float64(len(studies)+1))
	}
	more, err := paperSections(ctx, files, seed, func(part float64) {
		progress((float64(len(studies)) + part) / float64(len(studies)+1))
	})
	r.Sections = append(r.Sections, more...)
	return r, err
}

// with is a copy of a file with its first main job changed.
func (f *File) with(change func(*File)) *File {
	file := *f
	file.MainJobs = slices.Clone(f.MainJobs)
	change(&file)
	return &file
}

// planForms compares the best single configuration, mixed ones, and devices
// shared by two jobs, whose bubbles differ.
func planForms(f *File) (Section, error) {
	s := Section{
		Title: "Plans: one configuration, mixed, shared", Note: "Useful work in % of bubble time, 1F1B, mean over stages; shared: with a second fill job, BERT-base inference.",
		Columns: []string{"GPUS", "FILL JOB", "SINGLE", "MIXED", "SHARED"}, Plot: &Plot{X: 0, Y: []int{2, 4}, By: []int{1}, XAxis: "GPUs", YAxis: "useful, % of bubble time"},
	}
	for _, gpus := range paperGPUs {
		w, err := f.with(func(f *File) {
			f.MainJobs[0].GPUs = gpus
			f.MainJobs[0].setSchedule(string(pipeline.OneFOneB))
		}).full(nil)
		if err != nil {
			return s, err
		}
		second := slices.IndexFunc(w.s.Fills, func(f Fill) bool { return f.Name == "bert-base-inference" })
		for _, name := range []string{"bert-large-training", "efficientnet-training", "swin-large-inference", "xlm-roberta-xl-inference"} {
			fill := &w.s.Fills[slices.IndexFunc(w.s.Fills, func(f Fill) bool { return f.Name == name })]
			row := []any{gpus, name}
			for _, shape := range []func(pipefill.BubbleCycle) (float64, error){
				func(c pipefill.BubbleCycle) (float64, error) {
					return useful(w.s.plans.make(c, fill, false))([]Fill{*fill})
				},
				func(c pipefill.BubbleCycle) (float64, error) {
					return useful(w.s.plans.make(c, fill, true))([]Fill{*fill})
				},
				func(c pipefill.BubbleCycle) (float64, error) {
					both := []Fill{*fill, w.s.Fills[second]}
					return useful(plan.Make(c, []plan.Profile{*both[0].Profile, *both[1].Profile}, plan.Options{}))(both)
				},
			} {
				done, bubble := 0.0, 0.0
				for _, c := range w.classes {
					speed, err := shape(c.cycle)
					if err != nil {
						return s, err
					}
					done += speed * 1e9 / float64(c.cycle.IterationNs) * (1 - w.s.Filling.Control)
					bubble += c.bubble
				}
				row = append(row, 100*done/bubble)
			}
			s.Rows = append(s.Rows, row)
		}
	}
	return s, nil
}

// useful returns the seconds of work alone that a plan does a cycle; 0 of one
// that fits nothing.
func useful(p plan.Plan, err error) func([]Fill) (float64, error) {
	return func(fills []Fill) (float64, error) {
		if pipefill.ErrorCode(err) == pipefill.CodeConflict {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("plan: %w", err)
		}
		sum := 0.0
		for _, c := range p.Chunks {
			i := slices.IndexFunc(fills, func(f Fill) bool { return f.Name == c.Job })
			config := &fills[i].Profile.Configs[c.Config]
			var pass int64
			for _, op := range config.Ops {
				pass += op.TimeNs
			}
			var part int64
			for k := range c.OpCount % len(config.Ops) {
				part += config.Ops[(c.FirstOp+k)%len(config.Ops)].TimeNs
			}
			passes := float64(c.OpCount/len(config.Ops)) + float64(part)/float64(pass)
			sum += passes * float64(config.BatchSize) / fills[i].Alone
		}
		return sum / float64(p.PeriodCycles), nil
	}
}

// gangs runs a data-parallel fill job in lock step over devices of one stage, of
// neighbouring stages, and of stages far apart.
func gangs(f *File) (Section, error) {
	s := Section{
		Title: "Gangs", Note: "A fill job on several devices at once, BERT-large inference, GPipe: work of each device in % of its bubble time. Stages idle at different times, so that a gang wants devices of one stage.",
		Columns: []string{"GPUS", "ONE DEVICE", "2 OF A STAGE", "2 NEXT STAGES", "4 NEXT STAGES", "FIRST AND LAST"},
	}
	for _, gpus := range paperGPUs {
		w, err := f.with(func(f *File) { f.MainJobs[0].GPUs = gpus }).full(map[string]float64{bestKind: 1})
		if err != nil {
			return s, err
		}
		fill := &w.s.Fills[0]
		middle := len(w.classes) / 2
		row := []any{gpus}
		for _, stages := range [][]int{{middle}, {middle, middle}, {middle, middle + 1}, {middle - 1, middle, middle + 1, middle + 2}, {0, len(w.classes) - 1}} {
			var cycles []pipefill.BubbleCycle
			bubble := 0.0
			for _, c := range stages {
				cycles = append(cycles, w.classes[c].cycle)
				bubble += w.classes[c].bubble / float64(len(stages))
			}
			p, err := plan.Gang(cycles, *fill.Profile, plan.Options{})
			if pipefill.ErrorCode(err) == pipefill.CodeConflict {
				row = append(row, 0.0)
				continue
			}
			if err != nil {
				return s, fmt.Errorf("plan a gang: %w", err)
			}
			// A gang's samples are of one device.
			row = append(row, 100*p.SamplesPerSecond/fill.Alone*(1-w.s.Filling.Control)/bubble)
		}
		s.Rows = append(s.Rows, row)
	}
	s.Plot = &Plot{X: 0, Y: []int{1, 2, 3, 4, 5}, XAxis: "GPUs", YAxis: "useful, % of bubble time"}
	return s, nil
}

// schedules compares what each schedule leaves and what filling makes of it.
func schedules(f *File) (Section, error) {
	s := Section{
		Title: "Schedules", Note: "Backward passes of 100 ms, half of them the weights' gradient where a schedule parts it; interleaved needs as many micro-batches as stages, or a multiple. GPU-equivalents are of all time, the mixed trace.",
		Columns: []string{"SCHEDULE", "GPUS", "ITERATION S", "DAYS", "BUBBLES %", "IDLE GPUS", "USEFUL %", "RECOVERED GPUS", "TRAINING AND FILL %"},
	}
	for _, schedule := range pipeline.Schedules {
		for _, gpus := range paperGPUs {
			file := f.with(func(f *File) {
				f.MainJobs[0].GPUs = gpus
				f.MainJobs[0].setSchedule(string(schedule))
			})
			if m := f.MainJobs[0]; schedule == pipeline.Interleaved && m.GlobalMicroBatches/(gpus/(m.Stages*m.TensorParallel))%m.Stages != 0 {
				continue
			}
			w, err := file.full(nil)
			if err != nil {
				return s, err
			}
			t := w.total()
			s.Rows = append(s.Rows, []any{
				string(schedule), gpus, t.iterationS, t.iterationS * float64(w.s.Mains[0].Iterations) / 86400, 100 * t.bubble, t.bubble * float64(gpus), w.usefulPct(),
				t.recovered, 100 * (t.busy + t.recovered/float64(gpus)),
			})
		}
	}
	s.Plot = &Plot{X: 1, Y: []int{8}, By: []int{0}, XAxis: "GPUs", YAxis: "time in useful work, %"}
	return s, nil
}

// total is a world's with a queue that is never empty.
type total struct {
	iterationS, bubble, busy float64 // shares of all time
	recovered                float64 // devices
	slowdown                 float64
}

func (w *world) total() total {
	t := total{iterationS: float64(w.mains[0].iterationNs) / 1e9, slowdown: w.mains[0].slowdown, recovered: w.meanSpeed() * float64(w.devices())}
	for _, c := range w.classes {
		share := float64(c.devices) / float64(w.devices())
		t.bubble += share * c.bubble
		t.busy += share * c.busy
	}
	return t
}

// steadyBubbles asks what the small gaps of 1F1B and interleaved 1F1B are worth.
func steadyBubbles(f *File) (Section, error) {
	s := Section{
		Title: "Small bubbles", Note: "Useful work in % of bubble time, the mixed trace, transfers of 2 ms: only bubbles from 40 ms on as the paper has it, all of fill-drain and fwd-bwd, and the steady ones too.",
		Columns: []string{"SCHEDULE", "GPUS", "LONG ONLY", "WITHOUT STEADY", "ALL"},
	}
	for _, schedule := range []pipeline.Schedule{pipeline.OneFOneB, pipeline.Interleaved} {
		for _, gpus := range paperGPUs[:3] {
			row := []any{string(schedule), gpus}
			for _, set := range []func(*File){
				func(f *File) { f.Filling.LeastMs, f.Filling.Kinds = 40, offeredKinds[:2] },
				func(f *File) { f.Filling.Kinds = offeredKinds[:2] },
				func(*File) {},
			} {
				w, err := f.with(func(f *File) {
					f.MainJobs[0].GPUs, f.MainJobs[0].TransferMs = gpus, 2
					f.MainJobs[0].setSchedule(string(schedule))
					set(f)
				}).full(nil)
				if err != nil {
					return s, err
				}
				row = append(row, w.usefulPct())
			}
			s.Rows = append(s.Rows, row)
		}
	}
	s.Plot = &Plot{X: 1, Y: []int{2, 3, 4}, By: []int{0}, XAxis: "GPUs", YAxis: "useful, % of bubble time"}
	return s, nil
}

// hostLinks asks what a faster link between device and host is worth, where fill
// jobs do not fit into what is free.
func hostLinks(f *File) (Section, error) {
	s := Section{
		Title: "Links to the host", Note: "Useful work in % of bubble time, 8K GPUs, GPipe, jobs that offload: PCIe 3, 4, 5 and NVLink-C2C, one way, as the data sheets have them less a fifth.",
		Columns: []string{"FREE", "LINK GB/S", "BERT-LARGE TRAINING", "XLM-ROBERTA-XL INFERENCE", "MIXED TRACE"},
	}
	for _, free := range []float64{1, 2, 4.5} {
		for _, link := range []float64{12, 25, 50, 360} {
			row := []any{fmt.Sprintf("%g GiB", free), link}
			for _, mix := range []map[string]float64{{"bert-large-training": 1}, {"xlm-roberta-xl-inference": 1}, nil} {
				w, err := f.with(func(f *File) {
					f.MainJobs[0].GPUs, f.MainJobs[0].FreeGiB, f.Device.HostLinkGBps = 8192, free, link
				}).full(mix)
				if err != nil {
					return s, err
				}
				row = append(row, w.usefulPct())
			}
			s.Rows = append(s.Rows, row)
		}
	}
	s.Plot = &Plot{X: 1, Y: []int{2, 3, 4}, By: []int{0}, XAxis: "GB/s", YAxis: "useful, % of bubble time"}
	return s, nil
}

// breakEven looks for the scale at which filling costs the main job more devices
// than it recovers.
func breakEven(f *File) (Section, error) {
	s := Section{
		Title:   "Where filling stops paying",
		Note:    "GPipe, 1 GPU a stage, best-case inference. Net: recovered devices less the main job's slow-down, in % of all devices, by the measured hand-over (0.00565 ms) and by slower ones. Below 0 filling costs more than it gives; where bubbles are shorter than guard and ops, nothing is filled.",
		Columns: []string{"STAGES", "MICRO-BATCHES", "MICRO-BATCH MS", "BUBBLES %", "USEFUL %", "NET %", "NET %, 0.1 MS LATE", "NET %, 1 MS LATE", "NET %, 5 MS LATE"},
	}
	for _, stages := range []int{2, 4, 8, 16} {
		for _, micro := range []int{64, 512} {
			for _, ms := range []float64{3, 15, 150} {
				row := []any{stages, micro, ms}
				for i, late := range []float64{f.Filling.LateUs, 100, 1000, 5000} {
					w, err := f.with(func(f *File) {
						m := &f.MainJobs[0]
						m.Stages, m.TensorParallel, m.GPUs, m.GlobalMicroBatches, m.MicroBatches = stages, 1, stages, 0, micro
						m.ForwardMs, m.BackwardMs, m.ReduceMs, m.OptimizerMs = numbers{ms / 3}, numbers{2 * ms / 3}, 8*ms/3, ms/3
						f.Filling.LateUs = late
						f.Workload.Backlog = 0
					}).full(map[string]float64{bestKind: 1})
					if err != nil {
						return s, err
					}
					t := w.total()
					if i == 0 {
						row = append(row, 100*t.bubble, w.usefulPct())
					}
					row = append(row, 100*(t.recovered/float64(stages)-t.slowdown))
				}
				s.Rows = append(s.Rows, row)
			}
		}
	}
	return s, nil
}
