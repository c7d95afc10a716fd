package slurm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipefill"
)

// fake is a slurmrestd and a scontrol that keep jobs, and can fail any call.
type fake struct {
	t       *testing.T
	version string
	jobs    []map[string]any
	fail    func(r *http.Request) (status int, body string) // nil: none

	mu       sync.Mutex
	requests []string

	dir string
}

const goodToken = "e30.eyJzdW4iOiJyb290In0.c2ln" // {"sun":"root"}

func newFake(t *testing.T, version string, jobs ...map[string]any) (*fake, *Client) {
	t.Helper()
	f := &fake{t: t, version: version, jobs: jobs, dir: t.TempDir()}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.write("token", goodToken, 0o600)
	f.write("scontrol", "#!/bin/sh\ncd \""+f.dir+"\"\necho \"$*\" >>calls\n[ ! -e said ] || { cat said; exit 1; }\n", 0o755)
	f.write("sacctmgr", "#!/bin/sh\ncd \""+f.dir+"\"\necho \"sacctmgr $*\" >>calls\n[ ! -e said ] || { cat said; exit 1; }\n", 0o755)
	c, err := New(Config{Endpoint: server.URL, TokenFile: filepath.Join(f.dir, "token"), Scontrol: filepath.Join(f.dir, "scontrol"), Sacctmgr: filepath.Join(f.dir, "sacctmgr")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

func (f *fake) write(name, text string, mode os.FileMode) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), mode); err != nil {
		f.t.Fatal(err)
	}
}

