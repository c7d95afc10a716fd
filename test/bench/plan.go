package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/test/plancase"
)

// plan times the planner, decoding apart: 2,000 ops x 50 configurations x 32
// bubbles, in CPU time.
func (b *bench) plan(ctx context.Context) error {
	const ops, configs, bubbles = 2000, 50, 32
	size := fmt.Sprintf("%d ops x %d configurations x %d bubbles", ops, configs, bubbles)
	var times []float64
	for seed := range uint64(100) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		p, c := plancase.Random(seed, ops, configs, bubbles)
		took, err := b.timePlan(p, c)
		if err != nil {
			return err
		}
		times = append(times, took)
	}
	slices.Sort(times)
	p50, p99 := times[len(times)/2], times[len(times)*99/100]
	random := row{Name: "plan, " + size + ", random", Value: p50, Unit: "ms CPU", N: len(times), P50: &p50, P99: &p99}
	random.aim(10, p99 <= 10)
	p, c := plancase.Worst(ops, configs, bubbles)
	worst, err := b.timePlan(p, c)
	if err != nil {
		return err
	}
	live := p
	live.Configs = slices.Clone(p.Configs[:1])
	live.Configs[0].Ops = slices.Clone(p.Configs[0].Ops)
	for i := range live.Configs[0].Ops {
		live.Configs[0].Ops[i].LiveBytes = int64(i % 3)
	}
	searched, err := b.timePlan(live, c)
	if err != nil {
		return err
	}
	return b.add(random,
		row{Name: "plan, " + size + ", nothing to leave out and as many cycles as ops", Value: worst, Unit: "ms CPU", N: 1},
		row{Name: fmt.Sprintf("plan, %d ops x 1 configuration with live_bytes x %d bubbles", ops, bubbles), Value: searched, Unit: "ms CPU", N: 1},
	)
}

// timePlan is the CPU time of a plan, garbage collection included: the least of
// five, so that neither the first touch of memory is counted nor that of others. Wall time would count
// who else is on the core.
func (b *bench) timePlan(p plan.Profile, c pipefill.BubbleCycle) (ms float64, err error) {
	for i := range 5 {
		before, err := cpuTime()
		if err != nil {
			return 0, err
		}
		if _, err := plan.Make(c, []plan.Profile{p}, plan.Options{}); err != nil {
			return 0, fmt.Errorf("%s: %w", p.Name, err)
		}
		after, err := cpuTime()
		if err != nil {
			return 0, err
		}
		if took := float64(after-before) / float64(time.Millisecond); i == 0 || took < ms {
			ms = took
		}
	}
	return ms, nil
}

// cpuTime is what this process has used.
func cpuTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
