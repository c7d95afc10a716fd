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

	main := c.trainer(t, 100000, "--pipefill")
	c.awaitJob(t, main, "to run", slurm.Job.Running)
	// Two seconds of CPU time: long enough to be killed into.
	const work = "echo begun; i=0; while [ $i -lt 1200000 ]; do i=$((i+1)); done; echo ended"
	for _, victim := range []string{"pipefillctld", "pipefilld.n0", "pipefilld.n1"} {
		t.Run(victim+" is killed and comes back", func(t *testing.T) {
			outs := map[int64]string{}
			for i := range 2 {
				out := c.output(t, fmt.Sprintf("%s.%d", victim, i))
				outs[c.sbatch(t, "pf_ann", work, "-p", "pipefill", "-o", out, "--open-mode=append")] = out
			}
			for id, out := range outs {
				await(t, fmt.Sprintf("job %d to begin", id), func() bool { return strings.Contains(c.read(t, out), "begun") })
			}
			pid := strings.TrimSpace(c.read(t, filepath.Join(c.dir, "pid", victim)))
			c.must(t, "root", "kill", "-9", pid)
			c.script(t, "start", victim)
			for id, out := range outs {
				j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
				text := c.read(t, out)
				if j.State != "COMPLETED" || strings.Count(text, "ended") != 1 || strings.Count(text, "begun") != j.Restarts+1 {
					t.Errorf("%s after %d restarts: %s", j.State, j.Restarts, text)
				}
			}
			if !c.job(t, main).Running() {
				t.Error("the main job has ended")
			}
		})
	}
}