// calls are scontrol's arguments, a line a call.
func (f *fake) calls() []string {
	text, err := os.ReadFile(filepath.Join(f.dir, "calls"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	rest, ok := strings.CutPrefix(r.URL.Path, "/slurm/"+f.version+"/")
	if !ok {
		http.Error(w, "Unable find requested URL.", http.StatusNotFound)
		return
	}
	if f.fail != nil {
		if status, body := f.fail(r); status != 0 {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
			return
		}
	}
	if r.Header.Get("X-SLURM-USER-TOKEN") != goodToken || r.Header.Get("X-SLURM-USER-NAME") != "root" {
		http.Error(w, "Authentication failure", http.StatusUnauthorized)
		return
	}
	answer := map[string]any{"meta": map[string]any{}, "errors": []any{}, "jobs": f.jobs}
	if id, ok := strings.CutPrefix(rest, "job/"); ok && r.Method == http.MethodGet {
		found := []map[string]any{}
		for _, j := range f.jobs {
			if fmt.Sprint(j["job_id"]) == id || fmt.Sprint(j["array_job_id"]) == id {
				found = append(found, j)
			}
		}
		if answer["jobs"] = found; len(found) == 0 {
			w.WriteHeader(http.StatusInternalServerError)
			answer["errors"] = []any{map[string]any{"error_number": 2017, "error": "Invalid job id specified"}}
		}
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		f.t.Error(err)
	}
}

func job(id int, state string, more ...any) map[string]any {
	j := map[string]any{"job_id": id, "job_state": state, "partition": "pipefill", "priority": 0, "batch_flag": true, "requeue": true, "node_count": 1}
	for i := 0; i+1 < len(more); i += 2 {
		j[fmt.Sprint(more[i])] = more[i+1]
	}
	return j
}

func TestClient_NegotiatesNewestFirstAndOnce(t *testing.T) {
	f, c := newFake(t, "v0.0.38", job(1, "PENDING"))
	for range 2 {
		if _, err := c.List(t.Context(), []string{"pipefill"}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"GET /slurm/v0.0.42/ping", "GET /slurm/v0.0.41/ping", "GET /slurm/v0.0.40/ping", "GET /slurm/v0.0.39/ping",
		"GET /slurm/v0.0.38/ping", "GET /slurm/v0.0.38/jobs", "GET /slurm/v0.0.38/jobs",
	}
	if diff := cmp.Diff(want, f.requests); diff != "" {
		t.Error(diff)
	}
	f.version = "v0.0.40" // slurmrestd was upgraded
	if _, err := c.List(t.Context(), nil, time.Time{}); err == nil {
		t.Error("the old version still answers")
	}
	if _, err := c.List(t.Context(), nil, time.Time{}); err != nil {
		t.Errorf("after the upgrade: %v", err)
	}
}

func TestClient_NoCommonVersion(t *testing.T) {
	_, c := newFake(t, "v0.0.99")
	if _, err := c.Ping(t.Context()); pipefill.ErrorCode(err) != pipefill.CodeUnavailable || !strings.Contains(err.Error(), "v0.0.36 to v0.0.42") {
		t.Errorf("got %v", err)
	}
}

func TestClient_ErrorsOfEveryForm(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		code   pipefill.Code
	}{
		"refused with status 200":       {200, `{"errors":[{"error_number":2002,"error":"Access/permission denied"}],"jobs":[]}`, pipefill.CodeDenied},
		"refused with status 500":       {500, `{"errors":[{"error_number":2056,"error":"Job is no longer pending execution"}]}`, pipefill.CodeConflict},
		"unknown job":                   {500, `{"errors":[{"error_number":2017,"error":"Invalid job id specified"}],"jobs":[]}`, pipefill.CodeNotFound},
		"bad token on 22.05":            {500, `{"errors":[{"error_number":-1,"error":"Unspecified error","description":"slurmctld config is unable to load"}]}`, pipefill.CodeUnavailable},
		"no token":                      {401, `Authentication failure`, pipefill.CodeUnavailable},
		"not JSON":                      {200, `<html>`, pipefill.CodeUnavailable},
		"cut short":                     {200, `{"errors":[],"jobs":[{"job_id":1},`, pipefill.CodeUnavailable},
		"no list at all":                {200, `{"errors":[]}`, pipefill.CodeUnavailable},
		"error that is a text":          {200, `{"errors":["oops"],"jobs":[]}`, pipefill.CodeUnavailable},
		"jobs beside a failing status":  {500, `{"errors":[],"jobs":[{"job_id":1}]}`, pipefill.CodeUnavailable},
		"errors after the jobs":         {200, `{"jobs":[{"job_id":1}],"errors":[{"error":"late"}]}`, pipefill.CodeUnavailable},
		"a job of the wrong form":       {200, `{"errors":[],"jobs":[7]}`, pipefill.CodeUnavailable},
		"a redirect to somewhere else":  {302, ``, pipefill.CodeUnavailable},
		"an answer that is no document": {200, ``, pipefill.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			f, client := newFake(t, "v0.0.38")
			f.fail = func(r *http.Request) (int, string) {
				if strings.HasSuffix(r.URL.Path, "/ping") {
					return 0, ""
				}
				return c.status, c.body
			}
			l, err := client.List(t.Context(), nil, time.Time{})
			if pipefill.ErrorCode(err) != c.code {
				t.Errorf("code %q of %v, want %q (%d jobs)", pipefill.ErrorCode(err), err, c.code, len(l.Jobs))
			}
		})
	}
}

func TestClient_NobodyListens(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/token", []byte(goodToken), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Endpoint: "unix:" + dir + "/none.sock", TokenFile: dir + "/token"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Nodes(t.Context()); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{Endpoint: "ftp://x"}, nil); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
		t.Errorf("got %v", err)
	}
}

func TestToken_RefusesWhatOthersMayRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	check := func(text string, mode os.FileMode, want pipefill.Code) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		user, _, err := readToken(path)
		if pipefill.ErrorCode(err) != want || want == "" && user != "root" {
			t.Errorf("%q, mode %o: user %q, %v, want %q", text, mode, user, err, want)
		}
	}
	check("SLURM_JWT="+goodToken+"\n", 0o600, "")
	check(goodToken, 0o640, pipefill.CodeDenied)
	check(goodToken, 0o604, pipefill.CodeDenied)
	check("", 0o600, pipefill.CodeInvalid)
	check("a.b.c", 0o600, pipefill.CodeInvalid)
	check("e30."+base64.RawURLEncoding.EncodeToString([]byte(`{"sun":""}`))+".x", 0o600, pipefill.CodeInvalid)
	if err := os.Symlink(path, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readToken(dir + "/link"); err == nil {
		t.Error("a symbolic link was followed")
	}
	if _, _, err := readToken(dir + "/none"); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("missing file: %v", err)
	}
}

