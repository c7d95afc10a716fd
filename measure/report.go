package measure

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// BlockIterations is the length of the blocks that Overhead compares: some
// seconds, longer than what disturbs a small machine for a moment.
const BlockIterations = 10

// Report is build/demo/report.json (DESIGN, section 9).
type Report struct {
	Main     MainFigures   `json:"main"`
	Bubbles  BubbleFigures `json:"bubbles"`
	FillJobs FillJobCounts `json:"fill_jobs"`
	Gate     GateSummary   `json:"gate"`

	UsefulSeconds float64 `json:"useful_seconds"` // what the completed fill work takes on an idle device
}

// MainFigures are the main job's.
type MainFigures struct {
	Iterations    int        `json:"iterations"`
	BaselineMs    float64    `json:"baseline_iteration_ms"`
	FilledMs      float64    `json:"filled_iteration_ms"`
	OverheadPct   float64    `json:"overhead_pct"`
	OverheadCI95  [2]float64 `json:"overhead_ci95_pct"`
	OverheadKnown bool       `json:"overhead_known"` // false: too few iterations of either sort

	LossFirst            float64 `json:"loss_first"` // of the training, in nats a character
	LossLast             float64 `json:"loss_last"`
	BubbleFraction       float64 `json:"bubble_fraction"` // of the run's time, mean of the ranks
	BubbleFractionTheory float64 `json:"bubble_fraction_theory"`
}

// BubbleFigures are sums over devices, while fill work was there to run,
// control iterations excluded.
type BubbleFigures struct {
	Seconds        float64 `json:"seconds"`
	FilledSeconds  float64 `json:"filled_seconds"`
	OutsideSeconds float64 `json:"outside_seconds"`
	RecoveredPct   float64 `json:"recovered_pct"`
	UsefulPct      float64 `json:"useful_pct"`
	ControlSeconds float64 `json:"control_seconds"` // bubble seconds of control iterations, counted apart
}

