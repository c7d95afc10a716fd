package controller

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill/api"
	"pipefill/controller/store"
)

// audits are the orders so far, without their times.
func (d *desk) audits(t *testing.T) []string {
	t.Helper()
	var entries []api.AuditEntry
	w := d.ask(0, "GET", "/v1/audit?start_ms=0&end_ms=9000000000000", "")
	if err := json.Unmarshal(w.Body.Bytes(), &entries); err != nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.Join([]string{e.User, e.Action, e.Target, e.Detail, e.Why, e.Result}, "|"))
	}
	return out
}

// Every order of an operator is written down with its reason and its result; a
// user's own business is not.
func TestAudit_EveryOperatorsOrder(t *testing.T) {
	d := newDesk(t)
	for _, c := range []struct {
		uid       uint32
		uri, body string
	}{
		{1000, "/v1/jobs/100/hold", `{}`},
		{1002, "/v1/jobs/100/release", `{"why": "asked by phone"}`},
		{1002, "/v1/jobs/101/priority", `{"priority": 7}`},
		{1002, "/v1/jobs/101/priority", `{"priority": 7000000}`},
		{0, "/v1/jobs/101/cancel", ``},
		{1002, "/v1/drain", `{"kind": "account", "names": ["physics"], "why": "spent"}`},
		{1002, "/v1/drain", `{"kind": "node", "names": ["n9"], "why": "x"}`},
		{1000, "/v1/drain", `{"kind": "site", "why": "mine"}`},
		{0, "/v1/resume", `{"kind": "account", "names": ["physics"]}`},
		{0, "/v1/resume", `{"kind": "account", "names": ["physics"]}`},
	} {
		d.ask(c.uid, "POST", c.uri, c.body)
	}
	want := []string{
		"oper|release|job 100 of ann||asked by phone|ok", "oper|priority|job 101 of bob|7||ok", "root|cancel|job 101 of bob|||ok",
		"oper|drain|account physics||spent|ok", "root|resume|account physics|||ok",
		"root|resume|account physics|||conflict: account physics: not drained; pipefill-cli drain lists what is",
	}
	if diff := cmp.Diff(want, d.audits(t)); diff != "" {
		t.Error(diff)
	}
	if w := d.ask(1000, "GET", "/v1/audit?start_ms=0&end_ms=9", ""); w.Code != 403 {
		t.Errorf("ann reads the audit log: %d", w.Code)
	}
	d.world.store.OnWrite = func(doing string, _ bool) error {
		if doing == "audit" {
			return errKilled
		}
		return nil
	}
	if w := d.ask(1002, "POST", "/v1/jobs/100/hold", "{}"); w.Code != 500 {
		t.Errorf("what cannot be written down: %d %s", w.Code, w.Body)
	}
	if j, err := d.world.store.JobByID(t.Context(), "test", 100); err != nil || j.UserHeld {
		t.Errorf("it was done all the same: %+v, %v", j, err)
	}
}

func TestDrain_MistakesAreNamed(t *testing.T) {
	d := newDesk(t)
	d.world.second() // the nodes are heard
	for body, want := range map[string]string{
		`{"kind": "rack", "names": ["r1"], "why": "x"}`:               "write one of site, node, account",
		`{"kind": "site", "names": ["a"], "why": "x"}`:                "takes no names",
		`{"kind": "node", "why": "x"}`:                                "name at least one",
		`{"kind": "account", "names": ["a b"], "why": "x"}`:           "write an account's name",
		`{"kind": "node", "names": ["n0", "n9"], "why": "x"}`:         "node n9: neither Slurm nor pipefill knows it",
		`{"kind": "node", "names": ["n[0-"], "why": "x"}`:             "n[0-",
		`{"kind": "site", "why": " "}`:                                "say why",
		`{"kind": "site", "why": "a\nb"}`:                             "write one line",
		`{"kind": "site", "why": "` + strings.Repeat("x", 201) + `"}`: "at most 200 bytes",
	} {
		w := d.ask(0, "POST", "/v1/drain", body)
		if w.Code == 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %q", body, w.Code, w.Body, want)
		}
	}
	if drains, err := d.world.store.Drains(t.Context()); err != nil || len(drains) != 0 {
		t.Errorf("drained %v, %v", drains, err)
	}
}

