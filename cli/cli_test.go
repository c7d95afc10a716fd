package cli_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/cli"
	"pipefill/controller/plan"
)

// fake is a controller that can fail every call.
type fake struct {
	endpoint string
	mu       sync.Mutex // a program in a process of its own asks when it likes
	fail     *api.Failure
	calls    []string
	answers  map[string]any
	raw      map[string]string // answers that are no JSON
}

func newFake(t *testing.T) *fake {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{endpoint: "unix:" + path, answers: map[string]any{}}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls = append(f.calls, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
		w.Header().Set(api.VersionHeader, api.Version)
		if f.fail != nil {
			w.WriteHeader(pipefill.HTTPStatus(f.fail.Code))
			_ = json.NewEncoder(w).Encode(f.fail)
			return
		}
		if text, ok := f.raw[r.URL.Path]; ok {
			_, _ = io.WriteString(w, text)
			return
		}
		_ = json.NewEncoder(w).Encode(f.answers[r.URL.Path])
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return f
}

// run runs a command line at noon of a fixed day.
func run(t *testing.T, endpoint string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return runAt(t, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), endpoint, args...)
}

func runAt(t *testing.T, now time.Time, endpoint string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	full := append([]string{"pipefill-cli", "--controller", endpoint}, args...)
	status = cli.Run(t.Context(), full, cli.Env{
		Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Now: func() time.Time { return now },
	})
	return status, out.String(), errs.String()
}

var jobs = []api.FillJob{
	{JobID: 7, Name: "heat", User: "ann", Partition: "pipefill", State: "running", DeviceMs: 65_000, LimitMs: 3_600_000, Attempts: 1, Node: "n0", Device: "cpu:0"},
	{JobID: 12, Name: "a|b\x1b[31m", User: "bob", Partition: "pipefill", State: "queued"},
}

func TestQueue(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/jobs"] = jobs
	_, table, _ := run(t, f.endpoint, "queue")
	want := `JOBID PARTITION NAME     USER STATE    DEVTIME     LIMIT TRIES NODE DEVICE REASON
    7 pipefill  heat     ann  RUNNING 00:01:05  01:00:00     1 n0   cpu:0
   12 pipefill  a|b?[31m bob  QUEUED  00:00:00 UNLIMITED     0
`
	if table != want {
		t.Errorf("table:\n%s\nwant:\n%s", table, want)
	}
	_, parsable, _ := run(t, f.endpoint, "queue", "-P", "-h", "-o", "jobid,name", "-t", "QUEUED")
	if parsable != "12|a/b?[31m\n" {
		t.Errorf("parsable %q", parsable)
	}
	_, text, _ := run(t, f.endpoint, "queue", "--json")
	var got []api.FillJob
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 2 || got[0].JobID != 7 {
		t.Errorf("json %v, %v", got, err)
	}
	run(t, f.endpoint, "queue", "-u", "ann")
	if last := f.calls[len(f.calls)-1]; last != "GET /v1/jobs?user=ann" {
		t.Errorf("asked %q", last)
	}
}

func TestActions(t *testing.T) {
	f := newFake(t)
	for _, args := range [][]string{{"hold", "7"}, {"release", "--why", "as agreed", "7"}, {"cancel", "7", "12"}, {"priority", "7", "-5"}} {
		if status, _, errs := run(t, f.endpoint, args...); status != 0 {
			t.Errorf("%v: status %d, %s", args, status, errs)
		}
	}
	want := `POST /v1/jobs/7/hold {}|POST /v1/jobs/7/release {"why":"as agreed"}|POST /v1/jobs/7/cancel {}|POST /v1/jobs/12/cancel {}|POST /v1/jobs/7/priority {"priority":-5}`
	if got := strings.Join(f.calls, "|"); got != want {
		t.Errorf("calls %s\nwant  %s", got, want)
	}
}

func TestExitStatus(t *testing.T) {
	f := newFake(t)
	for code, want := range map[pipefill.Code]int{
		pipefill.CodeInvalid: 2, pipefill.CodeNotFound: 3, pipefill.CodeConflict: 4, pipefill.CodeUnavailable: 5, pipefill.CodeDenied: 6, pipefill.CodeInternal: 1,
	} {
		f.fail = &api.Failure{Code: code, Message: "because"}
		if status, _, errs := run(t, f.endpoint, "hold", "7"); status != want || errs != "pipefill-cli: because\n" {
			t.Errorf("%s: status %d %q, want %d", code, status, errs, want)
		}
	}
	if status, _, _ := run(t, "unix:/nonexistent", "slots"); status != 5 {
		t.Errorf("no controller: status %d, want 5", status)
	}
}

