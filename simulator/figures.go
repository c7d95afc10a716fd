package simulator

import (
	"cmp"
	"math"
	"slices"
)

// Figures are what a run gave. Percentages are of 100. Times are of the whole
// simulated time; a job that has not started or ended by then is in Submitted
// only.
type Figures struct {
	// Of the main jobs, without fill jobs.
	IterationS         float64 `json:"iteration_s"`     // the first main job's
	BubbleFraction     float64 `json:"bubble_fraction"` // of the pipelines' own time, reduction and optimizer step left out
	BubbleOfTime       float64 `json:"bubble_of_time"`  // of all time
	IdleGPUs           float64 `json:"idle_gpu_equivalents"`
	Days               float64 `json:"days"` // of the first main job's whole training; 0: not known
	SlowdownPct        float64 `json:"main_slowdown_pct"`
	UtilizationBefore  float64 `json:"utilization_before_pct"` // time in which devices do useful work
	UtilizationAfter   float64 `json:"utilization_after_pct"`
	UtilizationGainPct float64 `json:"utilization_gain_pct"` // fill jobs' FLOP over the main jobs'
	// Of bubble time.
	OfferedPct    float64 `json:"offered_pct"`
	FilledPct     float64 `json:"filled_pct"`
	UsefulPct     float64 `json:"useful_pct"`
	RecoveredGPUs float64 `json:"recovered_gpu_equivalents"` // useful work over all time, in devices
	OccupiedPct   float64 `json:"occupied_pct"`              // devices that have a fill job
	// Of fill jobs.
	Submitted     float64 `json:"submitted"`
	Started       float64 `json:"started"`
	Completed     float64 `json:"completed"`
	WorkHours     float64 `json:"work_hours"` // done, as device hours alone
	WaitP50S      float64 `json:"wait_s_p50"`
	WaitP90S      float64 `json:"wait_s_p90"`
	CompletionS   float64 `json:"completion_s_mean"` // from submission
	CompletionP50 float64 `json:"completion_s_p50"`
	CompletionP90 float64 `json:"completion_s_p90"`
	MakespanS     float64 `json:"makespan_s"` // to the last end
	DeadlinesPct  float64 `json:"deadlines_met_pct"`
	QueueLeast    float64 `json:"queue_least"`
	QueueMost     float64 `json:"queue_most"`

	// byTime is recovered devices over the pipelines' own time.
	recoveredOfPipe float64
}

// figures sums a run up.
func (r *run) figures() Figures {
	w := r.w
	var f Figures
	devices := float64(len(r.slots))
	totalMs := devices * float64(r.endMs)
	var bubble, usable, busy, mainFLOP, fillFLOP, filled, useful, occupied, slow, idle float64
	for c := range w.classes {
		own, m := &w.classes[c], &w.s.Mains[w.classes[c].main]
		n := float64(own.devices)
		bubble += n * own.bubble
		usable += n * own.usable
		busy += n * own.busy
		mainFLOP += n * own.busy * m.FLOPS * float64(r.endMs)
		slow += n * w.mains[own.main].slowdown
		idle += n * w.mains[own.main].pipeFraction
		var done float64
		for k, ms := range r.occupied[c] {
			rate := &own.rates[k]
			occupied += ms
			filled += ms * rate.filled
			done += ms * rate.speed
			fillFLOP += ms * rate.speed * w.s.Fills[k].FLOPS
		}
		useful += done
		f.recoveredOfPipe += done / float64(r.endMs) / (1 - w.mains[own.main].comm)
	}
	first := w.mains[0]
	f.IterationS = float64(first.iterationNs) / 1e9
	f.Days = float64(w.s.Mains[0].Iterations) * f.IterationS / 86400
	f.IdleGPUs = idle
	f.BubbleFraction, f.BubbleOfTime, f.SlowdownPct = idle/devices, bubble/devices, 100*slow/devices
	f.UtilizationBefore = 100 * busy / devices
	f.UtilizationAfter = f.UtilizationBefore + 100*useful/totalMs
	f.OccupiedPct = 100 * occupied / totalMs
	f.RecoveredGPUs, f.WorkHours = useful/float64(r.endMs), useful/3600e3
	if bubble > 0 {
		of := 100 / (bubble * float64(r.endMs))
		f.OfferedPct, f.FilledPct, f.UsefulPct = 100*usable/bubble, filled*of, useful*of
	}
	if mainFLOP > 0 {
		f.UtilizationGainPct = 100 * fillFLOP / mainFLOP
	}
	r.jobFigures(&f)
	return f
}

func (r *run) jobFigures(f *Figures) {
	var waits, completions []float64
	deadlines, met := 0, 0
	for i := range r.jobs {
		j := &r.jobs[i]
		if j.startMs >= 0 {
			waits = append(waits, float64(j.startMs-j.submitMs)/1e3)
		}
		if j.endMs >= 0 {
			completions = append(completions, float64(j.endMs-j.submitMs)/1e3)
			f.MakespanS = max(f.MakespanS, float64(j.endMs)/1e3)
		}
		if j.deadlineMs > 0 && j.deadlineMs <= r.endMs {
			deadlines++
			if j.endMs >= 0 && j.endMs <= j.deadlineMs {
				met++
			}
		}
	}
	f.Submitted, f.Started, f.Completed = float64(len(r.jobs)), float64(len(waits)), float64(len(completions))
	slices.Sort(waits)
	slices.Sort(completions)
	f.WaitP50S, f.WaitP90S = quantile(waits, 0.5), quantile(waits, 0.9)
	f.CompletionP50, f.CompletionP90 = quantile(completions, 0.5), quantile(completions, 0.9)
	for _, c := range completions {
		f.CompletionS += c / float64(len(completions))
	}
	if deadlines > 0 {
		f.DeadlinesPct = 100 * float64(met) / float64(deadlines)
	}
	f.QueueLeast, f.QueueMost = float64(r.queueMin), float64(r.queueMax)
}

// quantile of sorted values; 0 of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Spread is a figure over seeds.
type Spread struct {
	Mean float64 `json:"mean"`
	Lo   float64 `json:"lo"` // the least
	Hi   float64 `json:"hi"` // the greatest
}

func spreadOf(values []float64) Spread {
	s := Spread{Lo: slices.MinFunc(values, cmp.Compare[float64]), Hi: slices.MaxFunc(values, cmp.Compare[float64])}
	for _, v := range values {
		s.Mean += v / float64(len(values))
	}
	if math.Abs(s.Hi-s.Lo) == 0 {
		s.Mean = s.Lo // without what adding has rounded
	}
	return s
}
