package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/simulator"
)

// simulateCommand asks nobody: the simulator is in here. --from-cluster asks
// pipefillctld for what it has recorded.
func (p *program) simulateCommand() *cli.Command {
	return command(&cli.Command{
		Name: "simulate", Usage: "tell what filling would give a cluster, by running scheduler and planner in simulated time", ArgsUsage: "[FILE.yaml]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.StringFlag{Name: "html", Usage: "write a report with plots to `FILE`"},
			&cli.Uint64Flag{Name: "seed", Usage: "of all that is drawn, instead of the file's"},
			&cli.BoolFlag{Name: "paper", Usage: "the evaluation of PipeFill's paper, without a file"},
			&cli.BoolFlag{Name: "beyond", Usage: "what goes beyond it: plans, schedules, links, and where filling stops paying"},
			&cli.BoolFlag{Name: "from-cluster", Usage: "take main jobs and fill jobs from what pipefillctld has recorded; FILE may set the rest"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usage("simulate: write one FILE.yaml, not %d", c.NArg())
			}
			answer, err := p.simulated(c)
			if err != nil {
				return err
			}
			return p.writeAnswer(c, answer)
		},
	})
}

// answer is a result of the simulator, in its three forms.
type answer interface {
	WriteText(io.Writer) error
	WriteHTML(io.Writer) error
}

func (p *program) simulated(c *cli.Context) (answer, error) {
	bar := newBar(p.env.Stderr, p.env.Now)
	defer bar.end()
	switch {
	case (c.Bool("paper") || c.Bool("beyond")) && (c.NArg() > 0 || c.Bool("from-cluster") || c.Bool("paper") && c.Bool("beyond")):
		return nil, usage("simulate: --paper, --beyond and a FILE go alone")
	case c.Bool("paper"):
		return simulator.Paper(c.Context, seedOf(c, 1), bar.show)
	case c.Bool("beyond"):
		return simulator.Beyond(c.Context, seedOf(c, 1), bar.show)
	case c.Bool("from-cluster"):
		file, err := p.clusterFile(c)
		if err != nil {
			return nil, err
		}
		file.Seed = seedOf(c, file.Seed)
		return file.Run(c.Context, bar.show)
	case c.NArg() == 0:
		return nil, usage("simulate: write a FILE.yaml, --paper, --beyond or --from-cluster; docs/simulator.md has an example")
	}
	file, err := simulator.LoadFile(c.Args().First())
	if err != nil {
		return nil, err
	}
	file.Seed = seedOf(c, file.Seed)
	return file.Run(c.Context, bar.show)
}

func seedOf(c *cli.Context, own uint64) uint64 {
	if c.IsSet("seed") {
		return c.Uint64("seed")
	}
	return own
}

func (p *program) writeAnswer(c *cli.Context, a answer) (err error) {
	if path := c.String("html"); path != "" {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644) //nolint:gosec // the user's own file, as the user
		if err != nil {
			return pipefill.Errorf(pipefill.CodeInvalid, "simulate: --html: %w", err)
		}
		if err := errors.Join(a.WriteHTML(file), file.Close()); err != nil {
			return err
		}
		if !c.Bool("json") {
			defer func() { _, _ = fmt.Fprintf(p.env.Stdout, "\nwritten to %s\n", path) }()
		}
	}
	if !c.Bool("json") {
		return a.WriteText(p.env.Stdout)
	}
	encoder := json.NewEncoder(p.env.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(a)
}

// bar shows how far a run is, on a terminal only.
type bar struct {
	out   io.Writer
	now   func() time.Time
	shown time.Time
	on    bool
}

const (
	barWidth = 40
	barEvery = 100 * time.Millisecond
)

func newBar(out io.Writer, now func() time.Time) *bar {
	b := &bar{out: out, now: now}
	if file, ok := out.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
		b.on = err == nil
	}
	return b
}

// show is called by one goroutine at a time.
func (b *bar) show(part float64) {
	if !b.on || b.now().Sub(b.shown) < barEvery {
		return
	}
	b.shown = b.now()
	full := int(part * barWidth)
	_, _ = fmt.Fprintf(b.out, "\r[%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(" ", barWidth-full), 100*part)
}

func (b *bar) end() {
	if b.on && !b.shown.IsZero() {
		_, _ = fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", barWidth+10))
	}
}