// A drain keeps jobs from starting, says why, and with evict empties devices;
// after it all goes on.
func TestDrain_AndResume(t *testing.T) {
	for kind, body := range map[string]string{
		"site": `{"kind": "site", "why": "power", "evict": %t}`, "node": `{"kind": "node", "names": ["n[0-1]"], "why": "power", "evict": %t}`,
		"account": `{"kind": "account", "names": ["physics"], "why": "power", "evict": %t}`,
	} {
		t.Run(kind, func(t *testing.T) {
			d := newDesk(t)
			w := d.world
			for _, j := range w.jobs {
				j.Account, j.workS, j.once, j.Requeue = "physics", 30, false, true
			}
			for range 8 {
				w.second()
			}
			running := func() (n int) {
				for _, j := range w.jobs {
					if j.Running() {
						n++
					}
				}
				return n
			}
			if running() != 2 {
				t.Fatalf("%d run before the drain", running())
			}
			if a := d.ask(1002, "POST", "/v1/drain", fmt.Sprintf(body, false)); a.Code != 200 {
				t.Fatal(a.Body)
			}
			for range 8 {
				w.second()
			}
			if running() != 2 {
				t.Errorf("a drain without evict left %d running", running())
			}
			d.ask(1002, "POST", "/v1/drain", fmt.Sprintf(body, true))
			w.boot() // what is drained survives the controller
			d.controller = w.ctl
			w.ctl.cfg.Operators = []string{"oper"}
			for range 20 {
				w.second()
			}
			rows, err := w.ctl.Queue(t.Context(), "")
			if err != nil || running() != 0 {
				t.Fatalf("%d run, %v", running(), err)
			}
			for _, r := range rows {
				if r.State != "queued" || !strings.Contains(r.Reason, "is drained by oper: power") {
					t.Errorf("job %d is %s: %q", r.JobID, r.State, r.Reason)
				}
			}
			if a := d.ask(1002, "POST", "/v1/resume", strings.ReplaceAll(fmt.Sprintf(body, false), `, "why": "power", "evict": false`, "")); a.Code != 200 {
				t.Fatal(a.Body)
			}
			w.settle()
			w.check()
		})
	}
}

// An archive loads into an empty database as it was, twice into the same
// changes nothing, and into another's is refused whole.
func TestArchive_RoundTrip(t *testing.T) {
	d := newDesk(t)
	d.world.settle()
	d.ask(0, "POST", "/v1/drain", `{"kind": "site", "why": "x"}`)
	dump := func(s *desk) (rows []string) {
		t.Helper()
		w := s.ask(0, "GET", "/v1/archive?before_ms=9000000000000", "")
		lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
		var end api.ArchiveEnd
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil || end.Rows != int64(len(lines)-2) || w.Code != 200 {
			t.Fatalf("%d rows, the last line %s, %v", len(lines)-2, lines[len(lines)-1], err)
		}
		sum := sha256.Sum256([]byte(strings.Join(lines[:len(lines)-1], "\n") + "\n"))
		if end.SHA256 != hex.EncodeToString(sum[:]) {
			t.Error("the sum of the archive is another")
		}
		return lines[1 : len(lines)-1]
	}
	rows := dump(d)
	for _, table := range []string{"fill_job", "assignment", "usage", "main_total", "rollup", "audit"} {
		if !strings.Contains(strings.Join(rows, "\n"), `{"table":"`+table+`"`) {
			t.Errorf("the archive has no %s", table)
		}
	}
	body := "[" + strings.Join(rows, ",") + "]"
	report := func(s *desk) string {
		return s.ask(0, "GET", "/v1/report/user?start_ms=0&end_ms=9000000000000", "").Body.String()
	}
	if w := d.ask(0, "POST", "/v1/archive", body); w.Code != 200 || w.Body.String() != `{"loaded":0}` {
		t.Errorf("into itself: %d %s", w.Code, w.Body)
	}
	empty := emptyDesk(t, d)
	if w := empty.ask(0, "POST", "/v1/archive", body); w.Code != 200 || w.Body.String() != fmt.Sprintf(`{"loaded":%d}`, len(rows)) {
		t.Fatalf("into an empty one: %d %s", w.Code, w.Body)
	}
	again := dump(empty)
	for i, row := range rows {
		// An entry of the audit log has a new number, behind that of the load itself.
		if number := strings.NewReplacer(`"id":1,`, `"id":2,`); strings.Contains(row, `"table":"audit"`) {
			row, again[i] = number.Replace(row), again[i+1]
		}
		if row != again[i] {
			t.Errorf("dumped, loaded and dumped again:\n%s\n%s", row, again[i])
		}
	}
	if report(d) != report(empty) || !strings.Contains(report(d), `"completed":1`) {
		t.Errorf("reports differ:\n%s\n%s", report(d), report(empty))
	}
	for name, c := range map[string]struct{ body, says string }{
		"another's job":      {strings.ReplaceAll(body, `"uid":1000`, `"uid":1005`), "is of another database"},
		"an unknown table":   {`[{"table": "sqlite_master", "row": {"name": "x"}}]`, "there is no table"},
		"an unknown column":  {`[{"table": "audit", "row": {"id": 1, "x) --": 2}}]`, "of a newer release"},
		"what is no value":   {`[{"table": "audit", "row": {"id": [1]}}]`, "neither a number nor a text"},
		"what breaks a rule": {`[{"table": "rollup", "row": {"kind": "moon", "grain": "day", "start_ms": 1, "key": "x"}}]`, "a row of rollup"},
		"no columns":         {`[{"table": "audit", "row": {}}]`, "without a column"},
		"no rows":            {`{}`, "not understood"},
	} {
		before := report(d)
		if w := d.ask(0, "POST", "/v1/archive", c.body); w.Code == 200 || !strings.Contains(w.Body.String(), c.says) || report(d) != before {
			t.Errorf("%s: %d %s, want %q", name, w.Code, w.Body, c.says)
		}
	}
	for _, method := range []string{"GET", "POST"} {
		if w := d.ask(1000, method, "/v1/archive?before_ms=1", "[]"); w.Code != 403 {
			t.Errorf("ann: %s: %d", method, w.Code)
		}
	}
}

