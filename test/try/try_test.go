//go:build slurm

// Package trytest runs pipefill-cli try as a person would: real processes, the
// real daemon, no Slurm.
package trytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

type fill struct {
	Device   string `json:"device"`
	State    string `json:"state"`
	Reason   string `json:"reason"`
	ExitCode int    `json:"exit_code"`
	DeviceNs int64  `json:"device_ns"`
	Output   string `json:"output"`
}

type result struct {
	Main struct {
		Iterations int `json:"iterations"`
	} `json:"main"`
	Bubbles struct {
		Seconds       float64 `json:"seconds"`
		FilledSeconds float64 `json:"filled_seconds"`
		UsefulPct     float64 `json:"useful_pct"`
	} `json:"bubbles"`
	Fills     []fill `json:"fills"`
	MainExit  int    `json:"main_exit"`
	Announced bool   `json:"announced"`
}

const (
	cli   = "../../build/pipefill-cli"
	user0 = "pf_train"
)

// trainer is a main job of some iterations of two bubbles of 25 ms.
func trainer(t *testing.T, iterations int) string {
	t.Helper()
	dir := shared(t)
	for from, mode := range map[string]os.FileMode{"../../build/libpipefill.so": 0o755, "../slurm/testdata/bubbles.py": 0o644} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Skipf("run make first: %v", err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(from)), text, mode); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("/usr/bin/python3 %[1]s/bubbles.py %[1]s/libpipefill.so %[2]d 10 25", dir, iterations)
}

// shared is a folder that every user may enter.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pf-try-test-") //nolint:usetesting // t.TempDir() is for root only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// try runs the command; everything the machine has is idle enough for it.
func try(ctx context.Context, t *testing.T, args ...string) (r result, errs string, status int) {
	t.Helper()
	return tryUnder(ctx, t, nil, args...)
}

// tryUnder runs the command by another, which ends its own arguments with it.
func tryUnder(ctx context.Context, t *testing.T, under []string, args ...string) (r result, errs string, status int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := user.Lookup(user0); err != nil {
		t.Skipf("packaging/setup makes the user: %v", err)
	}
	dir := filepath.Join(shared(t), "run")
	args = append([]string{cli, "try", "--json", "--dir", dir, "--user", user0, "--device", "cpu:1", "--options", "budget=50%"}, args...)
	args = append(append([]string{}, under...), args...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	var out, say bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &say
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		t.Fatalf("%v: %s", err, say.String())
	}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
	}
	return r, say.String(), cmd.ProcessState.ExitCode()
}

func TestTry(t *testing.T) {
	r, say, status := try(t.Context(), t, "--main", trainer(t, 150), "--set", "min_ms=1", "--alone", "1",
		"--fill", "id -un; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done", "--fill", "exit 3", "--fill", "while :; do :; done")
	if status != 0 || r.MainExit != 0 || !r.Announced || r.Main.Iterations < 149 || len(r.Fills) != 3 {
		t.Fatalf("status %d, %+v\n%s", status, r, say)
	}
	first, second, third := r.Fills[0], r.Fills[1], r.Fills[2]
	if first.State != "completed" || first.Device != "cpu:1" || first.DeviceNs == 0 {
		t.Errorf("the first: %+v", first)
	}
	if text, err := os.ReadFile(first.Output); err != nil || string(text) != user0+"\n" {
		t.Errorf("its output: %q, %v", text, err)
	}
	if second.State != "failed" || second.ExitCode != 3 || second.Reason != "exit status 3" {
		t.Errorf("the second: %+v", second)
	}
	if third.State != "evicted" || third.Reason != "the main job ended" {
		t.Errorf("the third: %+v", third)
	}
	if b := r.Bubbles; b.Seconds <= 0 || b.FilledSeconds <= 0 || b.FilledSeconds > b.Seconds || b.UsefulPct <= 0 {
		t.Errorf("%+v", b)
	}
}

// A host of today has the v2 hierarchy alone: no cpuset, cpu or devices groups.
func TestTry_CgroupV2Only(t *testing.T) {
	const alone = "umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\""
	under := []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", alone, "sh"}
	r, say, status := tryUnder(t.Context(), t, under, "--main", trainer(t, 100), "--set", "min_ms=1",
		"--fill", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	if status != 0 || len(r.Fills) != 1 || r.Fills[0].State != "completed" || r.Fills[0].DeviceNs == 0 {
		t.Fatalf("status %d, %+v\n%s", status, r, say)
	}
	if b := r.Bubbles; b.FilledSeconds <= 0 || b.FilledSeconds > b.Seconds {
		t.Errorf("%+v", b)
	}
}

func TestTry_NothingIsLeft(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, say, _ := try(ctx, t, "--main", trainer(t, 1_000_000), "--fill", "exec sleep 1000000 # pf-try-left")
	out, err := exec.CommandContext(t.Context(), "pgrep", "-f", "pf-try-left|bubbles.py.* 1000000 ").Output()
	if err == nil && len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("processes %q are left after an interrupt: %s", out, say)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/pipefill_try_try")
	if err != nil || len(groups) > 0 {
		t.Errorf("groups %v are left, %v", groups, err)
	}
}

func TestTry_Failures(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"a main job that fails":             {[]string{"--main", "exit 7", "--fill", "true"}, 1, "the main job ended with exit status 7"},
		"a main job that announces nothing": {[]string{"--main", "true", "--fill", "true"}, 3, "announced no iteration"},
		"a setting that pipefilld refuses":  {[]string{"--main", "true", "--fill", "true", "--set", "guard_ms=-1"}, 5, "guard_ms: -1: write 0 to 1000"},
		"a core that the machine has not":   {[]string{"--main", "true", "--fill", "true", "--device", "cpu:8000"}, 5, "no core 8000"},
		"a user that the machine has not":   {[]string{"--main", "true", "--fill", "true", "--user", "nobody_of_that_name"}, 3, "no user"},
		"a folder that is not empty":        {[]string{"--main", "true", "--fill", "true", "--dir", "/etc"}, 2, "new or empty folder"},
		"a GPU with mode signal":            {[]string{"--main", "true", "--fill", "true", "--device", "gpu:GPU-1"}, 2, "mode=chunked"},
		"a core with mode launch":           {[]string{"--main", "true", "--fill", "true", "--device", "cpu:1", "--mode", "launch"}, 2, "mode=launch is for GPUs"},
	} {
		t.Run(name, func(t *testing.T) {
			_, say, status := try(t.Context(), t, c.args...)
			if status != c.status || !strings.Contains(say, c.says) {
				t.Errorf("status %d: %s", status, say)
			}
		})
	}
}

func TestTry_NotRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	bin := filepath.Join(shared(t), "pipefill-cli")
	text, err := os.ReadFile(cli)
	if err != nil {
		t.Skipf("run make first: %v", err)
	}
	if err := os.WriteFile(bin, text, 0o755); err != nil {
		t.Fatal(err)
	}
	var uid, gid uint32
	if _, err := fmt.Sscan(nobody.Uid+" "+nobody.Gid, &uid, &gid); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "try", "--main", "true", "--fill", "true")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 6 || !strings.Contains(string(out), "only root") {
		t.Errorf("status %d: %s", cmd.ProcessState.ExitCode(), out)
	}
}
