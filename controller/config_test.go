package controller

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipefill"
)

// Every testdata/*.bad.yaml says in its "# want:" lines what is wrong with it.
func TestConfig_EveryMistakeIsNamed(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) < 30 {
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

// What the mistakes are held against.
func TestConfig_AGoodFile(t *testing.T) {
	c, err := parseConfig("good.yaml", []byte(`# all that must be there, and a list below its key
cluster: test
slurmrestd: unix:/run/slurmrestd.sock
jwt_token_file: /etc/pipefill/token
operators:
  - ann
`))
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Cluster, want.Slurmrestd, want.JWTTokenFile, want.Operators = "test", "unix:/run/slurmrestd.sock", "/etc/pipefill/token", []string{"ann"}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(Config{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c.Poll() != time.Second {
		t.Errorf("polls every %s", c.Poll())
	}
}

func TestConfig_AMistakeBelowItsKey(t *testing.T) {
	_, err := parseConfig("x.yaml", []byte("cluster: test\npartitions:\n  - fill\n  - [main]\npolicy: fifo\n"))
	if err == nil || err.Error() != "x.yaml: line 4: partitions: write one text" {
		t.Error(err)
	}
}
