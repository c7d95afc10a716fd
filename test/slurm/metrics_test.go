//go:build slurm

package slurmtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pipefill/controller/slurm"
)

// TestMetrics has a real Prometheus scrape the three daemons while a fill job
// runs, with the shipped rules.
func TestMetrics(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	for _, program := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("packaging/setup installs it: %v", err)
		}
	}
	rules := filepath.Join(repository(t), "packaging/prometheus/pipefill.rules.yaml")
	if out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", "--lint=all", "--lint-fatal", rules).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v: %s", err, out)
	}
	c := newCluster(t)
	main := c.trainer(t, 100000, generous)
	c.awaitJob(t, main, "to run", slurm.Job.Running)
	fill := c.sbatch(t, "pf_ann", "while :; do :; done", "-p", "pipefill", "--mem=100", "-o", c.output(t, "fill"))
	c.awaitJob(t, fill, "to run", slurm.Job.Running)
	targets := strings.Split(c.environ(t, "PF_METRICS"), ",")
	if len(targets) != 3 {
		t.Fatalf("targets %q", targets)
	}
	prometheus := startPrometheus(t, rules, targets)
	for query, ok := range map[string]func(float64) bool{
		`sum(up)`: func(v float64) bool { return v == 3 },
		`count(count by (version) (pipefill_build_info))`:                          func(v float64) bool { return v == 1 },
		`sum(pipefill_fill_jobs{state="running"})`:                                 func(v float64) bool { return v == 1 },
		`sum(pipefill_slots{state="filled"})`:                                      func(v float64) bool { return v == 1 },
		`sum(pipefill_nodes{state="here"})`:                                        func(v float64) bool { return v == 2 },
		`max(pipefill_device_seconds_total)`:                                       func(v float64) bool { return v > 0.5 },
		`max(rate(pipefill_device_seconds_total[10s]))`:                            func(v float64) bool { return v > 0 && v < 1 },
		`max(pipefill_bubble_seconds_total) > max(pipefill_offered_seconds_total)`: func(v float64) bool { return v > 0 },
		`sum(pipefill_slurm_calls_total{call="jobs",result="ok"})`:                 func(v float64) bool { return v > 0 },
		`sum(pipefill_fill_job_attached)`:                                          func(v float64) bool { return v == 1 },
		`max(pipefill_budget_ratio)`:                                               func(v float64) bool { return v == 0.2 },
		`min(pipefill_controller_reached)`:                                         func(v float64) bool { return v == 1 },
	} {
		var last float64
		var err error
		await(t, query, func() bool {
			last, err = prometheus.value(query)
			return err == nil && ok(last)
		})
	}
	for _, query := range dashboardQueries(t) {
		await(t, "the dashboard's "+query, func() bool { return prometheus.has(query) })
	}
	if n := prometheus.rules(t); n < 10 {
		t.Errorf("%d rules are loaded and healthy", n)
	}
	// No job, user or path is anybody's to read there.
	for _, target := range targets {
		answer, err := http.Get("http://" + target + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"pf_ann", "pf_train", strconv.FormatInt(fill, 10), c.dir} {
			if strings.Contains(string(body), secret) {
				t.Errorf("%s tells %q", target, secret)
			}
		}
	}
}

// environ is a value of what `cluster env` prints.
func (c *cluster) environ(t *testing.T, name string) string {
	t.Helper()
	for _, pair := range c.env {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	t.Fatalf("cluster env has no %s", name)
	return ""
}

type prometheus struct{ base string }

// startPrometheus scrapes every half second, until the test ends.
func startPrometheus(t *testing.T, rules string, targets []string) prometheus {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [%q]
scrape_configs:
  - job_name: pipefillctld
    static_configs: [{targets: [%q]}]
  - job_name: pipefilld
    static_configs: [{targets: [%q, %q]}]
`, rules, targets[0], targets[1], targets[2])
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	if err := port.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "prometheus", "--config.file="+file, "--storage.tsdb.path="+dir+"/data",
		"--web.listen-address="+address, "--log.level=warn")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	log, err := os.OpenFile(dir+"/log", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if text, err := os.ReadFile(dir + "/log"); t.Failed() && err == nil {
			t.Logf("prometheus: %s", text)
		}
		_ = log.Close()
	})
	p := prometheus{"http://" + address + "/api/v1/"}
	await(t, "prometheus to answer", func() bool {
		_, err := p.value("1")
		return err == nil
	})
	return p
}

func (p prometheus) get(path string, into any) error {
	answer, err := http.Get(p.base + path)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	return json.NewDecoder(answer.Body).Decode(into)
}

// value is the one value of an expression.
func (p prometheus) value(query string) (float64, error) {
	var answer struct {
		Data struct {
			Type   string          `json:"resultType"`
			Result json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := p.get("query?query="+url.QueryEscape(query), &answer); err != nil {
		return 0, err
	}
	if answer.Data.Type == "scalar" {
		return 0, nil
	}
	var vector []struct {
		Value [2]any `json:"value"`
	}
	if err := json.Unmarshal(answer.Data.Result, &vector); err != nil {
		return 0, err
	}
	if len(vector) != 1 {
		return 0, fmt.Errorf("%d values", len(vector))
	}
	text, _ := vector[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// has tells whether an expression has any value.
func (p prometheus) has(query string) bool {
	var answer struct {
		Data struct {
			Result []json.RawMessage `json:"result"`
		} `json:"data"`
	}
	return p.get("query?query="+url.QueryEscape(query), &answer) == nil && len(answer.Data.Result) > 0
}

// rules counts the rules that are evaluated without an error.
func (p prometheus) rules(t *testing.T) int {
	t.Helper()
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct {
					Name   string `json:"name"`
					Health string `json:"health"`
					Error  string `json:"lastError"`
				} `json:"rules"`
			} `json:"groups"`
		} `json:"data"`
	}
	n := 0
	await(t, "all rules to be evaluated", func() bool {
		n = 0
		if err := p.get("rules", &answer); err != nil {
			return false
		}
		for _, g := range answer.Data.Groups {
			for _, r := range g.Rules {
				switch r.Health {
				case "ok":
					n++
				case "err":
					t.Errorf("rule %s: %s", r.Name, r.Error)
				default:
					return false
				}
			}
		}
		return n > 0
	})
	return n
}

// dashboardQueries are the expressions of the shipped dashboard, for any node.
func dashboardQueries(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository(t), "packaging/prometheus/pipefill.dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			all = append(all, strings.ReplaceAll(target.Expr, "$node", ".*"))
		}
	}
	return all
}
