package cli_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill/cli"
)

// The shipped files know every command and flag.
func TestCompletion_Files(t *testing.T) {
	for _, shell := range cli.Shells {
		path, got := "../packaging/completion/pipefill-cli."+shell, cli.Completion(shell)
		if *update {
			if err := os.MkdirAll("../packaging/completion", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-update writes it anew):\n%s", path, d)
		}
	}
}

// bash takes it as it is meant, and no program runs for it.
func TestCompletion_InBash(t *testing.T) {
	for line, want := range map[string]string{
		"pipefill-cli rep":                            "report",
		"pipefill-cli report no":                      "node",
		"pipefill-cli --controller unix:/x report cl": "cluster",
		"pipefill-cli drain --ev":                     "--evict",
		"pipefill-cli archive du":                     "dump",
		"pipefill-cli cancel 12 -- ":                  "",
	} {
		script := `source ../packaging/completion/pipefill-cli.bash; pipefill-cli() { echo "it ran"; }
COMP_WORDS=($1); [[ $1 != *" " ]] || COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _pipefill_cli; echo "${COMPREPLY[*]}"`
		out, err := exec.CommandContext(t.Context(), "bash", "-c", script, "bash", line).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%q: %q, %v, want %q", line, out, err, want)
		}
	}
}
