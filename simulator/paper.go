package simulator

import (
	"context"
	"embed"
	"fmt"
	"io"
	"text/tabwriter"

	"pipefill/simulator/pipeline"
	"pipefill/simulator/workload"
)

//go:embed studies/*.yaml
var studies embed.FS

// study reads one of the files that come with the simulator.
func study(name string) (*File, error) {
	data, err := studies.ReadFile("studies/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("read study: %w", err)
	}
	return ParseFile(name+".yaml", "", data)
}

// studied reads the studies with one cache of plans among them.
func studied() (map[string]*File, error) {
	plans := &planCache{}
	files := map[string]*File{}
	for _, name := range paperSettings {
		f, err := study(name)
		if err != nil {
			return nil, err
		}
		f.plans = plans
		files[name] = f
	}
	return files, nil
}

// PaperRow is one scale, schedule and setting.
type PaperRow struct {
	GPUs           int     `json:"gpus"`
	Schedule       string  `json:"schedule"`
	Setting        string  `json:"setting"` // paper: with the paper's constants; ours: filled as pipefill does
	MicroBatches   int     `json:"micro_batches"`
	BubbleFraction float64 `json:"bubble_fraction"`
	IdleGPUs       float64 `json:"idle_gpu_equivalents"`
	Days           float64 `json:"days"`
	SlowdownPct    float64 `json:"main_slowdown_pct"`
	GainBestPct    float64 `json:"utilization_gain_pct_best"`
	GainTracePct   float64 `json:"utilization_gain_pct_trace"`
	RecoveredBest  float64 `json:"recovered_gpu_equivalents_best"`
	RecoveredTrace float64 `json:"recovered_gpu_equivalents_trace"`
	queueLeast     float64
}

// Published is one of the paper's figures beside ours.
type Published struct {
	Figure        string  `json:"figure"`
	Theirs        float64 `json:"theirs"`
	Ours          float64 `json:"ours"`
	DifferencePct float64 `json:"difference_pct"`
}

// PaperResult is simulate --paper's answer.
type PaperResult struct {
	Rows        []PaperRow   `json:"rows"`
	Assumptions []Assumption `json:"assumptions"`
	Published   []Published  `json:"published"`

	sections []Section
}

// Paper's scales, schedules and settings.
var (
	paperGPUs      = []int{1024, 2048, 4096, 8192}
	paperSchedules = []pipeline.Schedule{pipeline.GPipe, pipeline.OneFOneB}
	paperSettings  = []string{"paper", "ours"}
)

// bestKind is the best case: a batch inference job that fits everywhere.
const bestKind = "bert-large-inference"

// paperParts is what of the evaluation runs.
type paperParts struct {
	settings []string
	days     float64 // 0: as the studies have it
	bestOnly bool    // without the mixed trace
	sections bool    // the studies beside the rows
}

// Paper runs the evaluation of PipeFill's paper.
func Paper(ctx context.Context, seed uint64, progress func(float64)) (*PaperResult, error) {
	return paper(ctx, seed, paperParts{settings: paperSettings, sections: true}, progress)
}

func paper(ctx context.Context, seed uint64, parts paperParts, progress func(float64)) (*PaperResult, error) {
	files, err := studied()
	if err != nil {
		return nil, err
	}
	mixes := []map[string]float64{{bestKind: 1}, nil}
	if parts.bestOnly {
		mixes = mixes[:1]
	}
	var points []Point
	var rows []PaperRow
	for _, setting := range parts.settings {
		base := files[setting]
		if parts.days > 0 {
			base.Days = parts.days
		}
		for _, gpus := range paperGPUs {
			for _, s := range paperSchedules {
				row := PaperRow{GPUs: gpus, Schedule: string(s), Setting: setting}
				for _, mix := range mixes {
					p, err := base.at(gpus, s, mix)
					if err != nil {
						return nil, err
					}
					points = append(points, p)
					row.MicroBatches = p.Scenario.Mains[0].Pipeline.MicroBatches
				}
				rows = append(rows, row)
			}
		}
	}
	const most = 0.9 // the rest is for sections
	outcomes, err := Simulate(ctx, points, seed, 1, func(part float64) { progress(most * part) })
	if err != nil {
		return nil, err
	}
	for i := range rows {
		own := outcomes[i*len(mixes) : (i+1)*len(mixes)]
		rows[i].take(own[0].each[0], own[len(own)-1].each[0])
	}
	r := &PaperResult{Rows: rows, Published: published(rows), Assumptions: paperAssumptions(files["paper"], files["ours"])}
	if parts.sections {
		r.sections, err = paperSections(ctx, files, seed, func(part float64) { progress(most + (1-most)*part) })
	}
	return r, err
}

