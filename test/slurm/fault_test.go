//go:build slurm

package slurmtest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pipefill/controller/slurm"
)

// TestFillFaults kills daemons beside a running fill job: it must end once, and
// as its user meant it.
func TestFillFaults(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	c := newCluster(t, "--trace")

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

	main := c.trainer(t, 100000, generous)
	c.awaitJob(t, main, "to run", slurm.Job.Running)
	outs := map[int64]string{}
	for _, victim := range []string{"pipefillctld", "pipefilld.n0", "pipefilld.n1"} {
		t.Run(victim+" is killed and comes back", func(t *testing.T) {
			var ids []int64
			for i := range 2 {
				out := c.output(t, fmt.Sprintf("%s.%d", victim, i))
				id := c.sbatch(t, "pf_ann", busy(1500), "-p", "pipefill", "-o", out, "--open-mode=append")
				ids, outs[id] = append(ids, id), out
			}
			for _, id := range ids {
				await(t, fmt.Sprintf("job %d to begin", id), func() bool { return strings.Contains(c.read(t, outs[id]), "begun") })
			}
			c.kill(t, victim)
			c.script(t, "start", victim)
			for _, id := range ids {
				c.awaitJob(t, id, "to end", slurm.Job.Ended)
				c.completedOnce(t, id, outs[id])
			}
			c.checkLedger(t, ids...)
			if !c.job(t, main).Running() {
				t.Error("the main job has ended")
			}
		})
	}
	t.Run("nothing is charged again later", func(t *testing.T) {
		for id := range outs {
			c.checkLedger(t, id)
		}
		c.noneDrained(t)
	})
}

// kill ends a daemon as a crash would.
func (c *cluster) kill(t *testing.T, name string) {
	t.Helper()
	c.must(t, "root", "kill", "-9", strings.TrimSpace(c.read(t, filepath.Join(c.dir, "pid", name))))
}
