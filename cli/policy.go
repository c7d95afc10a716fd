package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"pipefill/api"
	"pipefill/controller/schedule"
)

var policyColumns = []column[api.Policy]{
	{"NAME", false, func(p api.Policy) string { return p.Name }},
	{"ACTIVE", false, func(p api.Policy) string { return map[bool]string{true: "yes", false: "no"}[p.Active] }},
	{"FROM", false, func(p api.Policy) string { return cmp.Or(p.File, "shipped") }},
	{"WHAT", false, func(p api.Policy) string { return p.Text }},
}

var predictionColumns = []column[api.Prediction]{
	{"SOURCE", false, func(p api.Prediction) string { return p.Source }},
	{"JOBS", true, func(p api.Prediction) string { return strconv.FormatInt(p.Count, 10) }},
	{"TOOK/EXPECTED", true, func(p api.Prediction) string { return factor(p.Factor) }},
	{"OFF", true, func(p api.Prediction) string { return factor(p.Off) }},
	{"OFF90", true, func(p api.Prediction) string { return factor(p.Off90) }},
}

func factor(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) }

func (p *program) policyCommand() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "scheduling policies: policy list|check|explain|predictions", ArgsUsage: "list|check FILE...|explain JOB|predictions",
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			return usage("policy: %q: write list, check FILE, explain JOB or predictions", c.Args().First())
		},
		Subcommands: []*cli.Command{p.policyListCommand(), p.policyCheckCommand(), p.policyExplainCommand(), p.policyPredictionsCommand()},
	}
}

func (p *program) policyListCommand() *cli.Command {
	return command(&cli.Command{
		Name: "list", Usage: "list the policies of the controller, that in use first", Flags: outputFlags(),
		Action: func(c *cli.Context) error {
			return p.ask(c, func(ctx context.Context, from controller) error {
				rows, err := from.Policies(ctx)
				if err != nil {
					return err
				}
				return printRows(p.env.Stdout, c, rows, policyColumns)
			})
		},
	})
}

func (p *program) policyPredictionsCommand() *cli.Command {
	return command(&cli.Command{
		Name: "predictions", Usage: "how good expected times were, by their source, in the last 30 days", Flags: outputFlags(),
		Action: func(c *cli.Context) error {
			return p.ask(c, func(ctx context.Context, from controller) error {
				rows, err := from.Predictions(ctx)
				if err != nil {
					return err
				}
				return printRows(p.env.Stdout, c, rows, predictionColumns)
			})
		},
	})
}

// policyCheckCommand needs no controller: a policy is checked where it is written.
func (p *program) policyCheckCommand() *cli.Command {
	return command(&cli.Command{
		Name: "check", Usage: "check policy files before the controller reads them; it must be able to find what they name beside them", ArgsUsage: "FILE...",
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usage("policy check: write the files, NAME%s", schedule.Suffix)
			}
			var wrong []error
			for _, path := range c.Args().Slice() {
				policy, err := schedule.LoadFile(path)
				if err != nil {
					wrong = append(wrong, err)
					continue
				}
				if _, err := fmt.Fprintf(p.env.Stdout, "%s: good: %s\n", path, policy.Describe()); err != nil {
					return err
				}
			}
			return firstCode(wrong)
		},
	})
}

// firstCode joins errors; the first one's code is that of all.
func firstCode(wrong []error) error {
	if len(wrong) < 2 {
		return errors.Join(wrong...)
	}
	return fmt.Errorf("%w\n%w", wrong[0], errors.Join(wrong[1:]...))
}

func (p *program) policyExplainCommand() *cli.Command {
	return command(&cli.Command{
		Name: "explain", Usage: "tell why a fill job is where it is in the queue", ArgsUsage: "JOB",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "print the attributes too that the policy does not look at"},
		},
		Action: func(c *cli.Context) error {
			ids, err := jobNumbers(c)
			if err != nil {
				return err
			}
			if len(ids) != 1 {
				return usage("policy explain: write one job number")
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				e, err := from.ExplainPolicy(ctx, ids[0])
				if err != nil {
					return err
				}
				if c.Bool("json") {
					encoder := json.NewEncoder(p.env.Stdout)
					encoder.SetIndent("", "  ")
					return encoder.Encode(e)
				}
				_, err = fmt.Fprint(p.env.Stdout, explained(e, c.Bool("all")))
				return err
			})
		},
	})
}

// explained writes an explanation as scontrol shows a job.
func explained(e api.PolicyExplanation, all bool) string {
	var out strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&out, "%-10s %s\n", name, oneLine(fmt.Sprintf(format, args...)))
	}
	line("job", "%d, %s", e.JobID, e.State)
	if e.Reason != "" {
		line("reason", "%s", e.Reason)
	}
	if e.Policy == "" {
		return out.String() // it does not wait for a slot
	}
	line("policy", "%s", e.Policy)
	line("order", "%s", e.Tier)
	line("slots", "%d of %d suit it, taken ones included", e.Suits, e.Slots)
	if e.Place == 0 {
		return out.String()
	}
	line("place", "%d, for slots such as %s %s", e.Place, e.Node, e.Device)
	if e.WaitMs >= 0 {
		line("wait", "%s, if all take as long as expected and nothing comes before it", elapsed(e.WaitMs))
	}
	var scores []string
	for _, x := range e.Scores {
		scores = append(scores, strconv.FormatFloat(x, 'g', 6, 64))
	}
	line("score", "%s", strings.Join(scores, ", "))
	line("time from", "%s", e.Source)
	if pr := e.Prediction; pr != nil {
		line("error", "of %d such times half were within a factor of %.2f, 9 of 10 within %.2f", pr.Count, pr.Off, pr.Off90)
	}
	values := slices.Clone(e.Values)
	slices.SortStableFunc(values, func(a, b api.AttributeValue) int {
		if a.Used == b.Used {
			return 0
		}
		if a.Used {
			return -1
		}
		return 1
	})
	for _, v := range values {
		if v.Used || all {
			unit := v.Unit
			if unit == "1" {
				unit = ""
			}
			text := fmt.Sprint(v.Value)
			if x, ok := v.Value.(float64); ok {
				text = strconv.FormatFloat(x, 'g', 8, 64)
			}
			fmt.Fprintf(&out, "  %-20s %s\n", v.Name, strings.TrimSpace(oneLine(text)+" "+unit))
		}
	}
	return out.String()
}
