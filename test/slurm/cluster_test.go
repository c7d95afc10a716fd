//go:build slurm

package slurmtest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pipefill/api"
	"pipefill/controller/slurm"
)

// patience is how long a test waits for Slurm, which itself looks about once a
// second; a loaded machine takes several times that, and a fill job whose slot
// went away on its way there starts again after 15 s.
const patience = 60 * time.Second

// cluster is a running private cluster.
type cluster struct {
	dir    string
	env    []string
	client *slurm.Client
}

// newCluster starts a cluster with the switches of test/cluster/cluster up, and
// ends it with the test: whatever is left over then fails it.
func newCluster(t *testing.T, switches ...string) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, as Slurm's daemons do")
	}
	dir, err := os.MkdirTemp("", "pf") //nolint:usetesting // t.TempDir is too long for sockets and shut to the jobs' users
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the fill jobs' users read it
		t.Fatal(err)
	}
	c := &cluster{dir: dir, env: os.Environ()}
	script := func(args ...string) (string, error) {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "../cluster/cluster", args...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, stderr.String())
		}
		return stdout.String(), err
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.logTails(t)
		}
		if _, err := script("down", dir); err != nil {
			t.Errorf("cluster down: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// Of the idle class a fill job gets no core at all where others' programs have
	// them, as on a machine that tests something else besides.
	switches = append([]string{"--node=fill_sched: normal"}, switches...)
	if _, err := script(append(append([]string{"up"}, switches...), dir)...); err != nil {
		t.Fatalf("cluster up: %v", err)
	}
	lines, err := script("env", dir)
	if err != nil {
		t.Fatalf("cluster env: %v", err)
	}
	for line := range strings.Lines(lines) {
		c.env = append(c.env, strings.TrimPrefix(strings.TrimSpace(line), "export "))
	}
	c.client, err = slurm.New(slurm.Config{
		Endpoint: "unix:" + dir + "/rest/slurmrestd.sock", TokenFile: dir + "/etc/root.jwt", SlurmConf: dir + "/etc/slurm.conf",
	}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) logTails(t *testing.T) {
	if client, err := api.NewClient("unix:"+c.dir+"/run/pipefillctld.sock", nil); err == nil {
		slots, err := client.Slots(context.WithoutCancel(t.Context()))
		for _, s := range slots {
			t.Logf("slot %s %s: fill job %d, enabled %t %q, totals %+v", s.Node, s.Main.Device, s.FillJob, s.Main.Enabled, s.Main.Reason, s.Main.Totals)
		}
		if err != nil {
			t.Logf("slots: %v", err)
		}
	}
	logs, _ := filepath.Glob(c.dir + "/log/[ps]*.log")
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		t.Logf("%s:\n%s", filepath.Base(path), strings.Join(lines[max(0, len(lines)-12):], "\n"))
	}
}

// as runs a command as a user; the output is stdout and stderr together.
func (c *cluster) as(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatalf("user %s has ids %s, %s", name, u.Uid, u.Gid)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = "/tmp", c.env
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must runs a command as a user and fails the test if it fails.
func (c *cluster) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := c.as(t, name, args...)
	if err != nil {
		t.Fatalf("%s: %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return out
}

var submitted = regexp.MustCompile(`Submitted batch job (\d+)`)

// sbatch submits a script's text as a user and returns the job's number.
func (c *cluster) sbatch(t *testing.T, name, script string, options ...string) int64 {
	t.Helper()
	out := c.must(t, name, append(append([]string{"sbatch", "--output=/dev/null"}, options...), "--wrap", script)...)
	m := submitted.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("sbatch said %q", out)
	}
	id, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// job reads a job, which must exist.
func (c *cluster) job(t *testing.T, id int64) slurm.Job {
	t.Helper()
	j, err := c.client.Job(t.Context(), id)
	if err != nil {
		t.Fatalf("job %d: %v", id, err)
	}
	return j
}

// await polls until ok; what says what was waited for.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !poll(ok) {
		t.Fatalf("waited %s for %s", patience, what)
	}
}

// poll asks until ok, which it returns, or until patience ends.
func poll(ok func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}

// awaitJob polls a job until ok.
func (c *cluster) awaitJob(t *testing.T, id int64, what string, ok func(slurm.Job) bool) slurm.Job {
	t.Helper()
	var last slurm.Job
	await(t, fmt.Sprintf("job %d %s", id, what), func() bool {
		last = c.job(t, id)
		return ok(last)
	})
	return last
}