func TestUsageMistakes(t *testing.T) {
	cases := []struct {
		args []string
		says string
	}{
		{[]string{"frobnicate"}, "is no command"},
		{[]string{"hold"}, "write the number of a fill job"},
		{[]string{"hold", "seven"}, `"seven" is no job number`},
		{[]string{"hold", "7", "--json"}, "--json comes too late"},
		{[]string{"queue", "--colour"}, "flag provided but not defined: -colour"},
		{[]string{"queue", "-o", "shoesize"}, `no column "shoesize"; there are jobid,`},
		{[]string{"queue", "7"}, "takes no argument"},
		{[]string{"priority", "7"}, "write a job number and a priority"},
		{[]string{"report", "weather"}, "write one of cluster, user, account, job, main, node"},
		{[]string{"report", "user", "start=whenever"}, `"whenever" is no time`},
		{[]string{"report", "user", "start=2026-11-24"}, "is not before the end"},
		{[]string{"report", "user", "begin=today"}, "write start=TIME, end=TIME or format=LIST"},
		{[]string{"report", "user", "format="}, "write a list of columns"},
		{[]string{"report", "-t", "fortnights", "user"}, "write hours, minutes or seconds"},
		{[]string{"drain", "site"}, "say --why"},
		{[]string{"resume"}, "write site, node NAME or account NAME"},
		{[]string{"audit", "format=x"}, "format= is for reports"},
		{[]string{"archive"}, "write dump FILE or load FILE"},
		{[]string{"archive", "dump"}, "write FILE, or FILE before=TIME"},
		{[]string{"archive", "dump", "x", "after=today"}, "write FILE, or FILE before=TIME"},
		{[]string{"archive", "dump", "x", "before=noon?"}, "is no time"},
		{[]string{"archive", "load"}, "the name of a file"},
		{[]string{"top", "me"}, "takes no argument"},
		{[]string{"top", "-d", "1ms"}, "write 500ms or more"},
		{[]string{"top", "-n", "-1"}, "write 0 or more"},
		{[]string{"submit"}, "write a batch script"},
		{[]string{"submit", "-p", "main", "x.sh"}, "fill jobs go to partition pipefill"},
		{[]string{"submit", "--gpus=2", "x.sh"}, "the main job holds the GPUs"},
		{[]string{"submit", "-n1", ":", "-n2", "x.sh"}, "heterogeneous"},
		{[]string{"config", "check"}, "write the files"},
		{[]string{"config", "check", "other.yaml"}, "must begin with pipefilld or pipefillctld"},
		{[]string{"bubbles", "1", "2"}, "one main job's number"},
		{[]string{"simulate"}, "write a FILE.yaml, --paper, --beyond or --from-cluster"},
		{[]string{"simulate", "a.yaml", "b.yaml"}, "write one FILE.yaml, not 2"},
		{[]string{"simulate", "a.yaml", "--json"}, "--json comes too late"},
		{[]string{"simulate", "/nonexistent.yaml"}, "no such file"},
		{[]string{"simulate", "--paper", "a.yaml"}, "--paper, --beyond and a FILE go alone"},
		{[]string{"simulate", "--paper", "--beyond"}, "go alone"},
		{[]string{"trace"}, "or the folders"},
		{[]string{"trace", "--last", "-1s", "x"}, "write 0 or more"},
		{[]string{"trace", "-o", "/nonexistent/x", "../timeline/testdata/run"}, "write /nonexistent/x"},
		{[]string{"try", "--fill", "true"}, "write the main job's command"},
		{[]string{"try", "--main", "true"}, "at least one fill job's command"},
		{[]string{"try", "--main", "true", "--fill", " "}, "a command is empty"},
		{[]string{"try", "--main", "true", "--fill", "true", "more"}, "quote the commands"},
		{[]string{"try", "--main", "true", "--fill", "true", "--mode", "kernel"}, "write signal, chunked or launch"},
		{[]string{"try", "--main", "true", "--fill", "true", "--set", "guard_ms"}, "write KEY=VALUE"},
		{[]string{"try", "--main", "true", "--fill", "true", "--set", "node=x"}, "node is set by try itself"},
		{[]string{"try", "--main", "true", "--fill", "true", "--device", "tpu:0"}, "write cpu:<core list> or gpu:<uuid>"},
		{[]string{"try", "--main", "true", "--fill", "true", "--device", "gpu:GPU-1"}, "stopping a program does not stop its work on a GPU"},
		{[]string{"try", "--main", "true", "--fill", "true", "--alone", "-1"}, "write 0 or more"},
	}
	for _, tc := range cases {
		status, _, errs := run(t, "unix:/nonexistent", tc.args...)
		if status != 2 || !strings.Contains(errs, tc.says) {
			t.Errorf("%v: status %d, %q, want 2 and %q", tc.args, status, errs, tc.says)
		}
	}
	if status, _, _ := run(t, "tcp://x", "queue"); status != 2 {
		t.Errorf("a wrong --controller: status %d", status)
	}
}

