package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
)

func TestTrace_Folders(t *testing.T) {
	status, out, errs := run(t, "unix:/x", "trace", "../timeline/testdata/run")
	var document struct {
		Events []struct {
			Name string `json:"name"`
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal([]byte(out), &document); status != 0 || err != nil || len(document.Events) != 10 {
		t.Fatalf("status %d, %v: %s%s", status, err, out, errs)
	}
	path := filepath.Join(t.TempDir(), "t.json")
	if status, _, errs := run(t, "unix:/x", "trace", "--last", "0", "-o", path, "../timeline/testdata/run"); status != 0 {
		t.Fatal(errs)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != out {
		t.Errorf("%v: %s", err, text)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left beside it: %v, %v", left, err)
	}
	if status, _, errs := run(t, "unix:/x", "trace", "/nonexistent"); status != 3 {
		t.Errorf("status %d: %s", status, errs)
	}
}

// recordedJob is a controller with the recording of timeline's tests as main job 7's.
func recordedJob(t *testing.T) *fake {
	t.Helper()
	f := newFake(t)
	text, err := os.ReadFile("../timeline/testdata/recording.json")
	if err != nil {
		t.Fatal(err)
	}
	var parts []api.Recording
	if err := json.Unmarshal(text, &parts); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, part := range parts {
		line, _ := json.Marshal(api.RecordingPart{Part: &part})
		lines.Write(append(line, '\n'))
	}
	lines.WriteString(`{"end": {"nodes": 2, "missing": ["n2", "n3"]}}` + "\n")
	f.raw = map[string]string{"/v1/mains/7/recording": lines.String(), "/v1/mains/8/recording": lines.String()[:200], "/v1/mains/9/recording": `{"end": {"nodes": 0, "missing": ["n1"]}}`}
	f.answers["/v1/jobs/9"] = api.FillJob{JobID: 9, Name: "heat", User: "ann", State: "completed"}
	return f
}

func TestTrace_AJob(t *testing.T) {
	f := recordedJob(t)
	status, out, errs := run(t, f.endpoint, "trace", "7")
	if golden(t, "trace", out+errs); status != 0 || !json.Valid([]byte(out)) {
		t.Errorf("status %d", status)
	}
	path := filepath.Join(t.TempDir(), "t.json")
	if status, _, errs := run(t, f.endpoint, "trace", "-o", path, "-w", "n[0-1]", "--last", "5s", "7"); status != 0 {
		t.Fatal(errs)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != out {
		t.Errorf("%v: %s", err, text)
	}
	if last := f.calls[len(f.calls)-1]; last != "GET /v1/mains/7/recording?last_ms=5000&nodes=n%5B0-1%5D" {
		t.Errorf("asked %q", last)
	}
	status, page, errs := run(t, f.endpoint, "trace", "--html", "7")
	if status != 0 || !strings.Contains(page, "main job 7") || !strings.Contains(page, "heat") || !strings.Contains(page, "COMPLETED") {
		t.Errorf("status %d: %s", status, errs)
	}
}

// What goes wrong, as it is told.
func TestGolden_TraceErrors(t *testing.T) {
	f := recordedJob(t)
	fails := func(name string, want int, args ...string) {
		t.Helper()
		status, out, errs := run(t, f.endpoint, append([]string{"trace"}, args...)...)
		if golden(t, "trace-"+name, out+errs); status != want {
			t.Errorf("%s: status %d, want %d", name, status, want)
		}
	}
	fails("nothing", 2)
	fails("two-jobs", 2, "7", "8")
	fails("negative", 2, "--last", "-1s", "7")
	fails("nodes-of-a-folder", 2, "-w", "n0", "../timeline/testdata/run")
	fails("broke-off", 5, "8")
	fails("empty", 3, "9")
	for name, failure := range map[string]api.Failure{
		"unknown": {Code: pipefill.CodeNotFound, Message: "main job 4711: none runs with pipefill, and no node has a recording of it; pipefill-cli slots lists them"},
		"off":     {Code: pipefill.CodeConflict, Message: "main job 42 is not recorded: write recording: 1MiB into pipefilld.yaml on its nodes (n0, ...), and systemctl reload pipefilld"},
		"denied":  {Code: pipefill.CodeDenied, Message: "main job 41 is another user's: its recording is for its owner and for operators"},
	} {
		f.fail = &failure
		fails(name, map[string]int{"unknown": 3, "off": 4, "denied": 6}[name], "41")
	}
}
