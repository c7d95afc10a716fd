package controller

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pipefill"
)

// A bad file leaves the policies as they were and is said; a good one is taken;
// no job is lost by either.
func TestReloadPolicies(t *testing.T) {
	d := newDesk(t)
	dir := t.TempDir()
	write := func(source string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "fifo.policy"), []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		d.controller.ReloadPolicies(t.Context())
	}
	d.controller.cfg.PolicyDir = dir
	shipped := d.controller.policy
	waiting := d.controller.scheduler.Len()
	write("job.wait_h")
	faults := strings.Join(d.controller.Status().Faults, "\n")
	if d.controller.policy != shipped || !strings.Contains(faults, "fifo.policy: line 1, column 5") || !strings.Contains(faults, "wait_s, time_s") || !strings.Contains(faults, "stay as they were") {
		t.Errorf("after a bad file: %s", faults)
	}
	write("// Ours.\njob.wait_s * 2")
	if d.controller.policy == shipped || d.controller.policy.File == "" {
		t.Error("a good file is not taken")
	}
	if faults := d.controller.Status().Faults; len(faults) != 0 {
		t.Errorf("after a good file: %v", faults)
	}
	if list := d.controller.Policies(); list[0].Name != "fifo" || !list[0].Active || list[0].Text != "Ours." || len(list) < 8 {
		t.Errorf("the list: %+v", list)
	}
	if now := d.controller.scheduler.Len(); now != waiting {
		t.Errorf("%d jobs wait, %d did", now, waiting)
	}
	d.controller.cfg.Policy = "ours"
	d.controller.ReloadPolicies(t.Context())
	if faults := strings.Join(d.controller.Status().Faults, ""); !strings.Contains(faults, "ours is gone") {
		t.Errorf("a policy that is gone: %s", faults)
	}
}

// SIGHUP is what reloads: the second is taken when the first has been dealt with.
func TestOnHangup(t *testing.T) {
	d := newDesk(t)
	d.controller.cfg.PolicyDir = filepath.Join(t.TempDir(), "gone")
	hangup := make(chan os.Signal)
	go d.controller.onHangup(t.Context(), hangup)
	hangup <- syscall.SIGHUP
	hangup <- syscall.SIGHUP
	if faults := strings.Join(d.controller.Status().Faults, ""); !strings.Contains(faults, "policy_dir") {
		t.Errorf("after SIGHUP: %q", faults)
	}
}

func TestReadLimitsAndShares(t *testing.T) {
	limits, err := readLimits([]string{"user:*=8", "user:ann=16", "account:physics=32", "account:*=0"})
	if err != nil || limits.PerUser != 8 || limits.Users["ann"] != 16 || limits.PerAccount != 0 || limits.Accounts["physics"] != 32 {
		t.Errorf("%+v, %v", limits, err)
	}
	for _, line := range []string{"", "ann=4", "user:=4", "user:ann", "user:ann=-1", "user:ann=x", "group:x=1"} {
		if _, err := readLimits([]string{line}); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("limit %q: %v", line, err)
		}
	}
	if shares, err := readShares([]string{"physics=4", "x=0.5"}); err != nil || shares["physics"] != 4 || shares["x"] != 0.5 {
		t.Errorf("%v, %v", shares, err)
	}
	for _, line := range []string{"", "physics", "=4", "physics=-1", "physics=NaN", "physics=Inf"} {
		if _, err := readShares([]string{line}); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("share %q: %v", line, err)
		}
	}
}
