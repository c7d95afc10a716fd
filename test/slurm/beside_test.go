//go:build slurm

package slurmtest

import (
	"testing"
	"time"

	"pipefill/controller/slurm"
)

// TestBeside holds the shipped partitions to what pipefill rests on: a fill job
// starts on nodes whose CPUs a main job has taken, and keeps no main job out.
func TestBeside(t *testing.T) {
	c := newCluster(t, "--no-daemons", "--no-plugin")

	first := c.sbatch(t, "pf_train", "sleep 300", "-p", "main", "-N2", "-c2", "--mem=2000", "--gres=gpu:1")
	c.awaitJob(t, first, "to run", slurm.Job.Running)
	fills := map[string]int64{}
	for _, node := range []string{"n0", "n1"} {
		fills[node] = c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill")
		if err := c.client.PinRelease(t.Context(), fills[node], node); err != nil {
			t.Fatal(err)
		}
	}
	for node, id := range fills {
		if j := c.awaitJob(t, id, "to run beside the main job", slurm.Job.Running); j.Nodes != node {
			t.Errorf("pinned to %s, runs on %s", node, j.Nodes)
		}
	}

	second := c.sbatch(t, "pf_train", "sleep 300", "-p", "main", "-N2", "-c2", "--mem=1000")
	l, err := c.client.List(t.Context(), []string{"pipefill"}, time.Time{})
	if err != nil || len(l.Main) != 1 || l.Main[0].ID != second {
		t.Errorf("pending main jobs %+v, %v, want %d", l.Main, err, second)
	}
	if err := c.client.Cancel(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	c.awaitJob(t, second, "to run though fill jobs are there", slurm.Job.Running)
	for _, id := range fills {
		if !c.job(t, id).Running() {
			t.Errorf("fill job %d went with the main job", id)
		}
	}
}
