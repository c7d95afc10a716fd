package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill/timeline"
)

func (p *program) traceCommand() *cli.Command {
	return command(&cli.Command{
		Name: "trace", Usage: "write the timeline of a run for Perfetto (ui.perfetto.dev) from its raw traces",
		ArgsUsage: "FOLDER...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write (default: standard output)"},
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
			if _, end, _ := t.Bounds(); c.Duration("last") > 0 {
				t = t.Clip(end-int64(c.Duration("last")), end)
			}
			if c.String("output") == "" {
				return t.WriteJSON(p.env.Stdout)
			}
			return writeWhole(c.String("output"), t.WriteJSON)
		},
	})
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
