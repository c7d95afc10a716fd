package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
	"pipefill/simulator"
)

const scenario = `
version: 1
name: small
seeds: 1
days: 0.2
main_jobs:
  - {name: llm, gpus: 8, schedule: gpipe, stages: 4, micro_batches: 8, forward_ms: 50, backward_ms: 100, free_gib: 8}
workload: {longest_h: 0.1, mix: {bert-base-inference: 1}}
`

func writeScenario(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSimulate(t *testing.T) {
	path, page := writeScenario(t, scenario), filepath.Join(t.TempDir(), "page.html")
	status, text, errs := run(t, "unix:/nowhere", "simulate", "--json", "--html", page, path)
	var r simulator.Result
	if err := json.Unmarshal([]byte(text), &r); status != 0 || err != nil || r.Points[0].Figures["completed"].Mean < 10 {
		t.Fatalf("status %d, %v, %s%s", status, err, text, errs)
	}
	if html, err := os.ReadFile(page); err != nil || !strings.Contains(string(html), "<svg") {
		t.Errorf("the page: %v", err)
	}
	_, again, _ := run(t, "unix:/nowhere", "simulate", "--json", path)
	_, other, _ := run(t, "unix:/nowhere", "simulate", "--json", "--seed", "5", path)
	if again != text || other == text {
		t.Errorf("the same seed gives the same: %t; another one too: %t", again == text, other == text)
	}
	status, table, _ := run(t, "unix:/nowhere", "simulate", path)
	if status != 0 || !strings.Contains(table, "POLICY BUBBLES IDLEGPUS") || !strings.Contains(table, "  fifo   0.273") {
		t.Errorf("status %d:\n%s", status, table)
	}
	bad := writeScenario(t, strings.Replace(scenario, "gpus: 8", "gpus: 9", 1))
	if status, _, errs := run(t, "unix:/nowhere", "simulate", bad); status != 2 || !strings.Contains(errs, "s.yaml: line 7: main_jobs[0].gpus: 9: write a multiple of stages x tensor_parallel, 4") {
		t.Errorf("a bad file: status %d, %s", status, errs)
	}
	if status, _, errs := run(t, "unix:/nowhere", "simulate", "--html", "/nonexistent/x", path); status != 2 || !strings.Contains(errs, "--html") {
		t.Errorf("a page that cannot be written: status %d, %s", status, errs)
	}
}

func TestSimulate_FromCluster(t *testing.T) {
	f := newFake(t)
	cycle := pipefill.BubbleCycle{Version: 1, IterationNs: 200e6, Bubbles: []pipefill.Bubble{{Index: 1, Kind: "fwd-bwd", StartNs: 30e6, DurationNs: 40e6}}}
	f.answers["/v1/slots"] = []api.Slot{{Node: "n0", Main: api.MainDevice{
		Job: pipefill.JobKey{JobID: 3}, Device: "cpu:0", Cycle: cycle, Totals: api.MainTotals{Iterations: 110, ControlIterations: 10, BubbleNs: 100 * 50e6},
	}}}
	var done []api.FillJob
	for i := range int64(30) {
		done = append(done, api.FillJob{JobID: i + 1, User: "ann", State: "completed", SubmitMs: 1000 * i, DeviceMs: 2000})
	}
	f.answers["/v1/jobs"] = done
	path := writeScenario(t, "days: 0.1\nseeds: 1\n")
	status, text, errs := run(t, f.endpoint, "simulate", "--from-cluster", "--json", path)
	var r simulator.Result
	if err := json.Unmarshal([]byte(text), &r); status != 0 || err != nil {
		t.Fatalf("status %d, %v, %s%s", status, err, text, errs)
	}
	got := r.Points[0].Figures
	if got["bubble_fraction"].Mean != 0.25 || got["offered_pct"].Mean < 79 || got["offered_pct"].Mean > 80.1 || got["completed"].Mean < 500 {
		t.Errorf("%+v", got)
	}
	if last := f.calls[len(f.calls)-1]; !strings.HasPrefix(last, "GET /v1/jobs?since_ms=179") {
		t.Errorf("asked %q", last)
	}
	f.answers["/v1/slots"] = []api.Slot{}
	if status, _, errs := run(t, f.endpoint, "simulate", "--from-cluster"); status != 4 || !strings.Contains(errs, "no main job runs") {
		t.Errorf("no main job: status %d, %s", status, errs)
	}
}
