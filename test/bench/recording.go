package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

// recordedFor is how long recording is on, or off, in one half of a pair: some
// five iterations, since this machine is another one a few seconds later. What is
// on the way when it changes is left out.
const (
	recordedFor    = time.Second
	recordedChange = 250 * time.Millisecond
)

var nsPerOp = regexp.MustCompile(`(?m)^BenchmarkRecording\S*\s+(\d+)\s+([0-9.]+) ns/op`)

// recording is what it costs the main job that its timeline is recorded: the
// events of an iteration of the demo's main job times what each costs, and the
// same job with the recording turned on and off within one run.
func (b *bench) recording(ctx context.Context) error {
	if err := b.recordingEvents(ctx); err != nil {
		return err
	}
	ratios, err := b.recordingPairs(ctx)
	if err != nil {
		return err
	}
	estimate, known := measure.Interval95(ratios)
	if !known {
		return fmt.Errorf("%d pairs make no interval: a longer --limit gives more", len(ratios))
	}
	lo, hi := 100*estimate.Lo, 100*estimate.Hi
	return b.add(row{
		Name: "recording a timeline: slow-down, turned on and off within one run", Unit: "%", Value: 100 * estimate.Value, N: len(ratios), Lo: &lo, Hi: &hi,
	})
}

// recordingEvents multiplies. Of an iteration of two stages and four micro-batches
// a stage announces at most nine waits and the mark, recorded or not, and if so,
// nine pieces of work too; pipefilld takes in all of them, and a chunk for each
// wait, on a core that the main job may share.
func (b *bench) recordingEvents(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(b.root, "packaging/go"), "test", "-run", "^$", "-bench", "^BenchmarkRecording$", "-benchtime", "2s", "./executor")
	cmd.Dir = b.root
	out, err := cmd.CombinedOutput()
	m := nsPerOp.FindSubmatch(out)
	if err != nil || m == nil {
		return errors.Join(fmt.Errorf("time the recording: %s", out), err)
	}
	count, err1 := strconv.Atoi(string(m[1]))
	daemonNs, err2 := strconv.ParseFloat(string(m[2]), 64)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("time the recording: %w", err)
	}
	bench := exec.CommandContext(ctx, "/usr/bin/python3", filepath.Join(b.root, "engine/tests/bench_bubble.py"), filepath.Join(b.build, "libpipefill.so"), "work")
	if out, err = bench.Output(); err != nil {
		return fmt.Errorf("time the recording: %w", err)
	}
	var work row
	if err := json.Unmarshal(out, &work); err != nil {
		return fmt.Errorf("time the recording: %w", err)
	}
	const waits, works, iterationNs = 9, 9, 0.2e9
	sum := works*work.Value*1e3 + (2*waits+1+works)*daemonNs
	share := row{Name: "recording a timeline: events x cost, of an iteration of 0.2 s", Value: 100 * sum / iterationNs, Unit: "%", N: count}
	share.aim(0.1, share.Value <= 0.1)
	return b.add(work, row{Name: "recording a timeline: an event, in the node daemon", Value: daemonNs, Unit: "ns", N: count}, share)
}

// recordingPairs runs a main job alone, and turns its recording on and off in
// pairs in random order. Each gives the log of the ratio of its iterations, by
// their medians: a host that takes a core away for a while is neither's doing.
func (b *bench) recordingPairs(ctx context.Context) (ratios []float64, err error) {
	c, err := cluster.Up(ctx, b.root, slog.New(slog.DiscardHandler), "--node=recording: off")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	lib, err := workload.Install(c, b.root, b.build)
	if err != nil {
		return nil, err
	}
	trainer, err := workload.Train(ctx, c, lib, "train", "--pipefill")
	if err != nil {
		return nil, err
	}
	if err := trainer.AwaitIterations(ctx, 20); err != nil {
		return nil, err
	}
	type half struct {
		on   bool
		span measure.Interval
	}
	var halves []half
	for begin := b.now(); len(halves) < 10 || b.now().Sub(begin) < b.limit; {
		first := rand.IntN(2) == 1
		for _, on := range []bool{first, !first} {
			if err := setRecording(c, on); err != nil {
				return nil, err
			}
			if err := b.pause(ctx, recordedChange); err != nil {
				return nil, err
			}
			from := monotonicNs()
			if err := b.pause(ctx, recordedFor); err != nil {
				return nil, err
			}
			halves = append(halves, half{on, measure.Interval{BeginNs: from, EndNs: monotonicNs()}})
		}
	}
	results, err := trainer.Stop(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		if !r.Attached {
			return nil, fmt.Errorf("rank %d was not attached: %s", r.Rank, r.WhyNot)
		}
	}
	traces, err := measure.ReadTraces(trainer.Traces)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(halves); i += 2 {
		var lengths [2][]float64
		for k, h := range halves[i : i+2] {
			for _, span := range traces.Ranks[0].Iterations {
				if span.BeginNs >= h.span.BeginNs && span.EndNs < h.span.EndNs {
					lengths[k] = append(lengths[k], float64(span.EndNs-span.BeginNs))
				}
			}
		}
		if len(lengths[0]) == 0 || len(lengths[1]) == 0 {
			continue
		}
		ratio := math.Log(measure.Quantile(lengths[0], 0.5) / measure.Quantile(lengths[1], 0.5))
		if !halves[i].on {
			ratio = -ratio
		}
		ratios = append(ratios, ratio)
	}
	return ratios, nil
}

// setRecording turns the recording of both nodes on or off, as an administrator
// does.
func setRecording(c *cluster.Cluster, on bool) error {
	for _, name := range []string{"pipefilld.n0", "pipefilld.n1"} {
		path := filepath.Join(c.Dir, "etc", name+".yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("set recording: %w", err)
		}
		from, to := "recording: 1MiB\n", "recording: off\n"
		if on {
			from, to = to, from
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
			return fmt.Errorf("set recording: %w", err)
		}
		pid, err := pidOf(c, name)
		if err == nil {
			err = unix.Kill(pid, unix.SIGHUP)
		}
		if err != nil {
			return fmt.Errorf("set recording: %w", err)
		}
	}
	return nil
}
