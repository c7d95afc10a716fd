package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pipefill/api"
	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

// filled is a run of the main job with some fill jobs.
type filled struct {
	programs []*workload.Program // of each fill job, in the order of submission
	ids      []int64
	submitNs []int64 // CLOCK_MONOTONIC, as the traces have it
	endNs    []int64
	spans    []measure.Interval // from the first fill work to the last
	devices  []string
	slots    []api.Slot
	traces   measure.Traces
	report   measure.Report
}

func monotonicNs() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return t.Nano(), nil
}

// fill runs the main job, and which programs as fill jobs, all submitted at once.
func (c *check) fill(ctx context.Context, name string, which []int) (*filled, error) {
	trainer, err := workload.Train(ctx, c.Cluster, c.Lib, name, "--pipefill")
	if err != nil {
		return nil, err
	}
	// Bubbles are learned, and the first burst of control iterations is over.
	if err := trainer.AwaitIterations(ctx, 60); err != nil {
		return nil, err
	}
	f := &filled{}
	for i, k := range which {
		p := c.Programs[k]
		options := append([]string{"-p", "pipefill", "--mem=300", "--time=10", "-J", p.Name, "-o", filepath.Join(c.Work, fmt.Sprintf("%s.%d", name, i))}, p.Options...)
		at, err := monotonicNs()
		if err != nil {
			return nil, err
		}
		id, err := c.Cluster.Submit(ctx, cluster.Ann, p.Command(c.Lib, p.Steps, filepath.Join(c.Work, fmt.Sprintf("%s.digest.%d", name, i))), options...)
		if err != nil {
			return nil, err
		}
		f.programs, f.ids, f.submitNs = append(f.programs, p), append(f.ids, id), append(f.submitNs, at)
	}
	if err := c.await(ctx, f); err != nil {
		return nil, err
	}
	client, err := c.Cluster.Controller()
	if err != nil {
		return nil, err
	}
	if f.slots, err = client.Slots(ctx); err != nil {
		return nil, err
	}
	if _, err := trainer.Stop(ctx); err != nil {
		return nil, err
	}
	return f, f.read(filepath.Join(c.Cluster.Dir, "trace"), trainer.Traces)
}

// await waits until every fill job has completed. Slurm forgets jobs some time
// after their end, so that each is asked about until then only.
func (c *check) await(ctx context.Context, f *filled) error {
	left := slices.Clone(f.ids)
	return workload.Await(ctx, "the fill jobs", func() (bool, error) {
		var failed error
		left = slices.DeleteFunc(left, func(id int64) bool {
			job, err := c.Cluster.Slurm.Job(ctx, id)
			if err == nil && job.Ended() && job.State != "COMPLETED" {
				err = fmt.Errorf("fill job %d ended as %s", id, job.State)
			}
			failed = errors.Join(failed, err)
			return err == nil && job.Ended()
		})
		return len(left) == 0, failed
	})
}

// read takes this run's part of the traces.
func (f *filled) read(dirs ...string) error {
	traces, err := measure.ReadTraces(dirs...)
	if err != nil {
		return err
	}
	traces.Fills = slices.DeleteFunc(traces.Fills, func(t measure.Fill) bool { return !slices.Contains(f.ids, t.Job) })
	var seconds float64
	for i, id := range f.ids {
		at := slices.IndexFunc(traces.Fills, func(t measure.Fill) bool { return t.Job == id })
		if at < 0 || len(traces.Fills[at].Readings) < 2 {
			return fmt.Errorf("fill job %d left no trace", id)
		}
		t := traces.Fills[at]
		span := measure.Interval{BeginNs: t.Readings[0].AtNs, EndNs: t.Readings[len(t.Readings)-1].AtNs}
		f.spans, f.devices, f.endNs = append(f.spans, span), append(f.devices, t.Device), append(f.endNs, span.EndNs)
		seconds += f.programs[i].IdleSeconds()
	}
	f.traces = traces
	f.report, err = measure.Compute(traces, seconds, measure.FillJobCounts{})
	if err == nil && f.report.Bubbles.Seconds == 0 {
		err = errors.New("no bubble while fill jobs were there")
	}
	return err
}

// each are the figures of the fill jobs one by one.
func (f *filled) each() ([]measure.Report, error) {
	var all []measure.Report
	for i, id := range f.ids {
		one := f.traces
		one.Fills = slices.DeleteFunc(slices.Clone(one.Fills), func(t measure.Fill) bool { return t.Job != id })
		r, err := measure.Compute(one, f.programs[i].IdleSeconds(), measure.FillJobCounts{})
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func (f *filled) usefulPct() float64 { return f.report.Bubbles.UsefulPct }

// completions are the fill jobs' times from submission to end, in s.
func (f *filled) completions() []float64 {
	var out []float64
	for i := range f.ids {
		out = append(out, time.Duration(f.endNs[i]-f.submitNs[i]).Seconds())
	}
	return out
}
