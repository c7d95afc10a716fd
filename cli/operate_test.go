package cli_test

import (
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
)

func TestDrain_Golden(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/drains"] = []api.Drain{
		{Kind: "site", Name: "alps", User: "root", Why: "power\tcut", SinceMs: 1795392000000, Evict: true},
		{Kind: "account", Name: "physics", User: "oper", Why: "budget is spent", SinceMs: 1795392060000},
	}
	_, table, _ := run(t, f.endpoint, "drain")
	golden(t, "drain", table)
	_, text, _ := run(t, f.endpoint, "drain", "--json")
	golden(t, "drain-json", text)
	for _, args := range [][]string{
		{"drain", "--why", "disk", "node", "n[0-3]", "n7"},
		{"drain", "--why", "power", "--evict", "site"},
		{"resume", "account", "physics"},
		{"resume", "--why", "mended", "node", "n7"},
	} {
		if status, _, errs := run(t, f.endpoint, args...); status != 0 {
			t.Errorf("%v: %d %s", args, status, errs)
		}
	}
	want := `POST /v1/drain {"kind":"node","names":["n[0-3]","n7"],"why":"disk","evict":false}
POST /v1/drain {"kind":"site","names":[],"why":"power","evict":true}
POST /v1/resume {"kind":"account","names":["physics"],"why":"","evict":false}
POST /v1/resume {"kind":"node","names":["n7"],"why":"mended","evict":false}`
	if got := strings.Join(f.calls[2:], "\n"); got != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
	f.fail = &api.Failure{Code: pipefill.CodeNotFound, Message: "drain node n9: neither Slurm nor pipefill knows it"}
	status, _, errs := run(t, f.endpoint, "drain", "--why", "x", "node", "n9")
	if golden(t, "drain-error", errs); status != 3 {
		t.Errorf("status %d", status)
	}
}

func TestAudit_Golden(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/audit"] = []api.AuditEntry{
		{ID: 1, AtMs: 1795392000000, User: "root", Action: "drain", Target: "node n0", Detail: "evict", Why: "disk", Result: "ok"},
		{ID: 12, AtMs: 1795392001000, UID: 1002, User: "oper", Action: "priority", Target: "job 7 of ann", Detail: "500", Result: "conflict: it has ended"},
	}
	_, table, _ := run(t, f.endpoint, "audit", "start=yesterday")
	golden(t, "audit", table)
	_, text, _ := run(t, f.endpoint, "audit", "--json")
	golden(t, "audit-json", text)
	f.fail = &api.Failure{Code: pipefill.CodeDenied, Message: "audit: for operators: root, and operators: of pipefillctld.yaml"}
	status, _, errs := run(t, f.endpoint, "audit")
	if golden(t, "audit-error", errs); status != 6 {
		t.Errorf("status %d", status)
	}
}

func TestExplain_Golden(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/jobs/7/policy"] = api.PolicyExplanation{
		JobID: 7, State: "queued", Reason: "waits for a slot that suits it", Policy: "fifo", Suits: 2, Slots: 6, Place: 3, WaitMs: 3_723_000,
		Scores: []float64{}, Values: []api.AttributeValue{},
	}
	f.answers["/v1/jobs/12/policy"] = api.PolicyExplanation{
		JobID: 12, State: "queued", Reason: "node n0 is drained by oper: disk", WaitMs: -1, Slots: 6, Scores: []float64{}, Values: []api.AttributeValue{},
	}
	_, table, _ := run(t, f.endpoint, "explain", "7", "12")
	golden(t, "explain", table)
	_, text, _ := run(t, f.endpoint, "explain", "--json", "12")
	golden(t, "explain-json", text)
	f.fail = &api.Failure{Code: pipefill.CodeNotFound, Message: "fill job 8: there is none; pipefill-cli queue lists them"}
	status, _, errs := run(t, f.endpoint, "explain", "8")
	if golden(t, "explain-error", errs); status != 3 {
		t.Errorf("status %d", status)
	}
}