// at is a study at another scale, under another schedule, with another mix.
func (f *File) at(gpus int, s pipeline.Schedule, mix map[string]float64) (Point, error) {
	file := *f
	file.MainJobs = append([]MainFile(nil), f.MainJobs...)
	file.MainJobs[0].GPUs = gpus
	file.MainJobs[0].setSchedule(string(s))
	file.Workload.Mix = mix
	// A queue that is never empty: the first jobs are of all lengths, and most of
	// them end soon, while later on devices have the long ones.
	file.Workload.Backlog = 6 * gpus
	return file.point()
}

// point is the one point of a file without sweep and with one policy.
func (f *File) point() (Point, error) {
	points, err := f.Points()
	if err != nil {
		return Point{}, err
	}
	return points[0], nil
}

func (row *PaperRow) take(best, trace Figures) {
	row.BubbleFraction, row.IdleGPUs = best.BubbleFraction, best.IdleGPUs
	row.Days, row.SlowdownPct = best.Days, best.SlowdownPct
	row.GainBestPct, row.GainTracePct = best.UtilizationGainPct, trace.UtilizationGainPct
	row.RecoveredBest, row.RecoveredTrace = best.recoveredOfPipe, trace.recoveredOfPipe
	row.queueLeast = min(best.QueueLeast, trace.QueueLeast)
}

// published sets the paper's figures beside the rows of its constants.
func published(rows []PaperRow) []Published {
	at := func(gpus int) PaperRow {
		for _, r := range rows {
			if r.GPUs == gpus && r.Schedule == string(pipeline.GPipe) && r.Setting == "paper" {
				return r
			}
		}
		return PaperRow{}
	}
	k1, k2, k4, k8 := at(1024), at(2048), at(4096), at(8192)
	slowest := 0.0
	for _, r := range rows {
		if r.Setting == "paper" {
			slowest = max(slowest, r.SlowdownPct)
		}
	}
	list := []Published{
		{Figure: "days of training on 1K GPUs (second hand)", Theirs: 82, Ours: k1.Days},
		{Figure: "days of training on 4K GPUs (second hand)", Theirs: 34, Ours: k4.Days},
		{Figure: "days of training on 8K GPUs (second hand)", Theirs: 26, Ours: k8.Days},
		{Figure: "bubbles at 8K GPUs, % (theirs: can exceed)", Theirs: 60, Ours: 100 * k8.BubbleFraction},
		{Figure: "gain in utilization at 8K GPUs, best case, %", Theirs: 63, Ours: k8.GainBestPct},
		{Figure: "gain in utilization at 8K GPUs, trace, % (second hand)", Theirs: 45, Ours: k8.GainTracePct},
		{Figure: "least gain at low scale: 1K GPUs, trace, %", Theirs: 5, Ours: k1.GainTracePct},
		{Figure: "greatest gain at low scale: 2K GPUs, best case, %", Theirs: 15, Ours: k2.GainBestPct},
		{Figure: "additional GPUs' worth of work at 8K GPUs, best case", Theirs: 2600, Ours: k8.RecoveredBest},
		{Figure: "slow-down of the main job, % (theirs: less than)", Theirs: 2, Ours: slowest},
	}
	for i := range list {
		list[i].DifferencePct = 100 * (list[i].Ours/list[i].Theirs - 1)
	}
	return list
}

// Sources of what the studies assume.
const (
	fromPaper = "the paper (arXiv 2410.07192)"
	recalled  = "recollection of the paper, not verified"
	oursAlone = "ours: not from the paper"
)