// FillJobCounts count the fill jobs of a run.
type FillJobCounts struct {
	Submitted int `json:"submitted"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

// GateSummary is over all openings, and by mode where there are several.
type GateSummary struct {
	GateFigures
	Modes []GateFigures `json:"modes,omitempty"`
}

// GateFigures are of one mode.
type GateFigures struct {
	Mode         string  `json:"mode"`
	OpenToRunP50 float64 `json:"open_to_run_us_p50"`
	OpenToRunP99 float64 `json:"open_to_run_us_p99"`
	Openings     int     `json:"openings"`
}

// Compute turns traces into a report's figures. usefulSeconds is what the
// completed fill work takes on an idle device.
func Compute(traces Traces, usefulSeconds float64, counts FillJobCounts) (Report, error) {
	report := Report{FillJobs: counts, UsefulSeconds: usefulSeconds}
	control := controlIterations(traces)
	filledDevices := devicesFilled(traces)
	for _, rank := range traces.Ranks {
		there := Union(filledDevices[rank.Device])
		var bubbles, controlled []Interval
		for _, wait := range rank.Waits {
			if control[wait.Iteration] {
				controlled = append(controlled, wait.Interval)
			} else {
				bubbles = append(bubbles, wait.Interval)
			}
		}
		inside := Union(bubbles)
		report.Bubbles.Seconds += seconds(Length(Intersect(inside, there)))
		report.Bubbles.ControlSeconds += seconds(Length(Intersect(Union(controlled), there)))
		for _, fill := range traces.Fills {
			if fill.Device != rank.Device {
				continue
			}
			in, out := Filled(fill.Readings, inside)
			report.Bubbles.FilledSeconds += seconds(in)
			report.Bubbles.OutsideSeconds += seconds(out)
		}
	}
	if report.Bubbles.Seconds > 0 {
		report.Bubbles.RecoveredPct = 100 * report.Bubbles.FilledSeconds / report.Bubbles.Seconds
		report.Bubbles.UsefulPct = 100 * usefulSeconds / report.Bubbles.Seconds
	}
	report.Gate = gateFigures(traces.Fills)
	return report, mainFigures(&report.Main, traces)
}

// controlIterations are those that any device's daemon marked so.
func controlIterations(traces Traces) map[int64]bool {
	control := map[int64]bool{}
	for _, events := range traces.Events {
		for _, e := range events {
			if e.Flags&flagControl != 0 {
				control[e.Iteration] = true
			}
		}
	}
	return control
}

// devicesFilled tells when fill work was on each device.
func devicesFilled(traces Traces) map[string][]Interval {
	filled := map[string][]Interval{}
	for _, fill := range traces.Fills {
		if n := len(fill.Readings); n > 1 {
			filled[fill.Device] = append(filled[fill.Device], Interval{fill.Readings[0].AtNs, fill.Readings[n-1].AtNs})
		}
	}
	return filled
}

// Compared are the first rank's iterations, in order, those only in which fill
// work was on some device: what Overhead compares. There are none without a
// trace of rank 0.
func Compared(traces Traces) []Iteration {
	first := slices.IndexFunc(traces.Ranks, func(r Rank) bool { return r.Rank == 0 })
	if first < 0 {
		return nil
	}
	var there []Interval
	for _, spans := range devicesFilled(traces) {
		there = append(there, spans...)
	}
	there = Union(there)
	control := controlIterations(traces)
	var iterations []Iteration
	for number, span := range traces.Ranks[first].Iterations {
		if length := span.EndNs - span.BeginNs; Overlap(span, there) >= length {
			if length -= traces.Ranks[first].OtherNs[number]; length > 0 {
				iterations = append(iterations, Iteration{Number: number, Control: control[number], Ns: length})
			}
		}
	}
	slices.SortFunc(iterations, func(a, b Iteration) int { return int(a.Number - b.Number) })
	return iterations
}

// mainFigures compares the first rank's iterations.
func mainFigures(figures *MainFigures, traces Traces) error {
	first := slices.IndexFunc(traces.Ranks, func(r Rank) bool { return r.Rank == 0 })
	if first < 0 {
		return fmt.Errorf("no trace of rank 0")
	}
	iterations := Compared(traces)
	var baseline, withFill []float64
	for _, it := range iterations {
		if it.Control {
			baseline = append(baseline, float64(it.Ns)/1e6)
		} else {
			withFill = append(withFill, float64(it.Ns)/1e6)
		}
	}
	figures.Iterations = len(traces.Ranks[first].Iterations)
	figures.BaselineMs, figures.FilledMs = orZero(Quantile(baseline, 0.5)), orZero(Quantile(withFill, 0.5))
	estimate, known := Overhead(iterations, BlockIterations)
	figures.OverheadKnown = known
	figures.OverheadPct = 100 * estimate.Value
	figures.OverheadCI95 = [2]float64{100 * estimate.Lo, 100 * estimate.Hi}
	return nil
}

func gateFigures(fills []Fill) GateSummary {
	byMode := map[string][]float64{}
	var all []float64
	for _, fill := range fills {
		for _, ns := range fill.OpenToRun {
			byMode[fill.Mode] = append(byMode[fill.Mode], float64(ns)/1e3)
			all = append(all, float64(ns)/1e3)
		}
	}
	modes := slices.Sorted(maps.Keys(byMode))
	summary := GateSummary{GateFigures: figuresOf(strings.Join(modes, "+"), all)}
	for _, mode := range modes {
		if len(modes) > 1 {
			summary.Modes = append(summary.Modes, figuresOf(mode, byMode[mode]))
		}
	}
	return summary
}

func figuresOf(mode string, us []float64) GateFigures {
	return GateFigures{
		Mode: mode, OpenToRunP50: orZero(Quantile(us, 0.5)), OpenToRunP99: orZero(Quantile(us, 0.99)), Openings: len(us),
	}
}

func seconds(ns int64) float64 { return float64(ns) / 1e9 }

func orZero(x float64) float64 {
	if math.IsNaN(x) {
		return 0
	}
	return x
}
