package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill/chart"
	"pipefill/measure"
	"pipefill/timeline"
)

func (p *program) traceCommand() *cli.Command {
	return command(&cli.Command{
		Name: "trace", Usage: "write the timeline of a run for Perfetto (ui.perfetto.dev) from its raw traces",
		ArgsUsage: "FOLDER...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write (default: standard output)"},
			&cli.BoolFlag{Name: "html", Usage: "write a report in HTML with charts instead, one file that needs no network"},
			&cli.DurationFlag{Name: "last", Value: 30 * time.Second, Usage: "only the last `DURATION` of the run; 0 for all of it"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usage("trace: write the folders of a run's raw traces: trace_dir of pipefilld.yaml, and what the ranks wrote")
			}
			if c.Duration("last") < 0 {
				return usage("trace: --last %s: write 0 or more", c.Duration("last"))
			}
			t, err := timeline.Read(c.Args().Slice()...)
			if err != nil {
				return err
			}
			if _, end, _ := t.Bounds(); c.Duration("last") > 0 && !c.Bool("html") {
				t = t.Clip(end-int64(c.Duration("last")), end)
			}
			write := t.WriteJSON
			if c.Bool("html") {
				page, err := runPage(t, c.Args().Slice())
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

// runPage is the report of a run: of what its ranks traced or, where they did
// not, of what they announced.
func runPage(t timeline.Timeline, dirs []string) (chart.Page, error) {
	run := timeline.Run{Title: "pipefill: " + strings.Join(dirs, ", "), Timeline: t}
	var err error
	if run.Traces, err = measure.ReadTraces(dirs...); err != nil {
		if run.Traces, err = measure.ReadAnnounced(dirs[0], t.IDs()); err != nil {
			return chart.Page{}, err
		}
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "jobs.json")) //nolint:gosec // the caller names the folder
		if err != nil {
			continue // the demo writes one
		}
		if err := json.Unmarshal(text, &run.Jobs); err != nil {
			return chart.Page{}, usage("%s: %w", filepath.Join(dir, "jobs.json"), err)
		}
	}
	if run.Report, err = measure.Compute(run.Traces, 0, measure.FillJobCounts{}); err != nil {
		return chart.Page{}, err
	}
	return run.Page()
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