// paperAssumptions says of each value of the studies where it is from, and what
// was calibrated to what.
func paperAssumptions(theirs, ours *File) []Assumption {
	m, g, o := theirs.MainJobs[0], theirs.Filling, ours.Filling
	text := fmt.Sprintf
	return []Assumption{
		{"main job", "40B parameters, GPipe and 1F1B, 1K to 8K GPUs", fromPaper},
		{"tensor parallelism x pipeline", text("%d x %d", m.TensorParallel, m.Stages), recalled},
		{"micro-batches an iteration", text("%d, over the replicas: 64, 32, 16, 8", m.GlobalMicroBatches), "derived: (p-1)/(m+p-1) then gives the bubbles and the days that are reported"},
		{"one micro-batch on one stage", text("%g ms forward and %g ms backward", m.ForwardMs[0], m.BackwardMs[0]), oursAlone + "; sets the length of bubbles, and cancels out of fractions, days and gains"},
		{"reduction, optimizer step and transfers", text("%g ms: 3 micro-batches", m.ReduceMs+m.OptimizerMs), "calibrated: to the ratio of the days reported, 82 : 34 : 26, which are as m+18"},
		{"iterations of the training", text("%d", m.Iterations), "calibrated: to 82 days on 1K GPUs"},
		{"main job's rate", text("%g TFLOP/s a GPU while it computes", m.TFLOPS), "derived: 6 x 40e9 FLOP a token, 2,048 tokens a micro-batch, 128 GPUs, 150 ms; the sequence's length is ours"},
		{"bubble_fraction, idle and recovered GPU-equivalents", "of the pipeline's own time", "definition: reduction and optimizer step left out, as in (p-1)/(m+p-1)"},
		{"utilization_gain_pct", "fill jobs' FLOP over the main job's", "definition"},
		{"share of a bubble that is filled", text("%g", g.Share), recalled},
		{"scattered gaps of 1F1B", text("left unfilled: bubbles of which less than %g ms would be offered", g.LeastMs), fromPaper + "; the bound is ours"},
		{"free memory in a bubble", text("%g GiB, of 16", m.FreeGiB), recalled},
		{"fill work's speed within a bubble, inference", text("%g %% of that alone", g.InferencePct), "calibrated: to 2.6K GPUs' worth of work at 8K GPUs, best case"},
		{"fill work's speed within a bubble, training", text("%g %% of that alone", g.TrainingPct), "calibrated: to a gain of 45 % at 8K GPUs with the mixed trace (second hand)"},
		{"fill work's rate alone", text("%g TFLOP/s", theirs.Device.TFLOPS), "calibrated: to a gain of 63 % at 8K GPUs, best case: 0.69 of the main job's"},
		{"best case", bestKind, "batch inference: the paper; which of its models: ours"},
		{"mixed trace", "each of the paper's models equally often, XLM-RoBERTa-XL and Swin-large as inference only", recalled + "; equal shares: ours"},
		{"models of fill jobs", "published shapes of the networks, not measured", "ours: docs/simulator.md"},
		{"run times and arrivals", quantilesText() + text(", cut at %g h", theirs.Workload.LongestH), "percentiles of Alibaba's GPU trace of 2023 (the paper: a trace of Alibaba's); the cut is ours"},
		{"load", text("%g of what the bubbles can do, and a queue from the begin", theirs.Workload.Load), oursAlone + ": so that no device waits for a job"},
		{"policy", "fifo", oursAlone + ": with a queue that is never empty, policies change who waits and not what is done"},
		{"hand-over, both settings", text("%g us late at each bubble's end, %g us to announce", g.LateUs, g.AnnounceUs), "99th percentiles, " + measuredOn + "; no GPU was measured"},
		{"lateness that costs 0.5 % at 8K GPUs", text("%.2f ms at each bubble's end", costlyLateMs(m)), "derived, by the event graph: what a GPU's hand-over may take"},
		{"ours: offered of a bubble", text("%g of the lower quartile, less %g ms at least; %g %% of iterations withheld", o.Share, o.GuardMs, o.ControlPct), "pipefilld's defaults"},
		{"ours: jitter of forwards and backwards", text("%g %%", ours.MainJobs[0].JitterPct), oursAlone + ": bubbles are learned from lengths that vary"},
		{"ours: fill work's speed within a bubble", text("%g %% of that alone", o.InferencePct), "useful over filled time of the demo, " + measuredOn + "; a GPU may lose more: see the sensitivity to it"},
		{"ours: gate open to fill work", text("%g us", o.OpenUs), measuredOn},
		{"ours: plans", "the best that controller/plan makes, of all bubbles", "pipefill"},
	}
}

