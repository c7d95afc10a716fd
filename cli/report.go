package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
)

// reportSight is what a report's columns need besides their row.
type reportSight struct {
	unit    timeUnit
	elapsed time.Duration // of the period, up to now
	price   float64       // of a device for an hour
}

// timeUnit is what -t names.
type timeUnit struct {
	name     string
	ns       float64
	decimals int
}

var timeUnits = []timeUnit{{"hours", 3600e9, 2}, {"minutes", 60e9, 1}, {"seconds", 1e9, 3}}

// unitOf finds a unit by its name or the beginning of it, as sreport does.
func unitOf(name string) (timeUnit, error) {
	for _, u := range timeUnits {
		if name != "" && strings.HasPrefix(u.name, strings.ToLower(name)) {
			return u, nil
		}
	}
	return timeUnit{}, usage("report: -t %q: write hours, minutes or seconds", name)
}

// reportColumn is a column of reports.
type reportColumn struct {
	name  string
	right bool
	text  func(api.ReportRow, reportSight) string
}

func (s reportSight) time(ns int64) string {
	return strconv.FormatFloat(float64(ns)/s.unit.ns, 'f', s.unit.decimals, 64)
}

func duration(name string, of func(*api.ReportRow) int64) reportColumn {
	return reportColumn{name, true, func(r api.ReportRow, s reportSight) string { return s.time(of(&r)) }}
}

func count(name string, of func(*api.ReportRow) int64) reportColumn {
	return reportColumn{name, true, func(r api.ReportRow, _ reportSight) string { return strconv.FormatInt(of(&r), 10) }}
}

func label(name string, of func(*api.ReportRow) string) reportColumn {
	return reportColumn{name, false, func(r api.ReportRow, _ reportSight) string { return of(&r) }}
}

// reportColumns are all; those that a kind shows without format= are in
// reportFormats. man page pipefill-cli(1) says what each is.
var reportColumns = []reportColumn{
	label("Cluster", func(r *api.ReportRow) string { return r.Key }),
	label("Job", func(r *api.ReportRow) string { return r.Key }),
	label("MainJob", func(r *api.ReportRow) string { return r.Key }),
	label("Node", func(r *api.ReportRow) string { return r.Key }),
	label("User", func(r *api.ReportRow) string { return r.User }),
	label("Account", func(r *api.ReportRow) string { return r.Account }),
	count("Ended", func(r *api.ReportRow) int64 { return r.Ended() }),
	count("Completed", func(r *api.ReportRow) int64 { return r.Completed }),
	count("Failed", func(r *api.ReportRow) int64 { return r.Failed }),
	count("Cancelled", func(r *api.ReportRow) int64 { return r.Cancelled }),
	count("Evicted", func(r *api.ReportRow) int64 { return r.Evicted }),
	count("Lost", func(r *api.ReportRow) int64 { return r.Lost }),
	duration("Used", func(r *api.ReportRow) int64 { return r.DeviceNs }),
	duration("CPU", func(r *api.ReportRow) int64 { return r.CPUNs }),
	duration("Overrun", func(r *api.ReportRow) int64 { return r.OverrunNs }),
	duration("Filled", func(r *api.ReportRow) int64 { return r.FilledNs() }),
	duration("Useful", func(r *api.ReportRow) int64 { return r.UsefulNs }),
	count("Openings", func(r *api.ReportRow) int64 { return r.Openings }),
	duration("Main", func(r *api.ReportRow) int64 { return r.MainNs }),
	count("Iterations", func(r *api.ReportRow) int64 { return r.Iterations }),
	count("Control", func(r *api.ReportRow) int64 { return r.ControlIterations }),
	duration("Bubbles", func(r *api.ReportRow) int64 { return r.BubbleNs }),
	duration("Offered", func(r *api.ReportRow) int64 { return r.OfferedNs }),
	duration("Comm", func(r *api.ReportRow) int64 { return r.CommNs }),
	duration("Other", func(r *api.ReportRow) int64 { return r.OtherNs }),
	{"Recovered", true, func(r api.ReportRow, _ reportSight) string { return percent(r.FilledNs(), r.BubbleNs) }},
	{"UsefulPct", true, func(r api.ReportRow, _ reportSight) string { return percent(r.UsefulNs, r.BubbleNs) }},
	{"Equivalents", true, func(r api.ReportRow, s reportSight) string { return ratio(float64(r.UsefulNs), float64(s.elapsed)) }},
	{"Slowdown", true, func(r api.ReportRow, _ reportSight) string { return slowdown(r.Sums) }},
	{"Cost", true, func(r api.ReportRow, s reportSight) string {
		if r.JudgedNs <= 0 {
			return "N/A"
		}
		return fmt.Sprintf("%s[%s..%s]", s.time(r.SlowNs), s.time(r.SlowLoNs), s.time(r.SlowHiNs))
	}},
	{"Charge", true, func(r api.ReportRow, s reportSight) string { return money(r.DeviceNs, s) }},
	{"CostPrice", true, func(r api.ReportRow, s reportSight) string {
		if r.JudgedNs <= 0 {
			return "N/A"
		}
		return money(r.SlowNs, s)
	}},
}