func TestClient_SplitsArraysAndHoldsTheReleased(t *testing.T) {
	f, c := newFake(t, "v0.0.38",
		job(7, "PENDING", "array_job_id", 7, "array_task_string", "2-9%3", "array_max_tasks", 3),
		job(8, "PENDING", "array_job_id", 7, "array_task_id", 1),
		job(9, "PENDING", "array_job_id", 9, "array_task_string", "0-1", "priority", 5),
		job(10, "PENDING", "array_job_id", 10, "array_task_string", "0-1", "partition", "main"))
	l, err := c.List(t.Context(), []string{"pipefill"}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Jobs) != 1 || l.Jobs[0].ID != 8 || len(l.Arrays) != 2 || len(l.Arrays[0].Tasks) != 8 || l.Arrays[0].ArrayMax != 3 {
		t.Errorf("%+v, want the split task and two arrays", l)
	}
	for i, count := range []int{3, 9} {
		if err := c.Split(t.Context(), l.Arrays[i], count); err != nil {
			t.Error(err)
		}
	}
	want := []string{"update JobId=7_2,7_3,7_4 Priority=0", "update JobId=9 Priority=0", "update JobId=9_0,9_1 Priority=0"}
	if diff := cmp.Diff(want, f.calls()); diff != "" {
		t.Error(diff)
	}
	if err := c.Hold(t.Context(), 7); pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Errorf("holding a record of several tasks: %v", err)
	}
	if err := c.PinRelease(t.Context(), 7, "n0"); pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Errorf("releasing a record of several tasks: %v", err)
	}
}

func TestClient_PinReleaseKeepsTheUsersOwnNodes(t *testing.T) {
	f, c := newFake(t, "v0.0.38", job(5, "PENDING", "required_nodes", "n[0-1]", "admin_comment", "ticket pipefill:gpus=gres:gpu:1"))
	if err := c.PinRelease(t.Context(), 5, "n1"); err != nil {
		t.Fatal(err)
	}
	note := "AdminComment=ticket pipefill:gpus=gres:gpu:1;pin=n1;req=n[0-1]"
	want := []string{"update JobId=5 ReqNodeList=n1 " + note, "release 5"}
	if diff := cmp.Diff(want, f.calls()); diff != "" {
		t.Error(diff)
	}
	f.jobs[0]["required_nodes"], f.jobs[0]["admin_comment"] = "n1", strings.TrimPrefix(note, "AdminComment=")
	j, err := c.Job(t.Context(), 5)
	if err != nil || j.RequestedNodes != "n[0-1]" || j.PinnedNode != "n1" || j.RequestedGPUs != "gres:gpu:1" {
		t.Errorf("%+v %v", j, err)
	}
	if err := c.Hold(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	want = append(want, "update JobId=5 ReqNodeList=n[0-1] Priority=0 AdminComment=ticket pipefill:gpus=gres:gpu:1")
	if diff := cmp.Diff(want, f.calls()); diff != "" {
		t.Error(diff)
	}
}

func TestClient_PinReleaseRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		job  map[string]any
		node string
		code pipefill.Code
	}{
		"running elsewhere":    {job(5, "RUNNING", "nodes", "n0"), "n1", pipefill.CodeConflict},
		"running there":        {job(5, "RUNNING", "nodes", "n1"), "n1", ""},
		"excluded by the user": {job(5, "PENDING", "excluded_nodes", "n[1-2]"), "n1", pipefill.CodeConflict},
		"asked for elsewhere":  {job(5, "PENDING", "required_nodes", "n0"), "n1", pipefill.CodeConflict},
		"heterogeneous":        {job(5, "PENDING", "het_job_id", 5), "n1", pipefill.CodeConflict},
		"interactive":          {job(5, "PENDING", "batch_flag", false), "n1", pipefill.CodeConflict},
		"two nodes":            {job(5, "PENDING", "node_count", 2), "n1", pipefill.CodeConflict},
		"a list of nodes":      {job(5, "PENDING"), "n0,n1", pipefill.CodeInvalid},
		"another setting":      {job(5, "PENDING"), "n0 Priority=1", pipefill.CodeInvalid},
		"an empty name":        {job(5, "PENDING"), "", pipefill.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			f, client := newFake(t, "v0.0.38", c.job)
			if err := client.PinRelease(t.Context(), 5, c.node); pipefill.ErrorCode(err) != c.code {
				t.Errorf("got %v, want code %q", err, c.code)
			}
			if calls := f.calls(); len(calls) != 0 {
				t.Errorf("scontrol was called: %q", calls)
			}
		})
	}
}

