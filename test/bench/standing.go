package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

const (
	// How long one main job is measured in standing.
	standingTime = 40 * time.Second
	standingName = "fill signal, SCHED_IDLE: slow-down against a main job without pipefill"
)

// standing compares whole main jobs, in pairs: one with pipefill and fill jobs,
// and one without --pipefill on nodes without daemons. Control iterations
// cannot show what stands all the time; this can, at the price of the noise
// between two runs.
func (b *bench) standing(ctx context.Context) error {
	s := settings()[2]
	s.node = []string{"fill_sched: idle", "guard_ms: 0", "share: 2", "min_ms: 1", "floor_ms: 20", "control: 0%", "budget: 100%"}
	var ratios []float64
	for begin := b.now(); len(ratios) < 3 || b.now().Sub(begin) < b.limit; {
		var mean [2]float64 // log of ns: without, with
		first := rand.IntN(2)
		for _, way := range []int{first, 1 - first} {
			var err error
			if mean[way], err = b.standingRun(ctx, s, way == 1); err != nil {
				return err
			}
		}
		ratios = append(ratios, mean[1]-mean[0])
		b.say("  pair %d: %+.2f %%", len(ratios), 100*math.Expm1(mean[1]-mean[0]))
	}
	estimate, _ := measure.Interval95(ratios)
	lo, hi := 100*estimate.Lo, 100*estimate.Hi
	return b.add(row{
		Name: standingName, Unit: "%",
		Value: 100 * estimate.Value, N: len(ratios), Lo: &lo, Hi: &hi,
	})
}

// standingRun returns the mean log of the iterations of one main job.
func (b *bench) standingRun(ctx context.Context, s setting, filled bool) (mean float64, err error) {
	switches := []string{"--no-daemons", "--no-plugin"}
	if filled {
		switches = s.switches()
	}
	c, err := cluster.Up(ctx, b.root, slog.New(slog.DiscardHandler), switches...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	var trainer *workload.Trainer
	var jobs []int64
	if filled {
		trainer, jobs, err = b.startFilled(ctx, c, s)
	} else {
		var lib string
		if lib, err = workload.Install(c, b.root, b.build); err == nil {
			trainer, err = workload.Train(ctx, c, lib, "train")
		}
	}
	if err == nil {
		err = trainer.AwaitIterations(ctx, 40)
	}
	if err != nil {
		return 0, err
	}
	from := monotonicNs()
	if err := b.pause(ctx, standingTime); err != nil {
		return 0, err
	}
	if err := stillRun(ctx, c, jobs); err != nil {
		return 0, err
	}
	if _, err := trainer.Stop(ctx); err != nil {
		return 0, err
	}
	traces, err := measure.ReadTraces(trainer.Traces)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, rank := range traces.Ranks {
		for _, span := range rank.Iterations {
			if rank.Rank == 0 && span.BeginNs > from && span.EndNs < from+standingTime.Nanoseconds() {
				mean += math.Log(float64(span.EndNs - span.BeginNs))
				n++
			}
		}
	}
	return mean / float64(n), nil
}