func money(ns int64, s reportSight) string {
	if s.price == 0 {
		return "N/A"
	}
	return strconv.FormatFloat(float64(ns)/3600e9*s.price, 'f', 2, 64)
}

func ratio(part, whole float64) string {
	if whole <= 0 {
		return "N/A"
	}
	return strconv.FormatFloat(part/whole, 'f', 2, 64)
}

// slowdown is what iterations beside fill work took longer, where that is known.
func slowdown(s api.Sums) string {
	if s.JudgedNs <= 0 {
		return "N/A"
	}
	// Lost time over the time that it would have taken.
	of := func(lost int64) float64 { return 100 * float64(lost) / float64(s.JudgedNs-lost) }
	return fmt.Sprintf("%+.2f%%[%+.2f..%+.2f]", of(s.SlowNs), of(s.SlowLoNs), of(s.SlowHiNs))
}

// reportFormats are the columns without format=; Charge and CostPrice come
// with a price.
var reportFormats = map[string]string{
	"cluster": "Cluster,Main,Bubbles,Offered,Filled,Useful,Recovered,Equivalents,Completed,Failed,Evicted,Slowdown,Cost",
	"user":    "User,Account,Ended,Completed,Failed,Cancelled,Evicted,Lost,Used,CPU,Useful",
	"account": "Account,Ended,Completed,Failed,Cancelled,Evicted,Lost,Used,CPU,Useful",
	"job":     "Job,User,Account,Completed,Failed,Cancelled,Evicted,Lost,Used,CPU,Overrun,Useful",
	"main":    "MainJob,User,Main,Bubbles,Offered,Filled,Recovered,Comm,Other,Slowdown,Cost",
	"node":    "Node,Main,Bubbles,Offered,Filled,Useful,Recovered,Overrun,Evicted,Slowdown,Cost",
}

func (p *program) reportCommand() *cli.Command {
	return command(&cli.Command{
		Name: "report", Usage: "sum up usage: report cluster|user|account|job|main|node [start=TIME] [end=TIME] [format=LIST], as sreport does; today by default",
		ArgsUsage: "KIND [start=TIME] [end=TIME] [format=LIST]",
		Flags: outputFlags(
			&cli.StringFlag{Name: "time", Aliases: []string{"t"}, Value: "hours", Usage: "`UNIT` of times: hours, minutes or seconds of one device"},
		),
		Action: func(c *cli.Context) error {
			kind := c.Args().First()
			if !slices.Contains(api.ReportKinds, kind) {
				return usage("report: %q: write one of %s", kind, strings.Join(api.ReportKinds, ", "))
			}
			wanted, err := parsePeriod("report", c.Args().Tail(), p.env.Now())
			if err != nil {
				return err
			}
			unit, err := unitOf(c.String("time"))
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				report, err := from.Report(ctx, kind, wanted.start.UnixMilli(), wanted.end.UnixMilli())
				if err != nil {
					return err
				}
				return p.printReport(c, report, wanted, unit)
			})
		},
	})
}