func TestClient_PinReleaseAfterARequeueStartsNow(t *testing.T) {
	f, c := newFake(t, "v0.0.38", job(5, "PENDING", "restart_cnt", 1, "array_job_id", 5, "array_task_id", 3))
	if err := c.PinRelease(t.Context(), 5, "n1"); err != nil {
		t.Fatal(err)
	}
	want := []string{"update JobId=5_3 ReqNodeList=n1 AdminComment=pipefill:pin=n1 StartTime=now", "release 5_3"}
	if diff := cmp.Diff(want, f.calls()); diff != "" {
		t.Error(diff)
	}
}

// As scontrol of 22.05.8 says it; test/slurm asks a real one.
func TestClient_Down(t *testing.T) {
	const restore = "*****************************************\n** RESTORE SLURMCTLD DAEMON TO SERVICE **\n*****************************************\n"
	for said, want := range map[string]bool{
		"Slurmctld(primary) at vm is DOWN\n" + restore:                                                                                   true,
		"Slurmctld(primary) at a is DOWN\nSlurmctld(backup1) at b is DOWN\n" + restore:                                                   true,
		"Slurmctld(primary) at a is DOWN\nSlurmctld(backup1) at b is UP\n":                                                               false,
		"Slurmctld(primary) at vm is UP\n":                                                                                               false,
		"scontrol: error: slurm_send_node_msg: auth_g_create: REQUEST_PING has authentication error\nSlurmctld(primary) at vm is DOWN\n": false,
		"": false,
	} {
		f, c := newFake(t, "v0.0.38")
		f.write("said", said, 0o600)
		if got := c.Down(t.Context()); got != want {
			t.Errorf("%q: down %v", said, got)
		}
		if calls := f.calls(); len(calls) != 1 || calls[0] != "ping" {
			t.Errorf("calls %q", calls)
		}
	}
}

func TestClient_ScontrolFailures(t *testing.T) {
	for said, code := range map[string]pipefill.Code{
		"Invalid job id specified for job 5":                      pipefill.CodeNotFound,
		"Access/permission denied for job 5":                      pipefill.CodeDenied,
		"Job/step already completing or completed":                pipefill.CodeConflict,
		"Invalid node name specified for job 5":                   pipefill.CodeInvalid,
		"Unable to contact slurm controller (connect failure)":    pipefill.CodeUnavailable,
		"Requested operation is presently disabled for job 12345": pipefill.CodeConflict,
	} {
		f, c := newFake(t, "v0.0.38", job(5, "PENDING"))
		f.write("said", said, 0o600)
		if err := c.PinRelease(t.Context(), 5, "n1"); pipefill.ErrorCode(err) != code {
			t.Errorf("%s: %v, want %s", said, err, code)
		}
		if calls := f.calls(); len(calls) != 1 {
			t.Errorf("after a failed pin the job must not be released: %q", calls)
		}
	}
}

