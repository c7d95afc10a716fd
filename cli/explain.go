package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill/api"
)

// explainColumns are squeue --start's, with why.
func (p *program) explainColumns() []column[api.PolicyExplanation] {
	start := func(e api.PolicyExplanation) string {
		if e.WaitMs < 0 || e.Place == 0 {
			return "N/A"
		}
		return p.env.Now().Add(time.Duration(e.WaitMs) * time.Millisecond).Format("2006-01-02T15:04:05")
	}
	return []column[api.PolicyExplanation]{
		{"JOBID", true, func(e api.PolicyExplanation) string { return strconv.FormatInt(e.JobID, 10) }},
		{"STATE", false, func(e api.PolicyExplanation) string { return strings.ToUpper(e.State) }},
		{"PLACE", true, func(e api.PolicyExplanation) string {
			if e.Place == 0 {
				return "N/A"
			}
			return strconv.Itoa(e.Place)
		}},
		{"START_TIME", false, start},
		{"SUIT", true, func(e api.PolicyExplanation) string { return fmt.Sprintf("%d/%d", e.Suits, e.Slots) }},
		{"REASON", false, func(e api.PolicyExplanation) string { return e.Reason }},
	}
}

func (p *program) explainCommand() *cli.Command {
	return command(&cli.Command{
		Name: "explain", Usage: "tell why fill jobs wait, and when they are expected to start", ArgsUsage: "JOB...", Flags: outputFlags(),
		Action: func(c *cli.Context) error {
			ids, err := jobNumbers(c)
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				var rows []api.PolicyExplanation
				for _, id := range ids {
					e, err := from.ExplainPolicy(ctx, id)
					if err != nil {
						return err
					}
					rows = append(rows, e)
				}
				return printRows(p.env.Stdout, c, rows, p.explainColumns())
			})
		},
	})
}