func (p *program) printReport(c *cli.Context, report api.Report, wanted reportQuery, unit timeUnit) error {
	if c.Bool("json") {
		encoder := json.NewEncoder(p.env.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	format := wanted.format
	if format == "" {
		if format = reportFormats[report.Kind]; report.HourPrice > 0 {
			format += ",Charge"
			if report.Kind == "cluster" || report.Kind == "main" {
				format += ",CostPrice"
			}
		}
	}
	sight := reportSight{unit: unit, elapsed: time.Duration(min(report.EndMs, report.NowMs)-report.StartMs) * time.Millisecond, price: report.HourPrice}
	columns, err := reportFormat(format, sight, c.Bool("parsable2"))
	if err != nil {
		return err
	}
	if !c.Bool("noheader") && !c.Bool("parsable2") {
		if err := p.reportTitle(report, unit); err != nil {
			return err
		}
	}
	return printRows(p.env.Stdout, c, report.Rows, columns)
}

// reportTitle is the head of sreport's tables; the end is the last second within.
func (p *program) reportTitle(report api.Report, unit timeUnit) error {
	zone := p.env.Now().Location()
	at := func(ms int64) string { return time.UnixMilli(ms).In(zone).Format("2006-01-02T15:04:05") }
	rule := strings.Repeat("-", 80)
	currency := ""
	if report.HourPrice > 0 {
		currency = fmt.Sprintf(", %g %s an hour", report.HourPrice, report.Currency)
	}
	_, err := fmt.Fprintf(p.env.Stdout, "%s\n%s %s %s - %s (%d secs)\nTimes in device-%s%s\n%s\n", rule, strings.ToUpper(report.Kind[:1])+report.Kind[1:],
		"report of "+oneLine(report.Cluster), at(report.StartMs), at(report.EndMs-1000), (report.EndMs-report.StartMs)/1000, unit.name, oneLine(currency), rule)
	return err
}

// reportFormat reads a list of columns, each NAME, NAME%WIDTH or NAME%-WIDTH;
// parsable fields have no width.
func reportFormat(list string, sight reportSight, parsable bool) ([]column[api.ReportRow], error) {
	var out []column[api.ReportRow]
	for field := range strings.SplitSeq(list, ",") {
		name, width, sized := strings.Cut(strings.TrimSpace(field), "%")
		i := slices.IndexFunc(reportColumns, func(c reportColumn) bool { return strings.EqualFold(c.name, name) })
		if i < 0 {
			var names []string
			for _, c := range reportColumns {
				names = append(names, c.name)
			}
			return nil, usage("report: format: there is no column %q; there are %s", name, strings.Join(names, ","))
		}
		col := reportColumns[i]
		c := column[api.ReportRow]{col.name, col.right, func(r api.ReportRow) string { return col.text(r, sight) }}
		if sized {
			n, err := strconv.Atoi(width)
			if err != nil || n == 0 || n < -500 || n > 500 {
				return nil, usage("report: format: %q: write a width of 1 to 500 after the %%, negative for left-justified", field)
			}
			if !parsable {
				c = fixed(c, n)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// fixed makes a column of a given width as Slurm does: what is longer is cut,
// and ends in +.
func fixed(c column[api.ReportRow], width int) column[api.ReportRow] {
	c.right = width > 0
	size := max(width, -width)
	cut := func(s string) string {
		runes := []rune(s)
		if len(runes) > size {
			return string(runes[:size-1]) + "+"
		}
		pad := strings.Repeat(" ", size-len(runes))
		if c.right {
			return pad + s
		}
		return s + pad
	}
	text := c.text
	c.name, c.text = cut(c.name), func(r api.ReportRow) string { return cut(oneLine(text(r))) }
	return c
}

// reportQuery is what the arguments of report ask for.
type reportQuery struct {
	start, end time.Time
	format     string
}

// parsePeriod reads start=, end= and format=: from today's midnight to now by
// default.
func parsePeriod(command string, args []string, now time.Time) (reportQuery, error) {
	q := reportQuery{start: midnight(now), end: now.Add(time.Second)}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		var err error
		switch strings.ToLower(key) {
		case "start":
			q.start, err = moment(value, now)
		case "end":
			q.end, err = moment(value, now)
		case "format":
			if q.format = value; value == "" {
				err = usage("write a list of columns")
			}
		default:
			return q, usage("%s: %q: write start=TIME, end=TIME or format=LIST", command, arg)
		}
		if err != nil {
			return q, usage("%s: %s: %v", command, arg, err)
		}
	}
	if !q.start.Before(q.end) {
		return q, usage("%s: the start %s is not before the end %s", command, q.start.Format(time.DateTime), q.end.Format(time.DateTime))
	}
	return q, nil
}

func midnight(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, t.Location())
}

var agoUnits = map[string]time.Duration{"minutes": time.Minute, "minute": time.Minute, "hours": time.Hour, "hour": time.Hour}

// agoDays are counted by the calendar: a day may have 23 or 25 hours.
var agoDays = map[string]int{"days": 1, "day": 1, "weeks": 7, "week": 7}

// moment reads a time as sreport takes it: now, today, yesterday, now-7days, a
// date, a time of today, or a date and a time.
func moment(text string, now time.Time) (time.Time, error) {
	switch text {
	case "now":
		return now.Add(time.Second), nil
	case "today", "midnight":
		return midnight(now), nil
	case "yesterday":
		return midnight(now).AddDate(0, 0, -1), nil
	case "tomorrow":
		return midnight(now).AddDate(0, 0, 1), nil
	}
	if rest, ok := strings.CutPrefix(text, "now-"); ok {
		digits := strings.TrimRight(rest, "abcdefghijklmnopqrstuvwxyz")
		n, err := strconv.Atoi(digits)
		unit := rest[len(digits):]
		switch {
		case err != nil || n < 0 || n >= 10000:
		case agoUnits[unit] > 0:
			return now.Add(-time.Duration(n) * agoUnits[unit]), nil
		case agoDays[unit] > 0:
			return now.AddDate(0, 0, -n*agoDays[unit]), nil
		}
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05", "01/02/06", "01/02", "15:04"} {
		at, err := time.ParseInLocation(layout, text, now.Location())
		if err != nil {
			continue
		}
		switch layout {
		case "01/02":
			at = time.Date(now.Year(), at.Month(), at.Day(), 0, 0, 0, 0, now.Location())
		case "15:04":
			at = time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), 0, 0, now.Location())
		}
		// Of a time that the clocks showed twice, the first.
		if first := at.Add(-time.Hour); first.Format(time.DateTime) == at.Format(time.DateTime) {
			at = first
		}
		return at, nil
	}
	return time.Time{}, pipefill.Errorf(pipefill.CodeInvalid,
		"%q is no time: write 2026-11-23, 2026-11-23T18:00, today, yesterday, now or now-7days", text)
}
