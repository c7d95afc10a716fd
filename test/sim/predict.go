package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"pipefill/controller/schedule"
	"pipefill/measure"
	"pipefill/simulator"
	sim "pipefill/simulator/workload"
	"pipefill/test/workload"
)

// control is the share of control iterations that the cluster is told.
const control = 0.1

// learned is what the earlier run tells of the next.
type learned struct {
	devices []simulator.Measured
	speeds  map[*workload.Program]float64 // of a second there, seconds alone
	bubble  float64                       // share of time in bubbles, control iterations left out
	start   time.Duration                 // from one job's last work to the next one's first
	first   time.Duration                 // from submission to the first work
}

// learn takes from a run what its nodes reported of the bubbles, and what its fill
// jobs took.
func (c *check) learn(f *filled) (*learned, error) {
	l := &learned{speeds: map[*workload.Program]float64{}}
	for _, s := range f.slots {
		if s.Main.Cycle.IterationNs <= 0 || len(s.Main.Cycle.Bubbles) == 0 {
			return nil, errors.New("a device reports no bubbles")
		}
		t := s.Main.Totals
		l.devices = append(l.devices, simulator.Measured{Cycle: s.Main.Cycle, BubbleNs: t.BubbleNs / max(1, t.Iterations-t.ControlIterations), Devices: 1})
	}
	if len(l.devices) == 0 {
		return nil, errors.New("no device reports bubbles")
	}
	alone, there := map[*workload.Program]float64{}, map[*workload.Program]float64{}
	total := 0.0
	byDevice := map[string][]measure.Interval{}
	for i, p := range f.programs {
		span := time.Duration(f.spans[i].EndNs - f.spans[i].BeginNs).Seconds()
		alone[p] += p.IdleSeconds()
		there[p] += span
		total += span
		byDevice[f.devices[i]] = append(byDevice[f.devices[i]], f.spans[i])
	}
	for p := range alone {
		l.speeds[p] = alone[p] / there[p]
		c.Say("%s does %.3f s of its work a second there", p.Name, l.speeds[p])
	}
	l.bubble = f.report.Bubbles.Seconds / total
	var gaps, firsts []float64
	for _, spans := range byDevice {
		slices.SortFunc(spans, func(a, b measure.Interval) int { return int(a.BeginNs - b.BeginNs) })
		firsts = append(firsts, float64(spans[0].BeginNs-f.submitNs[0]))
		for i := 1; i < len(spans); i++ {
			gaps = append(gaps, float64(spans[i].BeginNs-spans[i-1].EndNs))
		}
	}
	if len(gaps) == 0 {
		return nil, errors.New("no device had two fill jobs")
	}
	l.start, l.first = time.Duration(mean(gaps)), time.Duration(mean(firsts))
	c.Say("bubbles are %.1f %% of the time; from job to job %.1f s, to the first one %.1f s", 100*l.bubble, l.start.Seconds(), l.first.Seconds())
	return l, nil
}

// prediction is of the next run.
type prediction struct {
	usefulPct   float64
	completionS []float64
}

// predict simulates the next run: the same main job, jobs of which programs.
func (c *check) predict(ctx context.Context, l *learned, which []int) (*prediction, error) {
	s := &simulator.Scenario{
		Name: "the next run", Duration: time.Hour,
		Mains:   []simulator.Main{{Name: "train", Devices: len(l.devices), Measured: l.devices}},
		Filling: simulator.Filling{Share: 1, Control: control, Start: l.start},
		Device:  sim.Device{MemoryBytes: 1 << 30},
	}
	// Seconds of a program's work a second there, over the share that is offered:
	// the mean of the devices, as the earlier run has it.
	usable := 0.0
	for _, d := range l.devices {
		for _, b := range d.Cycle.Bubbles {
			usable += float64(b.DurationNs) / float64(d.Cycle.IterationNs) / float64(len(l.devices))
		}
	}
	for _, p := range c.Programs {
		s.Fills = append(s.Fills, simulator.Fill{Name: p.Name, Weight: 1, Within: l.speeds[p] / (usable * (1 - control))})
	}
	trace := &sim.Trace{}
	work := 0.0
	for _, k := range which {
		p := c.Programs[k]
		work += p.IdleSeconds()
		trace.Jobs = append(trace.Jobs, sim.Job{RunMs: int64(1e3 * p.IdleSeconds()), Devices: 1, Kind: k + 1})
	}
	s.Workload = simulator.Workload{Trace: trace, Once: true}
	times, _, err := simulator.Replay(ctx, s, schedule.Builtin()["fifo"], 1)
	if err != nil {
		return nil, err
	}
	out := &prediction{}
	there := 0.0
	for _, t := range times {
		if t.EndMs < 0 {
			return nil, errors.New("a fill job is predicted not to end within the hour")
		}
		there += float64(t.EndMs-t.StartMs)/1e3 - l.start.Seconds()
		// The simulator starts the first ones at once, as if they followed others.
		out.completionS = append(out.completionS, float64(t.EndMs)/1e3+(l.first-l.start).Seconds())
	}
	out.usefulPct = 100 * work / (there * l.bubble)
	return out, nil
}