func TestClient_RequeueHold(t *testing.T) {
	for name, c := range map[string]struct {
		job  map[string]any
		want []string
		code pipefill.Code
	}{
		"running and pinned":  {job(5, "RUNNING", "admin_comment", "pipefill:pin=n0"), []string{"requeuehold 5", "update JobId=5 ReqNodeList= Priority=0 AdminComment="}, ""},
		"no-requeue":          {job(5, "RUNNING", "requeue", false), []string{"update JobId=5 Requeue=1", "requeuehold 5"}, ""},
		"pending, held":       {job(5, "PENDING"), nil, ""},
		"ended":               {job(5, "FAILED"), []string{"requeuehold 5"}, ""},
		"completed meanwhile": {job(5, "COMPLETED"), nil, ""},
		"interactive":         {job(5, "RUNNING", "batch_flag", false), nil, pipefill.CodeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			f, client := newFake(t, "v0.0.38", c.job)
			if err := client.RequeueHold(t.Context(), 5); pipefill.ErrorCode(err) != c.code {
				t.Errorf("got %v, want code %q", err, c.code)
			}
			if diff := cmp.Diff(c.want, f.calls()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestClient_RequeueHoldOfAJobThatStarts: between the look and the hold the job
// has started, and Slurm's refusal of the hold speaks of something else.
func TestClient_RequeueHoldOfAJobThatStarts(t *testing.T) {
	for name, pinned := range map[string]string{"pinned": "pipefill:pin=n0", "not pinned": ""} {
		t.Run(name, func(t *testing.T) {
			f, c := newFake(t, "v0.0.38", job(5, "PENDING", "priority", 9, "admin_comment", pinned))
			looks := 0
			f.fail = func(r *http.Request) (int, string) {
				if r.Method == http.MethodPost {
					return http.StatusInternalServerError, `{"errors":[{"error_number":2021,"error":"Invalid node name specified"}]}`
				}
				if looks++; looks == 2 {
					f.jobs[0]["job_state"] = "RUNNING"
				}
				return 0, ""
			}
			f.write("scontrol", "#!/bin/sh\ncd \""+f.dir+"\"\necho \"$*\" >>calls\ncase $* in *Priority=0*) echo Invalid node name specified; exit 1;; esac\n", 0o755)
			if err := c.RequeueHold(t.Context(), 5); err != nil {
				t.Error(err)
			}
			if calls := f.calls(); !slices.Contains(calls, "requeuehold 5") {
				t.Errorf("calls %q", calls)
			}
		})
	}
}

// Of a job that has started on the node that its user asked for Slurm takes the
// hold, too, and it runs on.
func TestClient_HoldOfAJobThatStartsWhereItsUserWantedIt(t *testing.T) {
	f, c := newFake(t, "v0.0.38", job(5, "PENDING", "priority", 9, "admin_comment", "pipefill:pin=n0"))
	looks := 0
	f.fail = func(*http.Request) (int, string) {
		if looks++; looks == 3 {
			f.jobs[0]["job_state"] = "RUNNING"
		}
		return 0, ""
	}
	if err := c.Hold(t.Context(), 5); pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Errorf("held what runs: %v", err)
	}
	if err := c.RequeueHold(t.Context(), 5); err != nil || !slices.Contains(f.calls(), "requeuehold 5") {
		t.Errorf("%v, calls %q", err, f.calls())
	}
}

func TestClient_HoldRereadsWhatAnArrayTaskSays(t *testing.T) {
	for _, worked := range []bool{true, false} {
		f, c := newFake(t, "v0.0.38", job(8, "PENDING", "array_job_id", 7, "array_task_id", 1, "priority", 9))
		f.fail = func(r *http.Request) (int, string) {
			if r.Method != http.MethodPost {
				return 0, ""
			}
			if r.URL.Path != "/slurm/v0.0.38/job/7_1" {
				t.Errorf("posted to %s", r.URL.Path)
			}
			if worked {
				f.jobs[0]["priority"] = 0
			}
			return 200, `{"errors":[{"description":"job array update failed","source":"_parse_job_list"}]}`
		}
		if err := c.Hold(t.Context(), 8); (err == nil) != worked {
			t.Errorf("worked %t: %v", worked, err)
		}
	}
}

func TestClient_CancelIsRepeatable(t *testing.T) {
	f, c := newFake(t, "v0.0.38", job(5, "RUNNING"), job(6, "COMPLETED"))
	for _, id := range []int64{5, 6, 77} {
		if err := c.Cancel(t.Context(), id); err != nil {
			t.Errorf("cancel %d: %v", id, err)
		}
	}
	deleted := 0
	for _, r := range f.requests {
		if strings.HasPrefix(r, "DELETE") {
			deleted++
		}
	}
	if deleted != 1 {
		t.Errorf("%d DELETEs, want one: %q", deleted, f.requests)
	}
}

func TestClient_SetTimeLimitSpeaksTheVersionsNumbers(t *testing.T) {
	for version, want := range map[string]string{"v0.0.38": `{"time_limit":30}`, "v0.0.42": `{"time_limit":{"infinite":false,"number":30,"set":true}}`} {
		f, c := newFake(t, version, job(5, "RUNNING", "time_limit", 10))
		got := ""
		f.fail = func(r *http.Request) (int, string) {
			if r.Method == http.MethodPost {
				var body json.RawMessage
				_ = json.NewDecoder(r.Body).Decode(&body)
				got = string(body)
			}
			return 0, ""
		}
		if err := c.SetTimeLimit(t.Context(), 5, 30); err != nil || got != want {
			t.Errorf("%s: %v, body %s, want %s", version, err, got, want)
		}
	}
	_, c := newFake(t, "v0.0.38")
	if err := c.SetTimeLimit(t.Context(), 5, 0); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
		t.Errorf("no limit: %v", err)
	}
}

func TestClient_MainLeavesOutFillAndHeld(t *testing.T) {
	_, c := newFake(t, "v0.0.38", job(1, "PENDING", "partition", "main", "priority", 3), job(2, "PENDING", "partition", "main"),
		job(3, "RUNNING", "partition", "main", "priority", 3), job(4, "PENDING", "partition", "main,pipefill", "priority", 3),
		job(5, "PENDING", "partition", "main", "priority", 3, "array_job_id", 5, "array_task_string", "1-2"))
	l, err := c.List(t.Context(), []string{"pipefill"}, time.Time{})
	if err != nil || len(l.Main) != 2 || l.Main[0].ID != 1 || l.Main[1].ID != 5 {
		t.Errorf("%+v %v", l, err)
	}
}

func TestClient_ListAsksForChangesFirst(t *testing.T) {
	f, c := newFake(t, "v0.0.38", job(1, "PENDING"))
	asked := ""
	f.fail = func(r *http.Request) (int, string) {
		if asked = r.URL.Query().Get("update_time"); asked == "998" {
			return http.StatusNotModified, ""
		}
		return 0, ""
	}
	l, err := c.List(t.Context(), nil, time.Unix(1000, 5))
	if err != nil || !l.Same || len(l.Jobs) != 0 || asked != "998" {
		t.Errorf("nothing new: %+v, %v, asked for %q", l, err, asked)
	}
	l, err = c.List(t.Context(), nil, time.Unix(1001, 0))
	if err != nil || l.Same || len(l.Jobs) != 1 {
		t.Errorf("something new: %+v, %v", l, err)
	}
	f.fail = func(*http.Request) (int, string) { return http.StatusNotModified, "" }
	if _, err := c.List(t.Context(), nil, time.Time{}); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("all was asked for, and %v", err)
	}
}

func TestClient_States(t *testing.T) {
	text, err := os.ReadFile("testdata/slurm-24.11.5/jobs-state.v0042.json")
	if err != nil {
		t.Fatal(err)
	}
	f, c := newFake(t, "v0.0.42")
	f.fail = func(r *http.Request) (int, string) {
		if strings.HasSuffix(r.URL.Path, "/jobs/state/") {
			return 200, string(text)
		}
		return 0, ""
	}
	states, ok, err := c.States(t.Context())
	if err != nil || !ok || len(states) != 12 || states["8"] != "RUNNING" || states["9_3"] != "PENDING" {
		t.Errorf("%v %t %v", states, ok, err)
	}
	for name, want := range map[string]int64{"8": 8, "9_3": 9, "": 0, "x": 0, "-1": 0} {
		if id, ok := NumberOf(name); ok != (want != 0) || ok && id != want {
			t.Errorf("%q is of job %d, %t", name, id, ok)
		}
	}
	_, old := newFake(t, "v0.0.38")
	if _, ok, err := old.States(t.Context()); ok || err != nil {
		t.Errorf("22.05 has no such list: %t %v", ok, err)
	}
}

func TestClient_Partitions(t *testing.T) {
	for version, file := range map[string]string{"v0.0.38": "slurm-22.05.8/partitions.v0038.json", "v0.0.42": "slurm-24.11.5/partitions.v0042.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		f, c := newFake(t, version)
		f.fail = func(r *http.Request) (int, string) {
			if strings.HasSuffix(r.URL.Path, "/partitions") {
				return 200, string(text)
			}
			return 0, ""
		}
		all, err := c.Partitions(t.Context())
		if err != nil || len(all) != 2 || !all[0].Up || all[0].Name == "" {
			t.Errorf("%s: %+v %v", version, all, err)
		}
	}
}

// Annotate writes a word of ours, and leaves alone what users and the site wrote.
func TestAnnotate(t *testing.T) {
	const finished = "Job has already finished for job 1\n"
	for name, c := range map[string]struct {
		job   map[string]any
		field Field
		said  string // by scontrol, which then fails
		want  []string
		code  pipefill.Code
	}{
		"the administrator's": {
			job(1, "RUNNING", "admin_comment", "rack 7 pipefill:opts=mem=4GiB;pin=n0"), FieldAdminComment, "",
			[]string{"update JobId=1 AdminComment=rack 7 pipefill:opts=mem%3D4GiB;pin=n0;ran=n0/cpu:0,beside:42"},
			"",
		},
		"the user's":           {job(1, "RUNNING"), FieldComment, "", []string{"update JobId=1 Comment=pipefill:ran=n0/cpu:0,beside:42"}, ""},
		"a user wrote there":   {job(1, "RUNNING", "comment", "mine"), FieldComment, "", nil, ""},
		"we wrote there":       {job(1, "RUNNING", "comment", "pipefill:ran=n1"), FieldComment, "", []string{"update JobId=1 Comment=pipefill:ran=n0/cpu:0,beside:42"}, ""},
		"it stands there":      {job(1, "RUNNING", "comment", "pipefill:ran=n0/cpu:0,beside:42"), FieldComment, "", nil, ""},
		"it stands there, adm": {job(1, "RUNNING", "admin_comment", "pipefill:ran=n0/cpu:0,beside:42"), FieldAdminComment, "", nil, ""},
		"a task of an array":   {job(1, "RUNNING", "array_job_id", 9, "array_task_id", 3), FieldComment, "", []string{"update JobId=9_3 Comment=pipefill:ran=n0/cpu:0,beside:42"}, ""},
		"one that has ended": {job(1, "COMPLETED"), FieldComment, finished, []string{
			"update JobId=1 Comment=pipefill:ran=n0/cpu:0,beside:42",
			"sacctmgr --immediate --quiet modify job where jobid=1 set comment=pipefill:ran=n0/cpu:0,beside:42",
		}, pipefill.CodeConflict}, // the fake's sacctmgr says the same
		"Slurm is away": {job(1, "RUNNING"), FieldComment, "Unable to contact slurm controller\n", []string{"update JobId=1 Comment=pipefill:ran=n0/cpu:0,beside:42"}, pipefill.CodeUnavailable},
		"no comment":    {job(1, "RUNNING"), "name", "", nil, pipefill.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			f, client := newFake(t, "v0.0.38", c.job)
			if c.said != "" {
				f.write("said", c.said, 0o600)
			}
			err := client.Annotate(t.Context(), 1, c.field, "n0/cpu:0,beside:42")
			if pipefill.ErrorCode(err) != c.code {
				t.Errorf("%v", err)
			}
			if diff := cmp.Diff(c.want, f.calls()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
