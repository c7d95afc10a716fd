package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The program's side is tested in engine/tests/test_profiler.py; here a shell
// stands for it, which sees what it is handed.
func TestProfile(t *testing.T) {
	out := filepath.Join(t.TempDir(), "p.json")
	run1 := func(args ...string) (int, string, string) {
		return run(t, "unix:/nowhere", append([]string{"profile", "--out", out}, args...)...)
	}
	script := `echo "$PIPEFILL_PROFILE_BATCH_SIZES $PIPEFILL_PROFILE_TECHNIQUES $PIPEFILL_PROFILE_WARMUP $PIPEFILL_PROFILE_REPEATS $1" >"$PIPEFILL_PROFILE_OUT"`
	status, stdout, stderr := run1("--batch-size=2,8", "--technique=plain,checkpoint+offload-params", "--repeats=5", "--json", "--", "sh", "-c", script, "sh", "-x")
	const want = "2,8 plain,checkpoint+offload-params 3 5 -x\n"
	if status != 0 || stdout != want {
		t.Errorf("status %d, %q, want %q; %s", status, stdout, want, stderr)
	}

	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"sh", "-c", "exit 3"}, 4, "profile: sh failed: exit status 3"},
		{[]string{"true"}, 4, "ended and measured nothing: it must loop over pipefill.fill"},
		{[]string{"no-such-program"}, 3, "there is no program no-such-program"},
		{nil, 2, "write the command that is to be measured"},
		{[]string{"--batch-size=8,x", "true"}, 2, `"x" is no whole number, 1 or more`},
		{[]string{"--batch-size=", "true"}, 2, `"" is no whole number`},
		{[]string{"--batch-size=0", "true"}, 2, `"0" is no whole number`},
		{[]string{"--technique=plain,fast", "true"}, 2, `"fast" is none; valid are plain, checkpoint`},
		{[]string{"--technique=", "true"}, 2, `"" is none`},
		{[]string{"--repeats=1", "true"}, 2, "--repeats: must be 2 or more, not 1"},
		{[]string{"--warm-up=0", "true"}, 2, "--warm-up: must be 1 or more, not 0"},
		{[]string{"--out=/no/such/folder/p", "sh", "-c", `echo >"$PIPEFILL_PROFILE_OUT"`}, 4, "failed"},
	} {
		status, _, stderr := run1(c.args...)
		if status != c.status || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: status %d, %q; want %d and %q", c.args, status, stderr, c.status, c.want)
		}
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != want {
		t.Errorf("a run that failed touched the last profile: %q, %v", text, err)
	}
}
