package cli_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
	"pipefill/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds got against testdata/<name>.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: run with -update and look at what it writes", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-update writes it anew):\n%s", path, d)
	}
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
