package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestTrace(t *testing.T) {
	status, out, errs := run(t, "unix:/x", "trace", "../timeline/testdata/run")
	var document struct {
		Events []struct {
			Name string `json:"name"`
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal([]byte(out), &document); status != 0 || err != nil || len(document.Events) != 8 {
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
