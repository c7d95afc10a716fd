package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill/api"
)

var whyFlag = &cli.StringFlag{Name: "why", Usage: "an operator's `REASON`, for the audit log"}

// localTime writes a time as sacct does, in this host's zone.
func (p *program) localTime(ms int64) string {
	return time.UnixMilli(ms).In(p.env.Now().Location()).Format("2006-01-02T15:04:05")
}

func (p *program) drainColumns() []column[api.Drain] {
	return []column[api.Drain]{
		{"KIND", false, func(d api.Drain) string { return d.Kind }},
		{"NAME", false, func(d api.Drain) string { return d.Name }},
		{"SINCE", false, func(d api.Drain) string { return p.localTime(d.SinceMs) }},
		{"USER", false, func(d api.Drain) string { return d.User }},
		{"EVICT", false, func(d api.Drain) string {
			if d.Evict {
				return "yes"
			}
			return "no"
		}},
		{"WHY", false, func(d api.Drain) string { return d.Why }},
	}
}

func (p *program) drainCommand() *cli.Command {
	return command(&cli.Command{
		Name: "drain", Usage: "start no more fill jobs on the site, on nodes, or of accounts (operators); without arguments list what is drained",
		ArgsUsage: "[site | node NAME... | account NAME...]",
		Flags: outputFlags(
			&cli.StringFlag{Name: "why", Usage: "the `REASON`, which users see and the audit log keeps; required"},
			&cli.BoolFlag{Name: "evict", Usage: "what runs there goes back to the queue too; what may not be restarted is cancelled"},
		),
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				if strings.TrimSpace(c.String("why")) == "" {
					return usage("drain: say --why: users see it as the reason why their jobs wait")
				}
				return p.drainOrResume(c, func(ctx context.Context, from controller, r api.DrainRequest) error { return from.Drain(ctx, r) })
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				drains, err := from.Drains(ctx)
				if err != nil {
					return err
				}
				return printRows(p.env.Stdout, c, drains, p.drainColumns())
			})
		},
	})
}

func (p *program) resumeCommand() *cli.Command {
	return command(&cli.Command{
		Name: "resume", Usage: "undo drain (operators)", ArgsUsage: "site | node NAME... | account NAME...", Flags: []cli.Flag{whyFlag},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usage("resume: write site, node NAME or account NAME; pipefill-cli drain lists what is drained")
			}
			return p.drainOrResume(c, func(ctx context.Context, from controller, r api.DrainRequest) error { return from.Resume(ctx, r) })
		},
	})
}

func (p *program) drainOrResume(c *cli.Context, do func(context.Context, controller, api.DrainRequest) error) error {
	r := api.DrainRequest{Kind: c.Args().First(), Names: c.Args().Tail(), Why: c.String("why"), Evict: c.Bool("evict")}
	return p.ask(c, func(ctx context.Context, from controller) error { return do(ctx, from, r) })
}

func (p *program) auditColumns() []column[api.AuditEntry] {
	return []column[api.AuditEntry]{
		{"ID", true, func(e api.AuditEntry) string { return strconv.FormatInt(e.ID, 10) }},
		{"TIME", false, func(e api.AuditEntry) string { return p.localTime(e.AtMs) }},
		{"USER", false, func(e api.AuditEntry) string { return e.User }},
		{"ACTION", false, func(e api.AuditEntry) string { return e.Action }},
		{"TARGET", false, func(e api.AuditEntry) string { return e.Target }},
		{"DETAIL", false, func(e api.AuditEntry) string { return e.Detail }},
		{"RESULT", false, func(e api.AuditEntry) string { return e.Result }},
		{"WHY", false, func(e api.AuditEntry) string { return e.Why }},
	}
}

func (p *program) auditCommand() *cli.Command {
	return command(&cli.Command{
		Name: "audit", Usage: "list what operators ordered, when and why: audit [start=TIME] [end=TIME] (operators); today by default",
		ArgsUsage: "[start=TIME] [end=TIME]", Flags: outputFlags(),
		Action: func(c *cli.Context) error {
			wanted, err := parsePeriod("audit", c.Args().Slice(), p.env.Now())
			if err != nil {
				return err
			}
			if wanted.format != "" {
				return usage("audit: format= is for reports")
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				entries, err := from.Audit(ctx, wanted.start.UnixMilli(), wanted.end.UnixMilli())
				if err != nil {
					return err
				}
				return printRows(p.env.Stdout, c, entries, p.auditColumns())
			})
		},
	})
}
