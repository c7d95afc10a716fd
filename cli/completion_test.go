package cli_test

import (
	"os/exec"
	"strings"
	"testing"

	"pipefill/cli"
	goldenfile "pipefill/test/golden"
)

// The shipped files know every command and flag.
func TestCompletion_Files(t *testing.T) {
	for _, shell := range cli.Shells {
		goldenfile.Check(t, "../packaging/completion/pipefill-cli."+shell, cli.Completion(shell))
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
