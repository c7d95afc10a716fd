package controller

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"pipefill"
	"pipefill/metrics"
)

func scrape(t *testing.T, c *Controller) string {
	t.Helper()
	handler, err := metrics.Handler(c.families())
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body := w.Body.String()
	if problems, err := promlint.New(strings.NewReader(body)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	return body
}

func wants(t *testing.T, body string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %q in:\n%s", line, body)
		}
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, 1, 3)
	w.ctl.Look(t.Context())
	wants(t, scrape(t, w.ctl), `pipefill_fill_jobs{state="queued"} 3`, `pipefill_fill_jobs{state="held"} 0`, `pipefill_nodes{state="here"} 0`)
	open, err := w.store.OpenJobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.SetHeld(t.Context(), open[0].ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Reserve(t.Context(), open[1], "n0", "cpu:0", pipefill.JobKey{Cluster: "c", JobID: 1}, 5); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		w.sync(n)
	}
	w.ctl.tallies.end(pipefill.OutcomeEvicted)
	w.ctl.tallies.round(1500 * time.Millisecond)
	w.ctl.tallies.call("jobs", 250*time.Millisecond, nil)
	w.ctl.tallies.call("jobs", 250*time.Millisecond, errSlurm)
	w.ctl.tallies.call("jobs", 250*time.Millisecond, errors.New("else"))
	wants(t, scrape(t, w.ctl),
		`pipefill_fill_jobs{state="queued"} 1`, `pipefill_fill_jobs{state="held"} 1`, `pipefill_fill_jobs{state="reserved"} 1`,
		`pipefill_nodes{state="here"} 2`, `pipefill_nodes{state="lost"} 0`,
		`pipefill_assignments_ended_total{outcome="evicted"} 1`, `pipefill_assignments_ended_total{outcome="completed"} 0`,
		`pipefill_round_seconds_total 1.5`, `pipefill_slurm_calls_total{call="jobs",result="ok"} 1`,
		`pipefill_slurm_calls_total{call="jobs",result="unavailable"} 1`, `pipefill_slurm_calls_total{call="jobs",result="internal"} 1`,
		`pipefill_slurm_call_seconds_total{call="jobs",result="ok"} 0.25`)
	w.nowS += 3600
	wants(t, scrape(t, w.ctl), `pipefill_nodes{state="here"} 0`, `pipefill_nodes{state="lost"} 2`)
}

// A database that does not answer costs no figure: none is asked of it.
func TestMetrics_WithoutTheDatabase(t *testing.T) {
	w := newWorld(t, 1, 1)
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	body := scrape(t, w.ctl)
	if !strings.Contains(body, "pipefill_fill_jobs{") || !strings.Contains(body, "pipefill_slots{") {
		t.Error(body)
	}
}

// A scrape asks Slurm nothing, however many there are: a call here would find
// nobody, and panic.
func TestMetrics_WithoutSlurm(t *testing.T) {
	w := newWorld(t, 1, 3)
	w.ctl.Look(t.Context())
	calls := func() (lines []string) {
		for line := range strings.Lines(scrape(t, w.ctl)) {
			if strings.HasPrefix(line, "pipefill_slurm_calls_total") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	before := calls()
	w.ctl.slurm = struct{ Slurm }{}
	for range 3 {
		if after := calls(); !slices.Equal(before, after) {
			t.Errorf("from %q to %q", before, after)
		}
	}
}

func TestStatus_ANodeOfAnotherRelease(t *testing.T) {
	w := newWorld(t, 1, 1)
	for _, n := range w.nodes {
		w.sync(n)
	}
	if faults := w.ctl.Status().Faults; len(faults) > 0 {
		t.Fatal(faults)
	}
	w.ctl.mu.Lock()
	w.ctl.nodes["n0"].said.Version = "0.0.9"
	w.ctl.nodes["n0"].said.Faults = []string{"device gpu:GPU-a: it is too hot"}
	w.ctl.mu.Unlock()
	faults := w.ctl.Status().Faults
	if len(faults) != 2 || faults[0] != "node n0: device gpu:GPU-a: it is too hot" || !strings.Contains(faults[1], "node n0: runs pipefilld 0.0.9") {
		t.Errorf("%q", faults)
	}
}
