package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
