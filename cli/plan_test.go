package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
	"pipefill/cli"
)

// planArgs are arguments of plan on the files of testdata/plan.
func planArgs(profiles string, more ...string) []string {
	args := []string{"plan", "--bubbles", "testdata/plan/bubbles.json"}
	for name := range strings.FieldsSeq(profiles) {
		args = append(args, "--profile", "testdata/plan/"+name+".json")
	}
	return append(args, more...)
}

func TestPlan_Golden(t *testing.T) {
	for _, tc := range []struct {
		name   string
		args   []string
		status int
	}{
		{"mixed", planArgs("bert", "--explain"), 0},
		{"single", planArgs("bert", "--single", "--json"), 0},
		{"shared", planArgs("bert cnn", "--explain"), 0},
		{"gang", planArgs("cnn", "--bubbles", "testdata/plan/bubbles.json", "-P"), 0},
		{"main-state", planArgs("bert", "--main-state", "optimizer=8GiB,1ms,1ms", "--explain"), 0},
		{"cached", planArgs("bert", "--main-state", "cache=8GiB,1ms,1ms", "--explain"), 0},
		{"cannot-fit", planArgs("large", "--explain"), 4},
		{"cannot-fit-json", planArgs("large", "--json"), 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, out, errs := run(t, "unix:/x", tc.args...)
			if status != tc.status {
				t.Errorf("status %d, want %d", status, tc.status)
			}
			golden(t, "plan/"+tc.name, out+"--- standard error\n"+errs)
		})
	}
}

func TestPlan_Pictures(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range []string{"svg", "html"} {
		path := filepath.Join(dir, "plan."+kind)
		if status, _, errs := run(t, "unix:/x", planArgs("bert cnn", "--"+kind, path)...); status != 0 {
			t.Fatal(errs)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "plan/picture."+kind, string(text))
	}
}

func TestPlan_Mistakes(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"version": 2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"plan"}, 2, "write --profile FILE"},
		{[]string{"plan", "x"}, 2, "takes no argument"},
		{planArgs("bert cnn", "--bubbles", "testdata/plan/bubbles.json"), 2, "several --bubbles are a gang's devices, for one --profile"},
		{planArgs("bert bert"), 2, `two profiles are named "bert": rename one`},
		{planArgs("bert", "--main-state", "optimizer=8GiB"), 2, "write NAME=SIZE,OUT,IN"},
		{planArgs("bert", "--main-state", "optimizer=8GB,1ms,1ms"), 2, "write a size like 8GiB"},
		{planArgs("bert", "--main-state", "optimizer=8GiB,-1ms,1ms"), 2, "write a size like 8GiB"},
		{planArgs("bert", "--svg", "/nonexistent/x.svg"), 2, "write /nonexistent/x.svg"},
		{planArgs("missing"), 3, "testdata/plan/missing.json: no such file"},
		{[]string{"plan", "--bubbles", "testdata/plan/bubbles.json", "--profile", bad}, 2, bad + ": line 1: version is 2, and this pipefill reads 1"},
		{[]string{"plan", "--bubbles", "testdata/plan/bert.json", "--profile", "testdata/plan/bert.json"}, 2, `bert.json: line 1: the bubble cycle: unknown field "name"`},
	} {
		status, out, errs := run(t, "unix:/x", tc.args...)
		if status != tc.status || !strings.Contains(errs, tc.says) || out != "" {
			t.Errorf("%v: status %d, %q %q, want %d and %q", tc.args, status, out, errs, tc.status, tc.says)
		}
	}
}

// submit sends the profile and names it by its digest; a mistake in it keeps the
// job from being submitted.
func TestSubmit_SendsTheProfile(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/profiles"] = api.Profile{Digest: "d1g35t", Name: "bert"}
	dir := t.TempDir()
	out := filepath.Join(dir, "arguments")
	sbatch := filepath.Join(dir, "sbatch")
	if err := os.WriteFile(sbatch, []byte("#!/bin/sh\necho \"$@\" > "+out+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	submit := func(args ...string) (int, string) {
		var errs bytes.Buffer
		status := cli.Run(t.Context(), append([]string{"pipefill-cli", "--controller", f.endpoint, "submit"}, args...), cli.Env{
			Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: &errs, Stderr: &errs,
			LookPath: func(string) (string, error) { return sbatch, nil },
		})
		return status, errs.String()
	}
	if status, errs := submit("--pipefill=fill,profile=testdata/plan/bert.json,mode=chunked", "job.sh", "--pipefill=fill,profile=x"); status != 0 {
		t.Fatal(errs)
	}
	got, err := os.ReadFile(out)
	want := "--hold --partition=pipefill --pipefill=fill,profile=d1g35t,mode=chunked job.sh --pipefill=fill,profile=x\n"
	if err != nil || string(got) != want || !strings.HasPrefix(f.calls[0], `POST /v1/profiles {"version":1,"name":"bert"`) {
		t.Errorf("%v %q, want %q; asked %.80s", err, got, want, f.calls[0])
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	if status, errs := submit("--pipefill=fill,profile=testdata/plan/bubbles.json", "job.sh"); status != 2 || !strings.Contains(errs, "bubbles.json: line 1: ") {
		t.Errorf("%d %s", status, errs)
	}
	f.fail = &api.Failure{Code: pipefill.CodeUnavailable, Message: "away"}
	if status, _ := submit("--pipefill=fill,profile=testdata/plan/bert.json", "job.sh"); status != 5 {
		t.Errorf("without a controller: status %d", status)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a job was submitted without its profile")
	}
}
