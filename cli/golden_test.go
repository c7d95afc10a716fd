package cli_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
	"pipefill/cli"
	"pipefill/executor/try"
	"pipefill/measure"
	goldenfile "pipefill/test/golden"
)

// testdata is absolute: a test may go elsewhere.
var testdata, _ = filepath.Abs("testdata")

// golden holds got against testdata/<name>.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	goldenfile.Check(t, filepath.Join(testdata, name+".golden"), got)
}

// Every command that prints rows, as a table, as JSON, and failing.
func TestGolden_Listings(t *testing.T) {
	f := site(t)
	for name, args := range map[string][]string{
		"queue": {"queue"}, "slots": {"slots"}, "bubbles": {"bubbles", "3"},
	} {
		_, table, errs := run(t, f.endpoint, args...)
		golden(t, name, table+errs)
		_, text, _ := run(t, f.endpoint, append([]string{args[0], "--json"}, args[1:]...)...)
		golden(t, name+"-json", text)
	}
	status, _, errs := run(t, f.endpoint, "bubbles", "4711")
	if golden(t, "bubbles-none", errs); status != 3 {
		t.Errorf("status %d", status)
	}
	f.fail = &api.Failure{Code: pipefill.CodeUnavailable, Message: "the queue cannot be read"}
	for name, args := range map[string][]string{
		"queue": {"queue"}, "slots": {"slots"}, "bubbles": {"bubbles", "3"}, "hold": {"hold", "7"}, "release": {"release", "7"}, "cancel": {"cancel", "7", "12"},
		"priority": {"priority", "7", "1"}, "resume": {"resume", "site"},
	} {
		status, out, errs := run(t, f.endpoint, args...)
		if golden(t, name+"-error", out+errs); status != 5 {
			t.Errorf("%s: status %d", name, status)
		}
	}
}

// submit prints what sbatch does; its own refusals say what to do instead.
func TestGolden_Submit(t *testing.T) {
	dir := t.TempDir()
	sbatch := filepath.Join(dir, "sbatch")
	script := "#!/bin/sh\nif [ \"$3\" = --parsable ]; then echo '42;alps'; elif [ \"$3\" = refused.sh ]; then echo 'sbatch: error: invalid partition' >&2; exit 1;\n" +
		"else echo \"Submitted batch job 42 ($*)\"; fi\n"
	if err := os.WriteFile(sbatch, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args   []string
		path   string
		status int
	}{
		"submit":               {[]string{"--time=10", "job.sh", "-p", "x"}, sbatch, 0},
		"submit-parsable":      {[]string{"--parsable", "job.sh"}, sbatch, 0},
		"submit-nothing":       {nil, sbatch, 2},
		"submit-gpus":          {[]string{"--gpus=2", "job.sh"}, sbatch, 2},
		"submit-partition":     {[]string{"-pmain", "job.sh"}, sbatch, 2},
		"submit-heterogeneous": {[]string{"--time=1", ":", "job.sh"}, sbatch, 2},
		"submit-refused":       {[]string{"refused.sh"}, sbatch, 4},
		"submit-no-sbatch":     {[]string{"job.sh"}, "", 5},
	} {
		var out bytes.Buffer
		status := cli.Run(t.Context(), append([]string{"pipefill-cli", "--controller", "unix:/x", "submit"}, c.args...), cli.Env{
			Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out,
			LookPath: func(string) (string, error) {
				if c.path == "" {
					return "", exec.ErrNotFound
				}
				return c.path, nil
			},
		})
		if golden(t, name, out.String()); status != c.status {
			t.Errorf("%s: status %d, want %d", name, status, c.status)
		}
	}
}

// config check: a table of good and bad, JSON, and each mistake.
func TestGolden_Config(t *testing.T) {
	t.Chdir("testdata/config")
	both := []string{"pipefilld.yaml", "pipefillctld.yaml", "pipefilld-wrong.yaml"}
	for name, c := range map[string]struct {
		args   []string
		status int
	}{
		"config":         {append([]string{"check"}, both...), 2},
		"config-json":    {append([]string{"check", "--json"}, both...), 2},
		"config-good":    {[]string{"check", "pipefilld.yaml"}, 0},
		"config-nothing": {[]string{"check"}, 2},
		"config-error":   {[]string{"check", "slurm.conf"}, 2},
	} {
		status, out, errs := run(t, "unix:/x", append([]string{"config"}, c.args...)...)
		if golden(t, name, out+errs); status != c.status {
			t.Errorf("%s: status %d, want %d", name, status, c.status)
		}
	}
}

