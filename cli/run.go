// Package cli is pipefill-cli: queue management, slots, bubbles, reports, and the
// doctor. It decides nothing about jobs: it asks pipefillctld, and prints as
// squeue and sreport do.
package cli

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
	"pipefill/munge"
)

// controller is what the commands ask; *api.Client.
type controller interface {
	Jobs(ctx context.Context, f api.JobFilter) ([]api.FillJob, error)
	Job(ctx context.Context, id int64) (api.FillJob, error)
	Hold(ctx context.Context, id int64, why string) error
	Release(ctx context.Context, id int64, why string) error
	Cancel(ctx context.Context, id int64, why string) error
	Priority(ctx context.Context, id, priority int64, why string) error
	Drains(ctx context.Context) ([]api.Drain, error)
	Drain(ctx context.Context, r api.DrainRequest) error
	Resume(ctx context.Context, r api.DrainRequest) error
	Audit(ctx context.Context, startMs, endMs int64) ([]api.AuditEntry, error)
	Archive(ctx context.Context, beforeMs int64) (io.ReadCloser, error)
	LoadArchive(ctx context.Context, rows []api.ArchiveRow) (int64, error)
	Slots(ctx context.Context) ([]api.Slot, error)
	Report(ctx context.Context, kind string, startMs, endMs int64) (api.Report, error)
	Policies(ctx context.Context) ([]api.Policy, error)
	Predictions(ctx context.Context) ([]api.Prediction, error)
	ExplainPolicy(ctx context.Context, id int64) (api.PolicyExplanation, error)
	Ping(ctx context.Context) (api.Status, error)
	KeepProfile(ctx context.Context, text []byte) (api.Profile, error)
	Recording(ctx context.Context, job int64, q api.RecordingQuery, each func(api.Recording) error) (api.RecordingEnd, error)
}

var _ controller = (*api.Client)(nil)

// Env is what a run takes from the world.
type Env struct {
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Now            func() time.Time
	LookPath       func(string) (string, error)
	// What doctor asks of the host; nil: the real thing.
	Statfs       func(dir string) (kind, free int64, err error)
	SlurmVersion func(ctx context.Context, conf string) (string, error)
}

const (
	defaultController = "unix:/run/pipefill/pipefillctld.sock"
	requestTimeout    = 30 * time.Second
)

// program is one run.
type program struct {
	env Env
}

// Run runs one command line and returns its exit status: 0 done, 1 internal,
// 2 usage, 3 not found, 4 conflict or cannot fit, 5 unavailable, 6 denied.
func Run(ctx context.Context, args []string, env Env) int {
	if env.LookPath == nil {
		env.LookPath = exec.LookPath
	}
	if env.Statfs == nil {
		env.Statfs = statfs
	}
	if env.SlurmVersion == nil {
		env.SlurmVersion = slurmVersion
	}
	p := &program{env: env}
	// Only --help: -h is squeue's word for "no header".
	cli.HelpFlag = &cli.BoolFlag{Name: "help", Usage: "show help"}
	err := p.app().RunContext(ctx, args) //nolint:contextcheck // urfave/cli hands the context on in its own
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintln(env.Stderr, "pipefill-cli: "+err.Error())
	return pipefill.ExitStatus(err)
}

func (p *program) app() *cli.App {
	return &cli.App{
		Name: "pipefill-cli", Usage: "manage fill jobs, which run in the bubbles of pipeline-parallel training",
		Version: pipefill.Version(), HideHelpCommand: true, UseShortOptionHandling: true,
		Writer: p.env.Stdout, ErrWriter: p.env.Stderr, Reader: p.env.Stdin,
		// It would exit the process itself.
		ExitErrHandler: func(*cli.Context, error) {},
		// Commands, files and devices have commas in them: such flags are repeated instead.
		DisableSliceFlagSeparator: true,
		OnUsageError:              usageError,
		CommandNotFound:           func(*cli.Context, string) {},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "controller", EnvVars: []string{"PIPEFILL_CONTROLLER"}, Value: defaultController, Usage: "pipefillctld: unix:/PATH or http://HOST:PORT"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usage("%q is no command; pipefill-cli --help lists them", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			p.queueCommand(), p.submitCommand(),
			p.actCommand("hold", "keep fill jobs from being started", controller.Hold),
			p.actCommand("release", "undo hold", controller.Release),
			p.actCommand("cancel", "cancel fill jobs, as scancel does", controller.Cancel),
			p.priorityCommand(), p.slotsCommand(), p.bubblesCommand(), p.reportCommand(), p.doctorCommand(), p.configCommand(), p.tryCommand(), p.policyCommand(), p.traceCommand(), p.profileCommand(), p.simulateCommand(), p.planCommand(),
			p.drainCommand(), p.resumeCommand(), p.auditCommand(), p.archiveCommand(), p.topCommand(), p.explainCommand(),
		},
	}
}

