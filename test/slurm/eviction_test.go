//go:build slurm

package slurmtest

import (
	"fmt"
	"strings"
	"testing"

	"pipefill/api"
	"pipefill/controller/slurm"
)

// TestEviction takes main jobs, fill jobs and memory away while fill jobs run.
func TestEviction(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	c := newCluster(t, "--trace")
	// Trainers end when a rank does; a bare srun would wait for the others.
	first := c.trainer(t, 100000, generous, "--export=ALL,SLURM_KILL_BAD_EXIT=1")

	var evicted, ended, never []int64
	outs := map[int64]string{}
	fill := func(name, script string, options ...string) int64 {
		t.Helper()
		out := c.output(t, name)
		id := c.sbatch(t, "pf_ann", script, append([]string{"-p", "pipefill", "-o", out, "--open-mode=append"}, options...)...)
		outs[id] = out
		await(t, fmt.Sprintf("job %d (%s) to begin", id, name), func() bool { return strings.Contains(c.read(t, out), "begun") })
		return id
	}

	t.Run("a rank is killed inside a bubble", func(t *testing.T) {
		evicted = append(evicted, fill("evicted", busy(2000)))
		never = append(never, fill("norequeue", busy(60000), "--no-requeue"))
		// It sleeps in its bubbles, most of the time.
		pids := strings.Fields(c.must(t, "root", "pgrep", "-f", "^/usr/bin/python3 "+c.dir+"/lib/bubbles.py"))
		c.must(t, "root", "kill", "-9", pids[len(pids)-1])
		j := c.awaitJob(t, first, "to end as srun ends it", slurm.Job.Ended)
		if j.State != "FAILED" {
			t.Errorf("the main job is %s", j.State)
		}
		c.awaitJob(t, evicted[0], "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		n := c.awaitJob(t, never[0], "to end", slurm.Job.Ended)
		if n.State == "COMPLETED" || n.Restarts != 0 {
			t.Errorf("a job that may not be requeued: %+v", n)
		}
		await(t, "the controller to say that it was evicted", func() bool { return c.fillJob(t, never[0]).State == "evicted" })
	})

	second := c.trainer(t, 100000, generous)
	t.Run("an evicted fill job comes back and completes", func(t *testing.T) {
		j := c.awaitJob(t, evicted[0], "to end", slurm.Job.Ended)
		if j.Restarts != 1 {
			t.Errorf("%+v", j)
		}
		c.completedOnce(t, evicted[0], outs[evicted[0]])
		c.checkLedger(t, evicted[0], never[0])
	})

	t.Run("its user cancels a running fill job", func(t *testing.T) {
		id := fill("cancelled", busy(60000))
		c.must(t, "pf_ann", "scancel", fmt.Sprint(id))
		if j := c.awaitJob(t, id, "to end", slurm.Job.Ended); j.State != "CANCELLED" {
			t.Errorf("%+v", j)
		}
		await(t, "the controller to say that it was cancelled", func() bool { return c.fillJob(t, id).State == "cancelled" })
		c.checkLedger(t, id)
		ended = append(ended, id)
	})

	t.Run("the main job is cancelled", func(t *testing.T) {
		id := fill("left", busy(2000))
		c.must(t, "pf_train", "scancel", fmt.Sprint(second))
		c.awaitJob(t, second, "to end", slurm.Job.Ended)
		c.awaitJob(t, id, "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		c.must(t, "pf_ann", "scancel", fmt.Sprint(id))
		await(t, "the controller to say that it was cancelled", func() bool { return c.fillJob(t, id).State == "cancelled" })
		c.checkLedger(t, id)
		ended = append(ended, id)
	})

	t.Run("a main job that waits for memory gets it", func(t *testing.T) {
		third := c.trainer(t, 100000, generous, "-c1")
		id := fill("large", busy(60000), "--mem=2500")
		node := c.job(t, id).Nodes
		waiting := c.sbatch(t, "pf_train", "sleep 600", "-p", "main", "-n1", "-c1", "-w", node, "--mem=2500")
		c.awaitJob(t, waiting, "to run", slurm.Job.Running)
		c.awaitJob(t, id, "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		if !c.job(t, third).Running() {
			t.Error("the main job beside it has ended")
		}
		c.must(t, "pf_train", "scancel", fmt.Sprint(waiting))
		c.must(t, "pf_ann", "scancel", fmt.Sprint(id))
		c.awaitJob(t, id, "to end", slurm.Job.Ended)
		c.checkLedger(t, id)
	})

	t.Run("what has ended stays so", func(t *testing.T) {
		for _, id := range append(never, ended...) {
			if text := c.read(t, outs[id]); strings.Count(text, "begun") != 1 || strings.Contains(text, "ended") {
				t.Errorf("job %d: %q", id, text)
			}
		}
		c.noneDrained(t)
	})
}

// fillJob is what the controller says of a fill job.
func (c *cluster) fillJob(t *testing.T, id int64) api.FillJob {
	t.Helper()
	j, err := c.controller(t).Job(t.Context(), id)
	if err != nil {
		t.Fatalf("fill job %d: %v", id, err)
	}
	return j
}
