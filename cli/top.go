package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"pipefill/api"
)

// topData is what one look brings.
type topData struct {
	at     time.Time
	status api.Status
	slots  []api.Slot
	jobs   []api.FillJob
	err    error
}

func (p *program) topCommand() *cli.Command {
	return command(&cli.Command{
		Name: "top", Usage: "watch devices, what fills them, and the queue; a plain list where the output is no terminal",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "delay", Aliases: []string{"d"}, Value: 2 * time.Second, Usage: "`TIME` between looks, at least 500ms"},
			&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Usage: "end after `N` looks; 0: never, and once where the output is no terminal"},
			&cli.BoolFlag{Name: "batch", Aliases: []string{"b"}, Usage: "print lists, also to a terminal"},
		},
		Action: func(c *cli.Context) error {
			switch {
			case c.NArg() > 0:
				return usage("top: takes no argument, not %q", c.Args().First())
			case c.Duration("delay") < 500*time.Millisecond:
				return usage("top: --delay %s: write 500ms or more", c.Duration("delay"))
			case c.Int("iterations") < 0:
				return usage("top: --iterations %d: write 0 or more", c.Int("iterations"))
			}
			from, err := p.dial(c)
			if err != nil {
				return err
			}
			look := func(ctx context.Context) topData { return p.look(ctx, from) }
			if c.Bool("batch") || !isTerminal(p.env.Stdout) {
				return p.topPlain(c, look)
			}
			return p.topScreen(c, look)
		},
	})
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
}

// look asks for all that is shown. The queue is not worth less where slots are
// refused, nor the other way.
func (p *program) look(ctx context.Context, from controller) topData {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	d := topData{at: p.env.Now()}
	if d.status, d.err = from.Ping(ctx); d.err != nil {
		return d
	}
	if d.slots, d.err = from.Slots(ctx); d.err != nil {
		return d
	}
	d.jobs, d.err = from.Jobs(ctx, api.JobFilter{})
	return d
}

// topPlain prints what top shows, without a screen.
func (p *program) topPlain(c *cli.Context, look func(context.Context) topData) error {
	looks := max(1, c.Int("iterations"))
	for i := range looks {
		if i > 0 {
			timer := time.NewTimer(c.Duration("delay"))
			select {
			case <-c.Done():
				timer.Stop()
				return nil
			case <-timer.C:
			}
		}
		d := look(c.Context)
		if d.err != nil {
			return d.err
		}
		m := topModel{data: d}
		lines := m.head()
		for view := range topViews {
			m.view = view
			lines = append(append(lines, ""), m.rows()...)
		}
		if i+1 < looks {
			lines = append(lines, "")
		}
		for _, line := range lines {
			if _, err := fmt.Fprintln(p.env.Stdout, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// topScreen runs until its user ends it.
func (p *program) topScreen(c *cli.Context, look func(context.Context) topData) error {
	m := topModel{ctx: c.Context, look: look, delay: c.Duration("delay"), left: c.Int("iterations"), width: 80, height: 24}
	options := []tea.ProgramOption{tea.WithAltScreen(), tea.WithContext(c.Context), tea.WithOutput(p.env.Stdout)}
	if p.env.Stdin != nil {
		options = append(options, tea.WithInput(p.env.Stdin))
	}
	last, err := tea.NewProgram(m, options...).Run()
	if err != nil && c.Err() == nil {
		return fmt.Errorf("top: %w", err)
	}
	if m, ok := last.(topModel); ok && m.data.err != nil && m.data.at.IsZero() {
		return m.data.err
	}
	return nil
}