// costlyLateMs is how late each hand-over may be for half a per cent at 8K GPUs.
func costlyLateMs(m MainFile) float64 {
	m.GPUs = paperGPUs[len(paperGPUs)-1]
	p, wrong := m.pipeline(DeviceFile{})
	if len(wrong) > 0 {
		return 0
	}
	plain, err1 := p.Unroll()
	const late = 1_000_000
	p.LateNs = late
	with, err2 := p.Unroll()
	if err1 != nil || err2 != nil || with.IterationNs == plain.IterationNs {
		return 0
	}
	return 0.005 * float64(plain.IterationNs) / float64(with.IterationNs-plain.IterationNs)
}

// WriteText writes the rows, the published figures, the studies beside them, and
// what is assumed.
func (r *PaperResult) WriteText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "SETTING\tGPUS\tSCHEDULE\tMICRO\tBUBBLES\tIDLEGPUS\tDAYS\tSLOWER\tGAINBEST\tGAINTRACE\tGPUS+BEST\tGPUS+TRACE\t")
	for _, row := range r.Rows {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%.1f\t%.0f\t%.1f\t%.4f\t%.1f\t%.1f\t%.0f\t%.0f\t\n", row.Setting, row.GPUs, row.Schedule, row.MicroBatches,
			100*row.BubbleFraction, row.IdleGPUs, row.Days, row.SlowdownPct, row.GainBestPct, row.GainTracePct, row.RecoveredBest, row.RecoveredTrace)
	}
	_, _ = fmt.Fprintln(w)
	_ = w.Flush()
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PUBLISHED\tTHEIRS\tOURS\tDIFFERENCE")
	for _, p := range r.Published {
		_, _ = fmt.Fprintf(w, "%s\t%g\t%.4g\t%+.1f %%\n", p.Figure, p.Theirs, p.Ours, p.DifferencePct)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	if err := writeSections(out, r.sections); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\nAssumed:")
	return writeAssumptions(out, r.Assumptions)
}

// paperSections are the paper's other studies: bubble length, free memory,
// policies.
func paperSections(ctx context.Context, files map[string]*File, seed uint64, progress func(float64)) ([]Section, error) {
	length, err := bubbleLengths(files)
	if err != nil {
		return nil, err
	}
	memory, err := freeMemory(files)
	if err != nil {
		return nil, err
	}
	speed, err := speedsWithin(files)
	if err != nil {
		return nil, err
	}
	policies, err := policiesCompared(ctx, files["paper"], seed, progress)
	return []Section{length, memory, speed, policies}, err
}

// group is fill jobs of one sort, for figures of a queue that is never empty.
type group struct {
	name string
	mix  map[string]float64
}

// groups are the best case, inference, training, and the trace.
func groups() []group {
	inference, training := map[string]float64{}, map[string]float64{}
	for _, k := range workload.Kinds {
		if k.Training {
			training[k.Name] = 1
		} else {
			inference[k.Name] = 1
		}
	}
	return []group{{"best case", map[string]float64{bestKind: 1}}, {"inference", inference}, {"training", training}, {"trace", nil}}
}

// full is what a study gives with a queue that is never empty: no queue is
// simulated, each device does the mix.
func (f *File) full(mix map[string]float64) (*world, error) {
	file := *f
	file.Workload.Mix = mix
	p, err := file.point()
	if err != nil {
		return nil, err
	}
	return newWorld(p.Scenario)
}

// usefulPct is the share of bubble time that a queue that is never empty turns
// into useful work.
func (w *world) usefulPct() float64 {
	bubble := 0.0
	for _, c := range w.classes {
		bubble += float64(c.devices) * c.bubble
	}
	if bubble == 0 {
		return 0
	}
	return 100 * w.meanSpeed() * float64(w.devices()) / bubble
}
