package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

// setting is one way to fill, measured by itself.
type setting struct {
	name    string
	program int      // of workload.Programs
	node    []string // lines of pipefilld.yaml
	// Targets: the upper end of the slow-down's interval and the share filled,
	// in percent.
	slowest, filled float64
}

// switches are those of a cluster whose nodes are set so.
func (s setting) switches() (all []string) {
	for _, line := range s.node {
		all = append(all, "--node="+line)
	}
	return all
}

// settings are the three ways that have targets.
func settings() []setting {
	// Half of all iterations withheld: the interval is narrowest so. The budget
	// does not cut in: it is the settings that are measured.
	common := []string{"control: 50%", "budget: 100%"}
	normal := append([]string{"fill_sched: normal", "guard_ms: 0", "share: 1.3", "min_ms: 1"}, common...)
	idle := append([]string{"fill_sched: idle", "guard_ms: 0", "share: 2", "min_ms: 1", "floor_ms: 20"}, common...)
	return []setting{
		{"fill chunked, normal priority", 2, normal, 2, 75},
		{"fill signal, normal priority", 0, normal, 2, 70},
		{"fill signal, SCHED_IDLE", 0, idle, 1, 80},
	}
}

// measureFill runs one setting until the interval of the slow-down is narrow
// enough, or limit has passed.
func (b *bench) measureFill(ctx context.Context, s setting, limit time.Duration) (report measure.Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit+3*time.Minute)
	defer cancel()
	c, err := cluster.Up(ctx, b.root, slog.New(slog.DiscardHandler), append(s.switches(), "--trace")...)
	if err != nil {
		return report, err
	}
	defer func() {
		if down := c.Down(); err == nil {
			err = down
		}
	}()
	trainer, jobs, err := b.startFilled(ctx, c, s)
	if err != nil {
		return report, err
	}
	defer func() {
		if err == nil {
			err = b.keepTraces(s.name, filepath.Join(c.Dir, "trace"), trainer.Traces)
		}
	}()
	// Past the start of the fill programs and the learning of their bubbles.
	if err := trainer.AwaitIterations(ctx, trainer.Iterations()+30); err != nil {
		return report, err
	}
	begin := b.now()
	for {
		if err := b.pause(ctx, min(20*time.Second, limit)); err != nil {
			return report, err
		}
		if report, err = figures(c, trainer); err != nil {
			return report, err
		}
		if err := stillRun(ctx, c, jobs); err != nil {
			return report, err
		}
		m := report.Main
		half := (m.OverheadCI95[1] - m.OverheadCI95[0]) / 2
		b.say("  %4.0f s: slow-down %+.2f %% ± %.2f, filled %.1f %%, outside %.2f s of %.1f",
			b.now().Sub(begin).Seconds(), m.OverheadPct, half, report.Bubbles.RecoveredPct, report.Bubbles.OutsideSeconds, report.Bubbles.Seconds)
		if b.now().Sub(begin) >= limit || m.OverheadKnown && half <= 0.7 && b.now().Sub(begin) > time.Minute {
			return report, nil
		}
	}
}

// keepTraces copies folders of traces to where the user wants them.
func (b *bench) keepTraces(name string, dirs ...string) error {
	if b.keep == "" {
		return nil
	}
	for i, dir := range dirs {
		to := filepath.Join(b.keep, strings.NewReplacer(" ", "-", ",", "").Replace(name), strconv.Itoa(i))
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			return fmt.Errorf("keep traces: %w", err)
		}
	}
	return nil
}

// stillRun is an error if one of the fill jobs, which have no end, has ended.
func stillRun(ctx context.Context, c *cluster.Cluster, jobs []int64) error {
	for _, id := range jobs {
		j, err := c.Slurm.Job(ctx, id)
		if err == nil && !j.Running() {
			err = fmt.Errorf("fill job %d is %s: see what pipefilld says of it in %s/log", id, j.State, c.Dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// startFilled starts a main job and a fill job without end on each device, and
// returns those.
func (b *bench) startFilled(ctx context.Context, c *cluster.Cluster, s setting) (*workload.Trainer, []int64, error) {
	lib, err := workload.Install(c, b.root, b.build)
	if err != nil {
		return nil, nil, err
	}
	trainer, err := workload.Train(ctx, c, lib, "train", "--pipefill")
	if err != nil {
		return nil, nil, err
	}
	if err := trainer.AwaitIterations(ctx, 20); err != nil {
		return nil, nil, err
	}
	work, err := c.Folder("work")
	if err != nil {
		return nil, nil, err
	}
	var jobs []int64
	p := workload.Programs()[s.program]
	for i := range 2 {
		options := append([]string{"-p", "pipefill", "--mem=300", "--time=600", "-o", filepath.Join(work, fmt.Sprintf("out.%d", i))}, p.Options...)
		id, err := c.Submit(ctx, cluster.Ann, p.Command(lib, math.MaxInt32, filepath.Join(work, "never")), options...)
		if err != nil {
			return nil, nil, err
		}
		jobs = append(jobs, id)
		err = workload.Await(ctx, "a fill job to run", func() (bool, error) {
			j, err := c.Slurm.Job(ctx, id)
			return err == nil && j.Running(), err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return trainer, jobs, nil
}

// figures reads what the running job has traced so far.
func figures(c *cluster.Cluster, trainer *workload.Trainer) (measure.Report, error) {
	traces, err := measure.ReadTraces(filepath.Join(c.Dir, "trace"), trainer.Traces)
	if err != nil {
		return measure.Report{}, err
	}
	// The job goes on: its ranks write every 64 iterations, the supervisors ten
	// times a second.
	var end int64
	for i, rank := range traces.Ranks {
		var last int64
		for _, span := range rank.Iterations {
			last = max(last, span.EndNs)
		}
		if i == 0 || last < end {
			end = last
		}
	}
	for i, fill := range traces.Fills {
		traces.Fills[i].Readings = slices.DeleteFunc(fill.Readings, func(r measure.Reading) bool { return r.AtNs > end })
	}
	return measure.Compute(traces, 0, measure.FillJobCounts{})
}

// fillRows turns a report into rows.
func fillRows(s setting, r measure.Report) []row {
	m := r.Main
	slow := row{
		Name: s.name + ": slow-down", Unit: "%", Value: m.OverheadPct, N: m.Iterations, Lo: &m.OverheadCI95[0], Hi: &m.OverheadCI95[1],
	}
	filled := row{Name: s.name + ": bubbles filled", Unit: "%", Value: r.Bubbles.RecoveredPct, N: m.Iterations}
	if s.slowest > 0 {
		slow.aim(s.slowest, m.OverheadKnown && m.OverheadCI95[1] <= s.slowest)
		filled.aim(s.filled, r.Bubbles.RecoveredPct >= s.filled)
	}
	outside := row{Name: s.name + ": fill work outside bubbles", Unit: "% of bubble time", N: m.Iterations}
	if r.Bubbles.Seconds > 0 {
		outside.Value = 100 * r.Bubbles.OutsideSeconds / r.Bubbles.Seconds
	}
	p50, p99 := r.Gate.OpenToRunP50, r.Gate.OpenToRunP99
	gate := row{Name: s.name + ": gate open to fill work", Unit: "us", Value: p50, N: r.Gate.Openings, P50: &p50, P99: &p99}
	return []row{slow, filled, outside, gate}
}