func usageError(_ *cli.Context, err error, _ bool) error { return usage("%s; see --help", err) }

func usage(format string, args ...any) error {
	return pipefill.Errorf(pipefill.CodeInvalid, format, args...)
}

// command fills in what every command has: flags after arguments, which the
// library would silently take for arguments, are refused.
func command(c *cli.Command) *cli.Command {
	c.OnUsageError = usageError
	action := c.Action
	c.Action = func(ctx *cli.Context) error {
		for _, arg := range ctx.Args().Slice() {
			if c.Name != "submit" && c.Name != "profile" && strings.HasPrefix(arg, "-") && !isNumber(arg) {
				return usage("%s: write options before arguments: %s comes too late", c.Name, arg)
			}
		}
		return action(ctx)
	}
	return c
}

func isNumber(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil
}

// dial returns the controller of --controller.
func (p *program) dial(c *cli.Context) (controller, error) {
	return api.NewClient(c.String("controller"), munge.New(p.env.Getenv("MUNGE_SOCKET")))
}

// ask runs a question with its time limit.
func (p *program) ask(c *cli.Context, question func(ctx context.Context, from controller) error) error {
	from, err := p.dial(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, requestTimeout)
	defer cancel()
	return question(ctx, from)
}

// jobNumbers reads the arguments, at least one.
func jobNumbers(c *cli.Context) ([]int64, error) {
	if c.NArg() == 0 {
		return nil, usage("%s: write the number of a fill job; pipefill-cli queue lists them", c.Command.Name)
	}
	var ids []int64
	for _, arg := range c.Args().Slice() {
		id, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || id <= 0 {
			return nil, usage("%s: %q is no job number", c.Command.Name, arg)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// actCommand does one thing to each named job; one that fails does not keep the
// others from it, and the first failure is the exit status.
func (p *program) actCommand(name, text string, act func(controller, context.Context, int64, string) error) *cli.Command {
	return command(&cli.Command{Name: name, Usage: text, ArgsUsage: "JOB...", Flags: []cli.Flag{whyFlag}, Action: func(c *cli.Context) error {
		ids, err := jobNumbers(c)
		if err != nil {
			return err
		}
		return p.ask(c, func(ctx context.Context, from controller) error {
			var first error
			for _, id := range ids {
				if err := act(from, ctx, id, c.String("why")); err != nil {
					if first != nil {
						_, _ = fmt.Fprintln(p.env.Stderr, "pipefill-cli: "+err.Error())
						continue
					}
					first = err
				}
			}
			return first
		})
	}})
}

func (p *program) priorityCommand() *cli.Command {
	return command(&cli.Command{
		Name: "priority", Usage: "put a fill job before (N > 0) or behind (N < 0) its owner's other jobs", ArgsUsage: "JOB N", Flags: []cli.Flag{whyFlag},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usage("priority: write a job number and a priority, like: priority 12 5")
			}
			id, err1 := strconv.ParseInt(c.Args().Get(0), 10, 64)
			priority, err2 := strconv.ParseInt(c.Args().Get(1), 10, 64)
			if err1 != nil || err2 != nil {
				return usage("priority: %q and %q are not two numbers", c.Args().Get(0), c.Args().Get(1))
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				return from.Priority(ctx, id, priority, c.String("why"))
			})
		},
	})
}
