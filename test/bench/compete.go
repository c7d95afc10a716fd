package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

// rival is the fill program without a gate, next to a main job without
// pipefill.
type rival struct {
	name      string
	nice      int
	bySlurm   bool // started by Slurm in an oversubscribed partition
	autogroup bool // left on: every session is a scheduling group
}

func rivals() []rival {
	return []rival{
		{"ungated, same priority", 0, false, true},
		{"ungated, nice 19", 19, false, true},
		{"ungated, nice 19, without autogroup", 19, false, false},
		{"Slurm's oversubscription", 0, true, true},
	}
}

// compete toggles rivals on and off within one run of the main job, in blocks
// of a few seconds, and compares its iterations.
func (b *bench) compete(ctx context.Context) error {
	for _, r := range rivals() {
		if err := b.competeWith(ctx, r, min(b.limit, 3*time.Minute)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) competeWith(ctx context.Context, r rival, limit time.Duration) (err error) {
	if !r.autogroup {
		restore, err := autogroupOff()
		if err != nil {
			return err
		}
		defer restore()
	}
	c, err := cluster.Up(ctx, b.root, slog.New(slog.DiscardHandler), "--no-daemons", "--no-plugin")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	lib, err := workload.Install(c, b.root, b.build)
	if err != nil {
		return err
	}
	trainer, err := workload.Train(ctx, c, lib, "train")
	if err != nil {
		return err
	}
	if err := trainer.AwaitIterations(ctx, 20); err != nil {
		return err
	}
	end, err := b.startRivals(ctx, c, r, lib)
	if err != nil {
		return err
	}
	defer end()
	blocks, err := b.toggle(ctx, limit)
	if err != nil {
		return err
	}
	if err := trainer.AwaitIterations(ctx, trainer.Iterations()+70); err != nil { // its trace is written by then
		return err
	}
	return b.addRival(r, trainer, blocks)
}

func autogroupOff() (restore func(), err error) {
	const path = "/proc/sys/kernel/sched_autogroup_enabled"
	was, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte("0"), 0)
	}
	if err != nil {
		return nil, fmt.Errorf("turn autogroup off: %w", err)
	}
	return func() { _ = os.WriteFile(path, was, 0) }, nil
}

// startRivals starts the program once for each core and waits until both run.
func (b *bench) startRivals(ctx context.Context, c *cluster.Cluster, r rival, lib string) (end func(), err error) {
	work, err := c.Folder("work")
	if err != nil {
		return nil, err
	}
	command := workload.Programs()[0].Command(lib, math.MaxInt32, filepath.Join(work, "never"))
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	end = func() {
		signalRivals(unix.SIGKILL)
		cancel()
		group.Wait()
	}
	if r.bySlurm {
		if _, err := c.As(ctx, "root", "scontrol", "update", "PartitionName=main", "OverSubscribe=FORCE:4"); err != nil {
			cancel()
			return nil, err
		}
	}
	for core := range 2 {
		if r.bySlurm {
			if _, err := c.Submit(ctx, cluster.Ann, fmt.Sprintf("taskset -c %d sh -c '%s'", core, command), "-p", "main", "-w", fmt.Sprintf("n%d", core), "--mem=300", "-s"); err != nil {
				end()
				return nil, err
			}
			continue
		}
		group.Go(func() {
			// Ends by a signal: what it says is of no interest.
			_, _ = c.As(ctx, cluster.Ann, "setsid", "-w", "nice", "-n", strconv.Itoa(r.nice), "taskset", "-c", strconv.Itoa(core), "sh", "-c", command)
		})
	}
	err = workload.Await(ctx, "the competitors to run", func() (bool, error) { return len(rivalPids()) == 2, nil })
	if err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// rivalPids finds the program's processes.
func rivalPids() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, path := range paths {
		text, err := os.ReadFile(path)
		pid, err2 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && err2 == nil && strings.HasPrefix(string(text), "/usr/bin/python3\x00") && strings.Contains(string(text), "fill_numeric.py\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func signalRivals(sig unix.Signal) {
	for _, pid := range rivalPids() {
		_ = unix.Kill(pid, sig) // it may have ended
	}
}

// rivalCPU is the CPU time that both have used.
func rivalCPU() time.Duration {
	var sum time.Duration
	for _, pid := range rivalPids() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if fields := strings.Fields(string(text)); err == nil && len(fields) > 0 {
			if ns, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
				sum += time.Duration(ns)
			}
		}
	}
	return sum
}

// block is a stretch with the rivals running or stopped.
type block struct {
	measure.Interval
	on  bool
	cpu time.Duration // that they used in it
}

// toggle runs blocks of three to five seconds in random order, in pairs of one
// with and one without.
func (b *bench) toggle(ctx context.Context, limit time.Duration) ([]block, error) {
	var blocks []block
	for begin := b.now(); b.now().Sub(begin) < limit; {
		first := rand.IntN(2) == 0
		for _, on := range []bool{first, !first} {
			sig := unix.SIGSTOP
			if on {
				sig = unix.SIGCONT
			}
			signalRivals(sig)
			one := block{on: on, cpu: -rivalCPU()}
			one.BeginNs = monotonicNs()
			if err := b.pause(ctx, 3*time.Second+rand.N(2*time.Second)); err != nil {
				return nil, err
			}
			one.EndNs = monotonicNs()
			one.cpu += rivalCPU()
			blocks = append(blocks, one)
		}
	}
	signalRivals(unix.SIGSTOP)
	return blocks, nil
}

func monotonicNs() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with a valid clock
	return ts.Nano()
}

// addRival compares iterations that lie within blocks of either sort.
func (b *bench) addRival(r rival, trainer *workload.Trainer, blocks []block) error {
	traces, err := measure.ReadTraces(trainer.Traces)
	if err != nil {
		return err
	}
	var iterations []measure.Iteration
	var bubbles, used float64 // seconds: of both devices, without rivals, scaled to the time with them
	var on, off, idle int64
	for _, rank := range traces.Ranks {
		for number, span := range rank.Iterations {
			i := slices.IndexFunc(blocks, func(bl block) bool { return span.BeginNs >= bl.BeginNs && span.EndNs <= bl.EndNs })
			if i >= 0 && rank.Rank == 0 {
				iterations = append(iterations, measure.Iteration{Number: number, Control: !blocks[i].on, Ns: span.EndNs - span.BeginNs})
			}
		}
		for _, w := range rank.Waits {
			if slices.ContainsFunc(blocks, func(bl block) bool { return !bl.on && w.BeginNs >= bl.BeginNs && w.EndNs <= bl.EndNs }) {
				idle += w.EndNs - w.BeginNs
			}
		}
	}
	for _, bl := range blocks {
		if bl.on {
			on += bl.EndNs - bl.BeginNs
			used += bl.cpu.Seconds()
		} else {
			off += bl.EndNs - bl.BeginNs
		}
	}
	slices.SortFunc(iterations, func(x, y measure.Iteration) int { return int(x.Number - y.Number) })
	estimate, ok := measure.Overhead(iterations, 10)
	if !ok || off == 0 {
		return fmt.Errorf("%s: too few iterations (%d)", r.name, len(iterations))
	}
	bubbles = float64(idle) / 1e9 * float64(on) / float64(off)
	lo, hi := 100*estimate.Lo, 100*estimate.Hi
	return b.add(
		row{Name: r.name + ": slow-down", Unit: "%", Value: 100 * estimate.Value, N: len(iterations), Lo: &lo, Hi: &hi},
		row{Name: r.name + ": its CPU time over bubble time", Unit: "%", Value: 100 * used / bubbles, N: len(iterations)},
	)
}
