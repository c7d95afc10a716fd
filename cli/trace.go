package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
	"pipefill/measure"
	"pipefill/timeline"
)

// traceTimeout bounds the fetching of a recording: of 1,024 nodes it is some
// hundred megabytes.
const traceTimeout = 5 * time.Minute

// tracedMost is how many records are drawn: no viewer takes more, and this
// program has some hundred bytes for each.
const tracedMost = 2_000_000

func (p *program) traceCommand() *cli.Command {
	return command(&cli.Command{
		Name: "trace", Usage: "write the timeline of a main job, as it was recorded or from raw traces, for Perfetto (ui.perfetto.dev)",
		ArgsUsage: "JOB|FOLDER...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write (default: standard output)"},
			&cli.BoolFlag{Name: "html", Usage: "write a report in HTML with charts instead, one file that needs no network"},
			&cli.DurationFlag{Name: "last", Value: 30 * time.Second, Usage: "only the last `DURATION` of the run; 0 for all of it, as with --html"},
			&cli.StringFlag{Name: "nodelist", Aliases: []string{"w"}, Usage: "only these `NODES` of the job, as n[0-3]"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usage("trace: write a main job's number, or the folders of a run's raw traces: trace_dir of pipefilld.yaml, and what the ranks wrote")
			}
			if c.Duration("last") < 0 {
				return usage("trace: --last %s: write 0 or more", c.Duration("last"))
			}
			last := c.Duration("last")
			if c.Bool("html") && !c.IsSet("last") {
				last = 0
			}
			run, err := p.tracedRun(c, last)
			if err != nil {
				return err
			}
			write := run.Timeline.WriteJSON
			if c.Bool("html") {
				page, err := run.Page()
				if err != nil {
					return err
				}
				write = page.Write
			}
			if c.String("output") == "" {
				return write(p.env.Stdout)
			}
			return writeWhole(c.String("output"), write)
		},
	})
}

// tracedRun is what the arguments name: a main job or folders.
func (p *program) tracedRun(c *cli.Context, last time.Duration) (run timeline.Run, err error) {
	if isNumber(c.Args().First()) {
		return p.recordedRun(c, last)
	}
	if c.IsSet("nodelist") {
		return run, usage("trace: --nodelist is for a main job: name the folders of those nodes instead")
	}
	dirs := c.Args().Slice()
	run = timeline.Run{Title: "pipefill: " + strings.Join(dirs, ", ")}
	if run.Timeline, err = timeline.Read(dirs...); err != nil {
		return run, err
	}
	if !c.Bool("html") {
		if _, end, _ := run.Timeline.Bounds(); last > 0 {
			run.Timeline = run.Timeline.Clip(end-int64(last), end)
		}
		return run, nil
	}
	// What its ranks traced or, where they did not, what they announced.
	if run.Traces, err = measure.ReadTraces(dirs...); err != nil {
		if run.Traces, err = measure.ReadAnnounced(dirs[0], run.Timeline.IDs()); err != nil {
			return run, err
		}
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "jobs.json")) //nolint:gosec // the caller names the folder
		if err != nil {
			continue // the demo writes one
		}
		if err := json.Unmarshal(text, &run.Jobs); err != nil {
			return run, usage("%s: %w", filepath.Join(dir, "jobs.json"), err)
		}
	}
	run.Report, err = measure.Compute(run.Traces, 0, measure.FillJobCounts{})
	return run, err
}

// recordedRun is a main job as its nodes have recorded it.
func (p *program) recordedRun(c *cli.Context, last time.Duration) (run timeline.Run, err error) {
	ids, err := jobNumbers(c)
	if err != nil {
		return run, err
	}
	if len(ids) != 1 {
		return run, usage("trace: write one main job's number; pipefill-cli slots lists them")
	}
	from, err := p.dial(c)
	if err != nil {
		return run, err
	}
	ctx, cancel := context.WithTimeout(c.Context, traceTimeout)
	defer cancel()
	query := api.RecordingQuery{LastMs: last.Milliseconds(), Nodes: c.String("nodelist")}
	var parts []api.Recording
	records := 0
	end, err := from.Recording(ctx, ids[0], query, func(part api.Recording) error {
		for _, d := range part.Devices {
			records += len(d.Events) + len(d.Chunks)
		}
		if records > tracedMost {
			return pipefill.Errorf(pipefill.CodeConflict, "trace: more than %d records: ask for less, with --last or --nodelist", tracedMost)
		}
		parts = append(parts, part)
		return nil
	})
	if err != nil {
		return run, err
	}
	p.warnOfGaps(parts, end)
	run.Title = fmt.Sprintf("pipefill: main job %d", ids[0])
	if run.Timeline, run.Traces, err = timeline.FromRecordings(parts); err != nil || !c.Bool("html") {
		return run, err
	}
	if run.Report, err = measure.Compute(run.Traces, 0, measure.FillJobCounts{}); err != nil {
		return run, err
	}
	run.Jobs, err = p.jobsOf(ctx, from, run.Traces)
	return run, err
}

// warnOfGaps says what is not in a recording.
func (p *program) warnOfGaps(parts []api.Recording, end api.RecordingEnd) {
	warn := func(format string, args ...any) {
		_, _ = fmt.Fprintf(p.env.Stderr, "pipefill-cli: trace: "+format+"\n", args...)
	}
	if len(end.Missing) > 0 {
		warn("no answer from %s: their devices are missing", strings.Join(end.Missing, ", "))
	}
	for _, part := range parts {
		for _, d := range part.Devices {
			if d.Lost > 0 {
				warn("%s/%s: %d records were overwritten before they were read", part.Node, d.Device, d.Lost)
			}
			if d.Cut {
				warn("%s/%s: the recording is longer than an answer: its oldest part is missing", part.Node, d.Device)
			}
		}
	}
}

// jobsOf are the fill jobs of a recording, as far as the caller may see them.
func (p *program) jobsOf(ctx context.Context, from controller, traces measure.Traces) ([]timeline.Job, error) {
	var jobs []timeline.Job
	seen := map[int64]bool{}
	for _, f := range traces.Fills {
		if seen[f.Job] {
			continue
		}
		seen[f.Job] = true
		job, err := from.Job(ctx, f.Job)
		switch code := pipefill.ErrorCode(err); {
		case err == nil:
			jobs = append(jobs, timeline.Job{ID: job.JobID, User: job.User, What: job.Name, State: strings.ToUpper(job.State), Result: job.Reason})
		case code != pipefill.CodeNotFound && code != pipefill.CodeDenied:
			return nil, err
		}
	}
	return jobs, nil
}

// writeWhole writes a file beside its place and moves it there, so that nobody
// reads half of it.
func writeWhole(path string, write func(io.Writer) error) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return usage("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone where all went well
	if err := write(file); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Chmod(0o644); err != nil {
		_ = file.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