// emptyDesk is the same site with a database of its own.
func emptyDesk(t *testing.T, d *desk) *desk {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(t.Context(), t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	s := NewServer(New(d.world.ctl.cfg, st, d.world, log, d.world.ctl.now), fakeMunge{}, log)
	s.lookup = d.lookup
	return &desk{s, d.world}
}

// Comments follow what runs and what ran, again after a failure, and never
// while something else is being done about the job.
func TestAnnotate_WhereJobsRunAndRan(t *testing.T) {
	w := newWorld(t, 3, 2)
	w.ctl.cfg.JobComment = "admin_comment"
	written := map[int64]string{}
	for range 8 {
		w.second()
	}
	w.slurmFails = 1
	if err := w.ctl.annotate(t.Context(), written); err != nil {
		t.Fatal(err)
	}
	w.slurmFails = 0
	w.ctl.dispatcher.flying[101] = true
	for range 2 {
		if err := w.ctl.annotate(t.Context(), written); err != nil {
			t.Fatal(err)
		}
	}
	j := w.jobs[100]
	if want := fmt.Sprintf("%s/cpu:0,beside:%d", j.Nodes, w.nodes[j.Nodes].main.Job.JobID); j.AdminComment != want || w.jobs[101].AdminComment != "" {
		t.Errorf("running: %q, want %q; and of one that is being acted on %q", j.AdminComment, want, w.jobs[101].AdminComment)
	}
	delete(w.ctl.dispatcher.flying, 101)
	w.settle()
	w.nowS += 11
	if err := w.ctl.annotate(t.Context(), written); err != nil {
		t.Fatal(err)
	}
	for id, j := range w.jobs {
		row, err := w.store.JobByID(t.Context(), "test", id)
		if want := fmt.Sprintf(",used:%.1fs,attempts:%d,%s", float64(row.DeviceMs)/1e3, row.Attempts, row.Outcome); err != nil || !strings.HasSuffix(j.AdminComment, want) {
			t.Errorf("job %d: %q, want ...%q, %v", id, j.AdminComment, want, err)
		}
	}
	w.nowS += 600
	if err := w.ctl.annotate(t.Context(), written); err != nil || len(written) != 0 {
		t.Errorf("%d are remembered for ever, %v", len(written), err)
	}
}
