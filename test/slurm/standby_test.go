//go:build slurm

package slurmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pipefill/controller/slurm"
)

// TestStandby runs two whole controllers on one state directory: the second is
// refused, or waits as a standby; when the first is killed it takes over, and no
// job notices.
func TestStandby(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	c := newCluster(t, "--trace")
	main := c.trainer(t, 100000, generous)
	c.awaitJob(t, main, "to run", slurm.Job.Running)

	second := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), repository(t)+"/build/pipefillctld", append([]string{"--config", c.dir + "/etc/pipefillctld.yaml"}, args...)...)
		cmd.Env = c.env
		return cmd
	}
	out, err := second().CombinedOutput()
	if status := exitStatus(err); status != 4 || !strings.Contains(string(out), "is used by another pipefillctld") {
		t.Fatalf("a second controller: status %d, %s", status, out)
	}

	log, err := os.OpenFile(c.dir+"/log/pipefillctld.standby.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	standby := second("--standby")
	standby.Stdout, standby.Stderr = log, log
	if err := standby.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- standby.Wait() }()
	t.Cleanup(func() {
		_ = standby.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended                                     //nolint:errcheck // it may have been killed
		_ = log.Close()
	})
	await(t, "the standby to wait", func() bool { return strings.Contains(c.read(t, log.Name()), "another pipefillctld may live, waiting") })

	var ids []int64
	outs := map[int64]string{}
	for i := range 4 {
		out := c.output(t, fmt.Sprintf("standby%d", i))
		id := c.sbatch(t, "pf_ann", busy(600), "-p", "pipefill", "-o", out, "--open-mode=append")
		ids, outs[id] = append(ids, id), out
	}
	await(t, "a fill job to begin", func() bool {
		for _, out := range outs {
			if strings.Contains(c.read(t, out), "begun") {
				return true
			}
		}
		return false
	})
	if strings.Contains(c.read(t, log.Name()), "msg=ready") {
		t.Fatal("the standby acts while the first lives")
	}
	c.kill(t, "pipefillctld")
	await(t, "the standby to take over", func() bool { return strings.Contains(c.read(t, log.Name()), "msg=ready") })
	ids = append(ids, c.sbatch(t, "pf_ann", busy(50), "-p", "pipefill", "-o", c.output(t, "after"), "--open-mode=append"))
	outs[ids[4]] = filepath.Join(c.dir, "log", "after.out")
	for _, id := range ids {
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		text := c.read(t, outs[id])
		if j.State != "COMPLETED" || j.Restarts != 0 || strings.Count(text, "begun") != 1 || strings.Count(text, "ended") != 1 {
			t.Errorf("job %d is %s, requeued %d times: %q", id, j.State, j.Restarts, text)
		}
		await(t, fmt.Sprintf("job %d to be completed in the queue", id), func() bool {
			row, err := c.controller(t).Job(t.Context(), id)
			return err == nil && row.State == "completed"
		})
		c.checkLedger(t, id)
	}
	if !c.job(t, main).Running() {
		t.Error("the main job has ended")
	}
}

func exitStatus(err error) int {
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // as exec returns it
		return exit.ExitCode()
	}
	return 0
}
