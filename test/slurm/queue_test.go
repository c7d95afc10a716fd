//go:build slurm

package slurmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill/controller/slurm"
)

// TestQueue holds what pipefill-cli queue says of jobs that wait for good, and
// that jobs without an assignment do not run.
func TestQueue(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld", "pipefill-cli")
	c := newCluster(t, "--trace")
	c.must(t, "root", "install", "-m", "755", repository(t)+"/build/pipefill-cli", c.dir+"/lib/")
	main := c.trainer(t, 100000, generous)
	c.awaitJob(t, main, "to run", slurm.Job.Running)

	t.Run("a job released behind the controller's back does not run", func(t *testing.T) {
		out := c.output(t, "escaped")
		id := c.sbatch(t, "pf_ann", "echo escaped as $(id -un)", "-p", "pipefill", "-o", out)
		c.must(t, "root", "scontrol", "release", fmt.Sprint(id))
		// Where the controller is quick it is held before it starts; else in task_init.
		c.awaitJob(t, id, "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		if text := c.read(t, out); strings.Contains(text, "escaped") {
			t.Errorf("it ran: %s", text)
		}
		if err := c.client.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
	})

	t.Run("a fill job that asks for a GPU waits for one", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "true", "-p", "pipefill", "--gres=gpu:1")
		c.queueSays(t, id, "QUEUED", "asks for a GPU")
		c.must(t, "pf_ann", "scancel", fmt.Sprint(id))
	})

	t.Run("a --no-requeue job that was started is not restarted", func(t *testing.T) {
		out := c.output(t, "once")
		id := c.sbatch(t, "pf_ann", busy(60000), "-p", "pipefill", "--no-requeue", "-o", out, "--open-mode=append")
		await(t, "the job to begin", func() bool { return strings.Contains(c.read(t, out), "begun") })
		// Nobody of pipefill asks for this: an operator does.
		c.must(t, "root", "scontrol", "update", fmt.Sprintf("JobId=%d", id), "Requeue=1")
		c.must(t, "root", "scontrol", "requeue", fmt.Sprint(id))
		c.awaitJob(t, id, "to end for good", slurm.Job.Ended)
		c.queueSays(t, id, "LOST", "requeued")
		if text := c.read(t, out); strings.Count(text, "begun") != 1 {
			t.Errorf("it was restarted: %q", text)
		}
		c.checkLedger(t, id)
	})

	t.Run("without its daemon a fill job ends held and pending", func(t *testing.T) {
		conf := c.dir + "/etc/plugstack.conf"
		text := strings.TrimSpace(c.read(t, conf))
		if err := os.WriteFile(conf, []byte(text+" hold_wait_s=1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c.script(t, "stop", "pipefillctld", "pipefilld.n0", "pipefilld.n1")
		out := c.output(t, "unassigned")
		id := c.sbatch(t, "pf_ann", busy(10), "-p", "pipefill", "-o", out)
		c.must(t, "root", "scontrol", "release", fmt.Sprint(id))
		c.awaitJob(t, id, "to start", slurm.Job.Running)
		c.awaitJob(t, id, "to be held", func(j slurm.Job) bool { return j.Pending() && j.Held })
		if text := c.read(t, out); strings.Contains(text, "begun") {
			t.Errorf("it ran: %q", text)
		}
		c.noneDrained(t)
		if !c.job(t, main).Running() {
			t.Error("the main job has ended")
		}
		c.must(t, "pf_ann", "scancel", fmt.Sprint(id))
		c.script(t, "start", "pipefillctld", "pipefilld.n0", "pipefilld.n1")
	})

	t.Run("a heterogeneous job stays held where no job_submit.lua refuses it", func(t *testing.T) {
		conf := c.dir + "/etc/slurm.conf"
		without := strings.Replace(c.read(t, conf), "JobSubmitPlugins=", "#JobSubmitPlugins=", 1)
		if err := os.WriteFile(conf, []byte(without), 0o644); err != nil {
			t.Fatal(err)
		}
		c.script(t, "stop", "slurmctld")
		c.script(t, "start", "slurmctld")
		await(t, "slurmctld", func() bool { _, err := c.as(t, "root", "scontrol", "ping"); return err == nil })
		out := c.output(t, "het")
		id := c.sbatch(t, "pf_ann", busy(10), "-p", "pipefill", "-H", "-n1", "-o", out, ":", "-p", "pipefill", "-n1")
		c.queueSays(t, id, "HELD", "heterogeneous")
		c.must(t, "pf_ann", "scontrol", "release", fmt.Sprint(id))
		for part := id; part <= id+1; part++ {
			c.awaitJob(t, part, "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		}
		if text := c.read(t, out); strings.Contains(text, "begun") {
			t.Errorf("it ran: %q", text)
		}
		c.noneDrained(t)
	})
}

// queueSays waits until pipefill-cli queue, asked by the job's user, has the
// state and the words in its row.
func (c *cluster) queueSays(t *testing.T, id int64, state, words string) {
	t.Helper()
	var row string
	said := poll(func() bool {
		out, err := c.as(t, "pf_ann", c.dir+"/lib/pipefill-cli", "queue")
		if err != nil {
			row = fmt.Sprint(err, ": ", out)
			return false
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 0 && f[0] == fmt.Sprint(id) {
				row = line
			}
		}
		return strings.Contains(row, state) && strings.Contains(row, words)
	})
	if !said {
		t.Errorf("job %d: the queue says %q, not %s, %q", id, row, state, words)
	}
}

// repository is where the tree is.
func repository(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
