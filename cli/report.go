package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
)

var reportKinds = []string{"cluster", "user", "account", "job", "main"}

func number(n int64) string { return strconv.FormatInt(n, 10) }

var usageColumns = []column[api.ReportRow]{
	{"KEY", false, func(r api.ReportRow) string { return r.Key }},
	{"JOBS", true, func(r api.ReportRow) string { return number(r.Jobs) }},
	{"COMPLETED", true, func(r api.ReportRow) string { return number(r.Completed) }},
	{"FAILED", true, func(r api.ReportRow) string { return number(r.Failed) }},
	{"DEVTIME", true, func(r api.ReportRow) string { return elapsed(r.DeviceMs) }},
	{"CPUTIME", true, func(r api.ReportRow) string { return elapsed(r.CPUMs) }},
	{"OVERRUN_MS", true, func(r api.ReportRow) string { return number(r.OverrunMs) }},
}

var mainColumns = []column[api.ReportRow]{
	{"MAINJOB_NODE_DEVICE", false, func(r api.ReportRow) string { return r.Key }},
	{"ITERATIONS", true, func(r api.ReportRow) string { return number(r.Iterations) }},
	{"BUBBLES", true, func(r api.ReportRow) string { return elapsed(r.BubbleMs) }},
	{"OFFERED", true, func(r api.ReportRow) string { return elapsed(r.OfferedMs) }},
	{"FILLED", true, func(r api.ReportRow) string { return elapsed(r.DeviceMs) }},
	{"FILLED_PCT", true, func(r api.ReportRow) string { return percent(r.DeviceMs, r.BubbleMs) }},
}

func (p *program) reportCommand() *cli.Command {
	return command(&cli.Command{
		Name: "report", Usage: "sum up usage: report cluster|user|account|job|main [start=TIME] [end=TIME], as sreport does; today by default",
		ArgsUsage: "KIND [start=TIME] [end=TIME]", Flags: outputFlags(),
		Action: func(c *cli.Context) error {
			kind := c.Args().First()
			if !slices.Contains(reportKinds, kind) {
				return usage("report: %q: write one of %s", kind, strings.Join(reportKinds, ", "))
			}
			start, end, err := span(c.Args().Tail(), p.env.Now())
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				rows, err := from.Report(ctx, kind, start.UnixMilli(), end.UnixMilli())
				if err != nil {
					return err
				}
				columns := usageColumns
				if kind == "main" {
					columns = mainColumns
				}
				columns = slices.Clone(columns)
				if kind != "main" {
					columns[0].name = strings.ToUpper(kind)
				}
				return printRows(p.env.Stdout, c, rows, columns)
			})
		},
	})
}

// span reads start= and end=: from today's midnight to now by default.
func span(args []string, now time.Time) (start, end time.Time, err error) {
	start, end = midnight(now), now.Add(time.Second)
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		at, err := moment(value, now)
		if err != nil {
			return start, end, usage("report: %s: %v", arg, err)
		}
		switch strings.ToLower(key) {
		case "start":
			start = at
		case "end":
			end = at
		default:
			return start, end, usage("report: %q: write start=TIME or end=TIME", arg)
		}
	}
	if !start.Before(end) {
		return start, end, usage("report: the start %s is not before the end %s", start.Format(time.DateTime), end.Format(time.DateTime))
	}
	return start, end, nil
}

func midnight(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, t.Location())
}

// moment reads a time as sreport takes it: now, today, yesterday, now-7days, a
// date, or a date and a time.
func moment(text string, now time.Time) (time.Time, error) {
	switch text {
	case "now":
		return now.Add(time.Second), nil
	case "today":
		return midnight(now), nil
	case "yesterday":
		return midnight(now).AddDate(0, 0, -1), nil
	}
	if rest, ok := strings.CutPrefix(text, "now-"); ok {
		digits := strings.TrimRight(rest, "abcdefghijklmnopqrstuvwxyz")
		n, err := strconv.Atoi(digits)
		unit := map[string]time.Duration{
			"minutes": time.Minute, "minute": time.Minute, "hours": time.Hour, "hour": time.Hour,
			"days": 24 * time.Hour, "day": 24 * time.Hour, "weeks": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour,
		}[rest[len(digits):]]
		if err == nil && unit > 0 && n >= 0 && n < 10000 {
			return now.Add(-time.Duration(n) * unit), nil
		}
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05", "01/02/06", "01/02"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			if layout == "01/02" {
				at = at.AddDate(now.Year(), 0, 0)
			}
			return at, nil
		}
	}
	return time.Time{}, pipefill.Errorf(pipefill.CodeInvalid, "%q is no time: write 2026-11-23, 2026-11-23T18:00, today, yesterday, now or now-7days", text)
}
