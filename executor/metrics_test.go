package executor

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pipefill"
)

// scrape returns the daemon's own counters and gauges, by name and device.
func (s *site) scrape(t *testing.T) map[string]float64 {
	t.Helper()
	answer, err := http.Get("http://" + s.cfg.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := promlint.New(bytes.NewReader(body)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			key := name
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			if m.GetCounter() != nil {
				values[key] = m.GetCounter().GetValue()
			} else if m.GetGauge() != nil {
				values[key] = m.GetGauge().GetValue()
			}
		}
	}
	return values
}

// The figures are what happened, and counters do not fall when jobs leave.
func TestDaemon_Metrics(t *testing.T) {
	port, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	if err := port.Close(); err != nil {
		t.Fatal(err)
	}
	s := newSiteWith(t, func(c *config) { c.Metrics = address })
	within(t, 5*time.Second, "the port", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		return err == nil && conn.Close() == nil
	})
	if v := s.scrape(t); v["pipefill_main_jobs"] != 0 || v["pipefill_device_seconds_total cpu:0"] != 0 {
		t.Errorf("before anything: %v", v)
	}
	main, sc := s.fillRuns(t, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; exit 0")
	stop := bubbles(t, main.at)
	s.leave(t, fillKeys, sc)
	s.awaitEnd(t, pipefill.OutcomeCompleted)
	stop()
	put(main.at, eventCopy{iteration: 1, begin: 10 * ms, end: 40 * ms, deadline: 30 * ms, kind: 1, flags: eventOffered})
	put(main.at, eventCopy{iteration: 1, begin: 40 * ms, end: 41 * ms, kind: 3, index: 1})
	put(main.at, eventCopy{iteration: 1, begin: 45 * ms, end: 95 * ms, kind: 4, index: 255})
	put(main.at, eventCopy{iteration: 1, begin: 5 * ms, end: 100 * ms, flags: eventIteration})
	var before map[string]float64
	within(t, 5*time.Second, "the iteration to be drained", func() bool {
		before = s.scrape(t)
		return before["pipefill_iterations_total cpu:0"] == 1
	})
	if before["pipefill_bubble_seconds_total cpu:0"] != 0.03 || before["pipefill_offered_seconds_total cpu:0"] != 0.02 {
		t.Errorf("%v", before)
	}
	if before["pipefill_comm_seconds_total cpu:0"] != 0.001 || before["pipefill_other_seconds_total cpu:0"] != 0.05 {
		t.Errorf("what is never offered: %v", before)
	}
	for _, name := range []string{"iterations_total", "bubble_seconds_total", "offered_seconds_total", "device_seconds_total", "openings_total", "iteration_seconds"} {
		if before["pipefill_"+name+" cpu:0"] <= 0 {
			t.Errorf("%s is %v", name, before["pipefill_"+name+" cpu:0"])
		}
	}
	if before["pipefill_main_jobs"] != 1 || before["pipefill_budget_ratio cpu:0"] != 0.01 || before["pipefill_controller_reached"] != 1 {
		t.Errorf("%v", before)
	}
	s.leave(t, mainKeys, nil)
	within(t, 5*time.Second, "the main job to be gone", func() bool { return s.scrape(t)["pipefill_main_jobs"] == 0 })
	after := s.scrape(t)
	for key, was := range before {
		if strings.HasPrefix(key, "pipefill_") && strings.Contains(key, "_total") && after[key] < was {
			t.Errorf("%s fell from %v to %v", key, was, after[key])
		}
	}
	if _, there := after["pipefill_share_ratio cpu:0"]; there {
		t.Error("a main job that is gone is still governed")
	}
}
