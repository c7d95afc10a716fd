// Demo runs all of pipefill on this machine: a private Slurm cluster, a real
// two-stage pipeline training job, other users' batch jobs in its bubbles; and
// says what it gave and what it cost. It exits 0 only if every fill job that
// should completes with the digest of the same program run outside.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// demo is one run.
type demo struct {
	root, build, out string
	short            bool
	stdout           io.Writer
	now              func() time.Time
	begin            time.Time

	cluster  *cluster.Cluster
	lib      string
	work     string
	programs []*workload.Program
	trainer  *workload.Trainer
	results  []workload.TrainerResult
	jobs     []*fillJob
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	d := &demo{stdout: stdout, now: time.Now}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.StringVar(&d.root, "root", ".", "the tree's `FOLDER`")
	flags.StringVar(&d.build, "build", "build", "`FOLDER` with the built programs")
	flags.StringVar(&d.out, "out", "build/demo", "`FOLDER` for report.json and traces")
	flags.BoolVar(&d.short, "short", false, "smaller fill jobs, for a test: about a minute")
	if err := flags.Parse(args); err != nil {
		return err
	}
	d.begin = d.now()
	if err := d.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	d.say("starting a private Slurm cluster of two nodes, pipefilld on each, pipefillctld, slurmrestd and munge")
	d.cluster, err = cluster.Up(ctx, d.root, slog.New(slog.DiscardHandler), append([]string{"--trace"}, generous...)...)
	if err != nil {
		return err
	}
	defer func() {
		d.say("taking the cluster down")
		err = errors.Join(err, d.cluster.Down())
	}()
	err = d.fill(ctx)
	if kept := d.keep(); err == nil {
		err = errors.Join(kept, d.checkDigests())
	}
	if err != nil {
		return err
	}
	return d.report()
}

// generous offers as much as suits fill jobs of the idle class on cores, which
// give way by themselves; the defaults are for devices where a stop takes time.
var generous = []string{"--node=guard_ms: 0", "--node=share: 2", "--node=min_ms: 1", "--node=floor_ms: 20"}

// prepare makes paths absolute and the output folder empty.
func (d *demo) prepare() error {
	for _, path := range []*string{&d.root, &d.build, &d.out} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	err := errors.Join(os.RemoveAll(filepath.Join(d.out, "traces")), os.RemoveAll(filepath.Join(d.out, "logs")))
	if err == nil {
		err = os.MkdirAll(d.out, 0o755)
	}
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return nil
}

// say prints a line with the time since the start.
func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.stdout, "%5.0f s  %s\n", d.now().Sub(d.begin).Seconds(), fmt.Sprintf(format, args...))
}

// fill is the run itself, from exclusive runs to the main job's end.
func (d *demo) fill(ctx context.Context) error {
	var err error
	if d.lib, err = workload.Install(d.cluster, d.root, d.build); err != nil {
		return err
	}
	if d.work, err = d.cluster.Folder("work"); err != nil {
		return err
	}
	if err := d.measureOutside(ctx); err != nil {
		return err
	}
	d.say("submitting the main job: sbatch --pipefill, 2 nodes, a transformer in two stages, 1F1B, 4 micro-batches")
	if d.trainer, err = workload.Train(ctx, d.cluster, d.lib, "train", "--pipefill"); err != nil {
		return err
	}
	if err := d.trainer.AwaitIterations(ctx, 20); err != nil {
		return err
	}
	if err := d.submit(ctx); err != nil {
		return err
	}
	if err := d.follow(ctx); err != nil {
		return err
	}
	if d.short {
		// The interval wants iterations of both sorts.
		if err := d.trainer.AwaitIterations(ctx, 100); err != nil {
			return err
		}
	}
	d.say("all fill jobs have ended; telling the main job to stop")
	d.results, err = d.trainer.Stop(ctx)
	return err
}

// measureOutside runs each program alone, for its digest and its time.
func (d *demo) measureOutside(ctx context.Context) error {
	want, runs := 6*time.Second, 3
	if d.short {
		want, runs = 1500*time.Millisecond, 1
	}
	d.programs = workload.Programs()
	for _, p := range d.programs {
		d.say("running %s outside, alone on a core, %d times: its digest and its time", p.Name, runs)
		if err := p.Exclusive(ctx, d.cluster, d.lib, d.work, want, runs, d.now); err != nil {
			return err
		}
		d.say("  %s: %.2f s for %d steps, digest %.12s…", p.Name, p.IdleSeconds(), p.Steps, p.Digest)
	}
	return nil
}

// keep saves logs and traces from the cluster's folder, which goes.
func (d *demo) keep() error {
	traces := filepath.Join(d.out, "traces")
	var errs []error
	copyTree := func(to, from string) {
		if _, err := os.Stat(from); err == nil {
			errs = append(errs, os.CopyFS(to, os.DirFS(from)))
		}
	}
	copyTree(filepath.Join(d.out, "logs"), filepath.Join(d.cluster.Dir, "log"))
	copyTree(traces, filepath.Join(d.cluster.Dir, "trace"))
	if d.trainer != nil {
		copyTree(filepath.Join(traces, "ranks"), d.trainer.Traces)
	}
	return errors.Join(append(errs, d.keepOutputs(), d.keepLists())...)
}

// report computes the figures, prints them, and judges.
func (d *demo) report() error {
	traces, err := measure.ReadTraces(filepath.Join(d.out, "traces"))
	if err != nil {
		return err
	}
	useful, counts := d.useful()
	report, err := measure.Compute(traces, useful, counts)
	if err != nil {
		return err
	}
	if len(d.results) == 2 {
		last := d.results[1]
		report.Main.LossFirst, report.Main.LossLast = last.LossFirst, last.LossLast
		report.Main.BubbleFraction = (d.results[0].BubbleFraction + last.BubbleFraction) / 2
		report.Main.BubbleFractionTheory = last.BubbleFractionTheory
	}
	data, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	path := filepath.Join(d.out, "report.json")
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := d.writeTimeline(); err != nil {
		return err
	}
	if err := d.writePage(traces, report); err != nil {
		return err
	}
	d.print(report)
	d.say("figures in %s, raw traces and logs beside it; report.html there has them with charts, timeline.json is for ui.perfetto.dev", path)
	return d.judge(report)
}