// doctor of a site with three mistakes, as a table and as JSON.
func TestGolden_Doctor(t *testing.T) {
	c := newClinic(t)
	c.replace("slurm.conf", "preempt/none", "preempt/partition_prio")
	c.replace("slurm.conf", "DefMemPerCPU=2000\n", "")
	c.token(c.now.Unix() - 1)
	for name, args := range map[string][]string{"doctor": nil, "doctor-json": {"--json"}, "doctor-parsable": {"-P"}} {
		status, out := c.doctor(args...)
		// A folder of its own each time; a machine of tests may not run munge.
		out = strings.ReplaceAll(strings.ReplaceAll(out, c.dir, "/etc/slurm"), pipefill.Version(), "VERSION")
		if args == nil { // as wide as the folder's name made no column
			out = regexp.MustCompile(`(?m)^munge .*\n`).ReplaceAllString(out, "")
		}
		out = regexp.MustCompile(`(?m)^munge\|.*\n`).ReplaceAllString(out, "")
		out = regexp.MustCompile(`(?s) *\{\s*"check": "munge",.*?\},?\n`).ReplaceAllString(out, "")
		if golden(t, name, out); status != 4 {
			t.Errorf("%s: status %d", name, status)
		}
	}
	if status, out := c.doctor("now"); status != 2 {
		t.Errorf("%d %s", status, out)
	} else {
		golden(t, "doctor-error", out)
	}
}

// try prints a table, or JSON, of a run; what it refuses it says before it runs
// anything.
func TestGolden_Try(t *testing.T) {
	result := try.Result{
		Report: measure.Report{
			Main:     measure.MainFigures{Iterations: 120, BaselineMs: 210.5, FilledMs: 211, OverheadPct: 0.24, OverheadCI95: [2]float64{-0.3, 0.78}, OverheadKnown: true},
			Bubbles:  measure.BubbleFigures{Seconds: 40, FilledSeconds: 34, RecoveredPct: 85, OutsideSeconds: 0.4},
			FillJobs: measure.FillJobCounts{Submitted: 3, Completed: 1, Failed: 1},
		},
		Fills: []try.Fill{
			{Job: 2, Command: "python3 sum.py", Device: "cpu:0", State: "completed", DeviceNs: 21e9, CPUNs: 20e9, Output: "/t/out.2"},
			{Job: 3, Command: "false", Device: "cpu:1", State: "failed", Reason: "exit status 1", ExitCode: 1, DeviceNs: 1e7, Output: "/t/out.3"},
			{Job: 4, Command: "true", State: "waiting", Output: "/t/out.4"},
		},
		Announced: true,
	}
	for name, asJSON := range map[string]bool{"try": false, "try-json": true} {
		var out bytes.Buffer
		if err := cli.PrintTry(&out, result, "/t", asJSON); err != nil {
			t.Error(err)
		}
		golden(t, name, out.String())
	}
	for name, args := range map[string][]string{
		"try-no-main": {"--fill", "true"}, "try-no-fill": {"--main", "true"}, "try-mode": {"--main", "true", "--fill", "true", "--mode", "soft"},
		"try-set": {"--main", "true", "--fill", "true", "--set", "node=x"}, "try-argument": {"--main", "true", "train.py"},
	} {
		status, out, errs := run(t, "unix:/x", append([]string{"try"}, args...)...)
		if golden(t, name, out+errs); status != 2 {
			t.Errorf("%s: status %d", name, status)
		}
	}
}