func TestSlotsAndBubbles(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/slots"] = []api.Slot{{
		Node: "n0", User: "train", FillJob: 7,
		Main: api.MainDevice{
			Job: pipefill.JobKey{JobID: 3}, Device: "cpu:0", Enabled: true,
			Cycle:  pipefill.BubbleCycle{IterationNs: 200e6, Bubbles: []pipefill.Bubble{{Index: 1, Kind: "fwd-bwd", StartNs: 30e6, DurationNs: 20e6, FreeBytes: 3 << 30}}},
			Totals: api.MainTotals{BubbleNs: 100, FilledNs: 75, OverheadLo: -0.001, OverheadHi: 0.004},
		},
	}}
	_, table, _ := run(t, f.endpoint, "slots")
	if !strings.Contains(table, "n0   cpu:0        3 train   200.0   10.0%       7  75.0% -0.1..+0.4% open") {
		t.Errorf("slots:\n%s", table)
	}
	_, table, _ = run(t, f.endpoint, "bubbles", "3")
	if !strings.Contains(table, "n0   cpu:0      1 fwd-bwd     30.0      20.0 3.0GiB") {
		t.Errorf("bubbles:\n%s", table)
	}
	_, text, _ := run(t, f.endpoint, "bubbles", "--cycle", "n0/cpu:0", "3")
	if c, err := plan.DecodeCycle(strings.NewReader(text), "stdout"); err != nil || c.Bubbles[0].FreeBytes != 3<<30 {
		t.Errorf("--cycle: %v\n%s", err, text)
	}
	if status, _, _ := run(t, f.endpoint, "bubbles", "--cycle", "n1/cpu:0", "3"); status != 3 {
		t.Errorf("the cycle of an unknown device: status %d, want 3", status)
	}
	if status, _, _ := run(t, f.endpoint, "bubbles", "99"); status != 3 {
		t.Errorf("an unknown main job: status %d, want 3", status)
	}
}

// Every command and flag has its place in the man page and a line of help, and
// the page has no flag that no command has.
func TestManPage(t *testing.T) {
	page, err := os.ReadFile("../docs/man/pipefill-cli.1.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := cli.Commands()
	if len(commands) < 25 {
		t.Fatalf("commands %q", commands)
	}
	_, help, _ := run(t, "unix:/x", "--help")
	all := help
	for _, name := range commands {
		words := strings.Fields(name)
		// A command of another: **policy** list.
		if title := "**" + words[0] + "**" + strings.TrimPrefix(name, words[0]); !bytes.Contains(page, []byte(title)) {
			t.Errorf("the man page lacks %s", title)
		}
		status, text, _ := run(t, "unix:/x", append(words, "--help")...)
		if _, usage, ok := strings.Cut(strings.SplitN(text, "\n\n", 2)[0], " - "); status != 0 || !ok || len(usage) < 5 {
			t.Errorf("help of %s: status %d\n%s", name, status, text)
		}
		all += text
		for word := range strings.FieldsSeq(text) {
			flag := strings.TrimRight(word, ",")
			if strings.HasPrefix(flag, "--") && flag != "--help" && name != "submit" && !bytes.Contains(page, []byte("**"+flag+"**")) {
				t.Errorf("the man page lacks %s of %s", flag, name)
			}
		}
	}
	for _, m := range regexp.MustCompile(`\*\*(--[a-z0-9-]+)`).FindAllSubmatch(page, -1) {
		if flag := string(m[1]); flag != "--pipefill" && !strings.Contains(all, flag) { // that one is sbatch's
			t.Errorf("the man page has %s, which no command takes", flag)
		}
	}
}
