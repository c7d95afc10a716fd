package controller

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
)

// Every testdata/*.bad.yaml says in its "# want:" lines what is wrong with it.
func TestConfig_EveryMistakeIsNamed(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(data)) {
			if w, ok := strings.CutPrefix(strings.TrimSpace(line), "# want: "); ok {
				want = append(want, w)
			}
		}
		_, err = LoadConfig(path)
		if pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%s: %v, want an invalid error", path, err)
			continue
		}
		if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestConfig_AMissingFileIsNamed(t *testing.T) {
	_, err := LoadConfig(filepath.Join(t.TempDir(), "none.yaml"))
	if pipefill.ErrorCode(err) != pipefill.CodeInvalid || !strings.Contains(err.Error(), "none.yaml") {
		t.Error(err)
	}
}
