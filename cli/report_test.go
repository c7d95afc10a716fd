package cli_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the test's zones, also on a machine without them

	"pipefill"
	"pipefill/api"
)

// reports is a controller with one report of each kind: the day of the fake
// clock up to one o'clock.
func reports(t *testing.T) *fake {
	t.Helper()
	f := newFake(t)
	day := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC).UnixMilli()
	const h = int64(3600e9)
	fills := api.Sums{Completed: 12, Failed: 1, Cancelled: 2, Evicted: 3, DeviceNs: 40*h + h/2, OverrunNs: h / 4, UsefulNs: 36 * h, CPUNs: 39 * h, Openings: 5000}
	mains := api.Sums{
		MainNs: 192 * h, Iterations: 70_000, ControlIterations: 2100, BubbleNs: 60 * h, OfferedNs: 50 * h, CommNs: 5 * h, OtherNs: 2 * h,
		FilledIterationNs: 150 * h, JudgedNs: 150 * h, SlowNs: h / 2, SlowLoNs: -h / 10, SlowHiNs: h,
	}
	both := fills
	both.Add(mains)
	unknown := mains
	unknown.JudgedNs, unknown.SlowNs, unknown.SlowLoNs, unknown.SlowHiNs = 0, 0, 0, 0
	for kind, rows := range map[string][]api.ReportRow{
		"cluster": {{Key: "alps", Sums: both}},
		"user":    {{Key: "ann", User: "ann", Account: "physics", Sums: fills}, {Key: "bob|x", User: "bob|x", Account: "", Sums: api.Sums{DeviceNs: 1}}},
		"account": {{Key: "physics", Account: "physics", Sums: fills}},
		"job":     {{Key: "7", User: "ann", Account: "physics", Sums: api.Sums{Completed: 1, DeviceNs: 3 * h, UsefulNs: 3 * h, CPUNs: 2 * h}}},
		"main":    {{Key: "3", User: "tim", Sums: both}, {Key: "12", User: "tina", Sums: unknown}},
		"node":    {{Key: "n001", Sums: both}, {Key: "n002"}},
	} {
		f.answers["/v1/report/"+kind] = api.Report{
			Kind: kind, Cluster: "alps", StartMs: day, EndMs: day + 13*3_600_000, NowMs: day + 12*3_600_000, TimeZone: "UTC", Rows: rows,
		}
	}
	return f
}

func TestReport_Golden(t *testing.T) {
	f := reports(t)
	for _, kind := range api.ReportKinds {
		_, table, errs := run(t, f.endpoint, "report", kind)
		golden(t, "report-"+kind, table+errs)
	}
	_, text, _ := run(t, f.endpoint, "report", "--json", "user")
	golden(t, "report-json", text)
	_, text, _ = run(t, f.endpoint, "report", "-P", "-t", "seconds", "cluster", "format=Cluster,Used,Slowdown%20,cost")
	golden(t, "report-parsable", text)
	_, text, _ = run(t, f.endpoint, "report", "-n", "-t", "min", "node", "format=node%3,Bubbles%12,Evicted%-8,Used")
	golden(t, "report-format", text)
	f.fail = &api.Failure{Code: pipefill.CodeDenied, Message: "report node: for operators; report main and report user have your own jobs"}
	status, _, errs := run(t, f.endpoint, "report", "node")
	if golden(t, "report-error", errs); status != 6 {
		t.Errorf("status %d", status)
	}
}

func TestReport_Price(t *testing.T) {
	f := reports(t)
	r, ok := f.answers["/v1/report/cluster"].(api.Report)
	if !ok {
		t.Fatal("no report")
	}
	r.HourPrice, r.Currency = 2.5, "EUR"
	f.answers["/v1/report/cluster"] = r
	_, text, _ := run(t, f.endpoint, "report", "cluster")
	golden(t, "report-price", text)
}

// Times are those of the caller's zone, by the calendar where clocks change.
func TestReport_Period(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	utc := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	after := time.Date(2026, 10, 25, 12, 0, 0, 0, berlin) // the clocks went back that night
	for _, c := range []struct {
		now        time.Time
		args       []string
		start, end string
	}{
		{utc, nil, "2026-11-23T00:00:00Z", "2026-11-23T12:00:01Z"},
		{utc, []string{"start=2026-11-01", "end=now-2days"}, "2026-11-01T00:00:00Z", "2026-11-21T12:00:00Z"},
		{utc, []string{"start=11/01", "end=2026-11-01T06:30"}, "2026-11-01T00:00:00Z", "2026-11-01T06:30:00Z"},
		{utc, []string{"Start=yesterday", "End=today"}, "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"},
		{utc, []string{"start=06:15", "end=tomorrow"}, "2026-11-23T06:15:00Z", "2026-11-24T00:00:00Z"},
		{after, []string{"start=today", "end=tomorrow"}, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"}, // 25 hours
		{after, []string{"start=now-1day"}, "2026-10-24T10:00:00Z", "2026-10-25T11:00:01Z"},
		{after, []string{"start=now-24hours"}, "2026-10-24T11:00:00Z", "2026-10-25T11:00:01Z"},
		{after, []string{"start=2026-10-25T02:30", "end=2026-10-25T03:00"}, "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"},
	} {
		f := reports(t)
		status, _, errs := runAt(t, c.now, f.endpoint, append([]string{"report", "user"}, c.args...)...)
		if status != 0 {
			t.Fatalf("%v: %s", c.args, errs)
		}
		asked := strings.TrimPrefix(f.calls[0], "GET /v1/report/user?")
		start, err1 := time.Parse(time.RFC3339, c.start)
		end, err2 := time.Parse(time.RFC3339, c.end)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if want := queryOf(start, end); asked != want {
			t.Errorf("%v: asked %s, want %s", c.args, asked, want)
		}
	}
}

func queryOf(start, end time.Time) string {
	return fmt.Sprintf("end_ms=%d&start_ms=%d", end.UnixMilli(), start.UnixMilli())
}