// policy as JSON, and what a controller that is away makes of it.
func TestGolden_Policy(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/policy"] = []api.Policy{{Name: "sjf", Active: true, Text: "Shortest job first."}}
	f.answers["/v1/policy/predictions"] = []api.Prediction{{Source: "history", Count: 120, Factor: 0.97, Off: 1.1, Off90: 1.82}}
	f.answers["/v1/jobs/12/policy"] = api.PolicyExplanation{JobID: 12, State: "queued", Policy: "sjf", Suits: 12, Slots: 16, Place: 3, Scores: []float64{-5400.5}}
	all := map[string][]string{"list": {"--json"}, "predictions": {"--json"}, "explain": {"--json", "12"}}
	for name, args := range all {
		status, out, errs := run(t, f.endpoint, append([]string{"policy", name}, args...)...)
		if golden(t, "policy-"+name+"-json", out+errs); status != 0 {
			t.Errorf("%s: status %d", name, status)
		}
	}
	f.fail = &api.Failure{Code: pipefill.CodeNotFound, Message: "fill job 12: there is none"}
	for name, args := range all {
		status, out, errs := run(t, f.endpoint, append([]string{"policy", name}, args...)...)
		if golden(t, "policy-"+name+"-error", out+errs); status != 3 {
			t.Errorf("%s: status %d", name, status)
		}
	}
}

// simulate and profile, which ask nobody.
func TestGolden_Programs(t *testing.T) {
	path := writeScenario(t, scenario)
	good := func(name string, args ...string) {
		t.Helper()
		status, out, errs := run(t, "unix:/x", args...)
		// Figures and where they are from are the simulator's own tests'.
		out, _, _ = strings.Cut(out, "\nAssumed:")
		out, _, _ = strings.Cut(out, "\"assumptions\"")
		out = regexp.MustCompile(`-?[0-9.]+(e[+-][0-9]+)?`).ReplaceAllString(out, "0")
		out = regexp.MustCompile(` +`).ReplaceAllString(out, " ")
		if golden(t, name, out+errs); status != 0 {
			t.Errorf("%s: status %d", name, status)
		}
	}
	good("simulate", "simulate", path)
	good("simulate-json", "simulate", "--json", path)
	bad := func(name string, want int, args ...string) {
		t.Helper()
		status, out, errs := run(t, "unix:/x", args...)
		if golden(t, name, out+errs); status != want {
			t.Errorf("%s: status %d, want %d", name, status, want)
		}
	}
	t.Chdir(filepath.Dir(writeScenario(t, strings.Replace(scenario, "gpus: 8", "gpus: 9", 1))))
	bad("simulate-error", 2, "simulate", "s.yaml")
	bad("profile-error", 4, "profile", "--", "sh", "-c", "exit 3")
	bad("profile-nothing", 2, "profile")
}

// Every command has its output on file: as people read it, as JSON where it
// prints any, and failing. A new command fails here until it does.
func TestGolden_EveryCommand(t *testing.T) {
	only := func(names ...string) []string { return names }
	files := map[string][]string{
		"queue": only("queue", "queue-json", "queue-error"), "submit": only("submit", "submit-refused"),
		"hold": only("hold-error"), "release": only("release-error"), "cancel": only("cancel-error"), "priority": only("priority-error"), // silent where all goes well
		"slots": only("slots", "slots-json", "slots-error"), "bubbles": only("bubbles", "bubbles-json", "bubbles-error"),
		"report": only("report-cluster", "report-json", "report-error"), "doctor": only("doctor", "doctor-json", "doctor-error"),
		"config check": only("config", "config-json", "config-error"), "try": only("try", "try-json", "try-no-main"),
		"policy list": only("policy-list", "policy-list-json", "policy-list-error"), "policy check": only("policy-check"),
		"policy explain":     only("policy-explain", "policy-explain-json", "policy-explain-error"),
		"policy predictions": only("policy-predictions", "policy-predictions-json", "policy-predictions-error"),
		"trace":              only("trace", "trace-unknown"), // it is JSON
		"profile":            only("profile-error"),          // of a program that a shell stands for: TestProfile
		"simulate":           only("simulate", "simulate-json", "simulate-error"), "plan": only("plan/single", "plan/cannot-fit", "plan/cannot-fit-json"),
		"drain": only("drain", "drain-json", "drain-error"), "resume": only("resume-error"), "audit": only("audit", "audit-json", "audit-error"),
		"archive dump": only("archive-error"), "archive load": only("archive-error"), "top": only("top-plain", "top-devices", "top-error"), "explain": only("explain", "explain-json", "explain-error"),
	}
	for _, name := range cli.Commands() {
		if len(files[name]) == 0 {
			t.Errorf("%s: its output is on no file", name)
		}
		for _, file := range files[name] {
			if _, err := os.Stat(filepath.Join(testdata, file+".golden")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
