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
	"os"
	"path/filepath"
	"time"

	"pipefill/measure"
	"pipefill/test/workload"
	"pipefill/timeline"
)

func main() { workload.Main("demo", run) }

// demo is one run.
type demo struct {
	workload.Site
	out   string
	short bool

	trainer  *workload.Trainer
	recorded timeline.Timeline
	results  []workload.TrainerResult
	jobs     []*fillJob
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	d := &demo{Site: workload.Site{Stdout: stdout, Now: time.Now}}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	d.Flags(flags)
	flags.StringVar(&d.out, "out", "build/demo", "`FOLDER` for report.json and traces")
	flags.BoolVar(&d.short, "short", false, "smaller fill jobs, for a test: about a minute")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := d.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	if err := d.Start(ctx, generous, &d.out); err != nil {
		return err
	}
	defer func() {
		d.Say("taking the cluster down")
		err = errors.Join(err, d.Cluster.Down())
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
var generous = []string{"--node=guard_ms: 0", "--node=share: 2", "--node=min_ms: 1", "--node=floor_ms: 20", recording}

// recording has room for all of the run.
const recording = "--node=recording: 8MiB"

// prepare makes the output folder empty.
func (d *demo) prepare() error {
	err := errors.Join(os.RemoveAll(filepath.Join(d.out, "traces")), os.RemoveAll(filepath.Join(d.out, "logs")))
	if err == nil {
		err = os.MkdirAll(d.out, 0o755)
	}
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return nil
}

// fill is the run itself, from exclusive runs to the main job's end.
func (d *demo) fill(ctx context.Context) error {
	want, runs := 6*time.Second, 3
	if d.short {
		want, runs = 1500*time.Millisecond, 1
	}
	err := d.Outside(ctx, want, runs)
	if err != nil {
		return err
	}
	d.Say("submitting the main job: sbatch --pipefill, 2 nodes, a transformer in two stages, 1F1B, 4 micro-batches")
	if d.trainer, err = workload.Train(ctx, d.Cluster, d.Lib, "train", "--pipefill"); err != nil {
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
	d.Say("all fill jobs have ended; telling the main job to stop")
	if d.results, err = d.trainer.Stop(ctx); err != nil {
		return err
	}
	return d.fetchTimeline(ctx)
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
	copyTree(filepath.Join(d.out, "logs"), filepath.Join(d.Cluster.Dir, "log"))
	copyTree(traces, filepath.Join(d.Cluster.Dir, "trace"))
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
	d.Say("figures in %s, raw traces and logs beside it; report.html there has them with charts, timeline.json is for ui.perfetto.dev", path)
	return d.judge(report)
}
