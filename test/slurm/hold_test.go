//go:build slurm

package slurmtest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/controller/slurm"
)

// TestHold takes jobs through hold, pin, release and requeue with the real
// slurmrestd and scontrol.
func TestHold(t *testing.T) {
	c := newCluster(t, "--no-daemons", "--no-plugin")

	t.Run("speaks the newest version served", func(t *testing.T) {
		version, err := c.client.Ping(t.Context())
		if err != nil || version != "v0.0.38" {
			t.Errorf("%s, %v", version, err)
		}
		nodes, err := c.client.Nodes(t.Context())
		if err != nil || len(nodes) != 2 || nodes[0].Down || nodes[0].CPUs != 2 || nodes[0].FreeBytes != 4000<<20 {
			t.Errorf("%+v, %v", nodes, err)
		}
	})

	t.Run("an unknown job is not found", func(t *testing.T) {
		if _, err := c.client.Job(t.Context(), 999999999); pipefill.ErrorCode(err) != pipefill.CodeNotFound {
			t.Errorf("got %v", err)
		}
		if err := c.client.Cancel(t.Context(), 999999999); err != nil {
			t.Errorf("cancel: %v", err)
		}
	})

	t.Run("a fill job waits, runs where it is pinned, and comes back held", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill", "--time=10")
		j := c.job(t, id)
		if !j.Held || !j.Pending() || !j.Requeue || !j.Batch || j.User != "pf_ann" || j.TimeLimitMin != 10 {
			t.Fatalf("submitted: %+v", j)
		}
		if err := c.client.PinRelease(t.Context(), id, "n1"); err != nil {
			t.Fatal(err)
		}
		j = c.awaitJob(t, id, "to run", slurm.Job.Running)
		if j.Nodes != "n1" || j.PinnedNode != "n1" || j.RequestedNodes != "" {
			t.Errorf("running: %+v", j)
		}
		if err := c.client.PinRelease(t.Context(), id, "n1"); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := c.client.SetTimeLimit(t.Context(), id, 90); err != nil {
			t.Error(err)
		}
		if got := c.job(t, id).TimeLimitMin; got != 90 {
			t.Errorf("limit %d", got)
		}
		if err := c.client.RequeueHold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		c.awaitJob(t, id, "to be pending and held", func(j slurm.Job) bool { return j.Pending() && j.Held })

		// The second attempt must not wait for the 121 s that a requeue costs.
		if err := c.client.PinRelease(t.Context(), id, "n0"); err != nil {
			t.Fatal(err)
		}
		j = c.awaitJob(t, id, "to run again", slurm.Job.Running)
		if j.Nodes != "n0" || j.Restarts != 1 {
			t.Errorf("second attempt: %+v", j)
		}
		if err := c.client.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
		c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if err := c.client.Cancel(t.Context(), id); err != nil {
			t.Errorf("cancel again: %v", err)
		}
	})

	t.Run("its user's own node list survives a pin", func(t *testing.T) {
		id := c.sbatch(t, "pf_bob", "sleep 300", "-p", "pipefill", "-w", "n1", "-x", "n0")
		if err := c.client.PinRelease(t.Context(), id, "n0"); pipefill.ErrorCode(err) != pipefill.CodeConflict {
			t.Errorf("pinned against its user's will: %v", err)
		}
		if err := c.client.PinRelease(t.Context(), id, "n1"); err != nil {
			t.Fatal(err)
		}
		if j := c.job(t, id); j.PinnedNode != "n1" || j.RequestedNodes != "n1" {
			t.Errorf("pinned: %+v", j)
		}
		if err := c.client.RequeueHold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		c.awaitJob(t, id, "to be held", func(j slurm.Job) bool { return j.Pending() && j.Held })
		if err := c.client.Hold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if j := c.job(t, id); j.PinnedNode != "" || j.RequestedNodes != "n1" || j.ExcludedNodes != "n0" {
			t.Errorf("unpinned: %+v", j)
		}
	})

	t.Run("array tasks are held, released and cancelled one by one", func(t *testing.T) {
		first := c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill", "--array=1-6")
		tasks := func() map[int64]slurm.Job {
			l, err := c.client.List(t.Context(), []string{"pipefill"}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			found := map[int64]slurm.Job{}
			for _, j := range l.Jobs {
				if j.ArrayID == first && !j.Ended() {
					found[j.ArrayTask] = j
				}
			}
			return found
		}
		l, err := c.client.List(t.Context(), []string{"pipefill"}, time.Time{})
		i := slices.IndexFunc(l.Arrays, func(a slurm.Array) bool { return a.ID == first })
		if err != nil || i < 0 || len(l.Arrays[i].Tasks) != 6 {
			t.Fatalf("%+v, %v, want an array of six tasks", l.Arrays, err)
		}
		if err := c.client.Split(t.Context(), l.Arrays[i], 4); err != nil {
			t.Fatal(err)
		}
		before := tasks()
		if len(before) != 4 || !before[1].Held || !before[4].Held {
			t.Fatalf("split: %+v", before)
		}
		if err := c.client.PinRelease(t.Context(), before[2].ID, "n1"); err != nil {
			t.Fatal(err)
		}
		c.awaitJob(t, before[2].ID, "to run", slurm.Job.Running)
		for task, j := range tasks() {
			if task != 2 && !j.Held {
				t.Errorf("task %d was released too: %+v", task, j)
			}
		}
		for _, task := range []int64{1, 3} {
			if err := c.client.Cancel(t.Context(), before[task].ID); err != nil {
				t.Error(err)
			}
		}
		// The last task of the record carries the array's own number: only it may go. Tasks come forth as others leave.
		for range 3 {
			for _, j := range tasks() {
				if j.ArrayTask >= 4 {
					if err := c.client.Cancel(t.Context(), j.ID); err != nil {
						t.Error(err)
					}
				}
			}
		}
		left := tasks()
		if len(left) != 1 || !left[2].Running() {
			t.Errorf("the running task went with the others: %+v", left)
		}
	})

	t.Run("a job that may not be requeued comes back all the same", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill", "--no-requeue")
		if j := c.job(t, id); j.Requeue || !strings.Contains(j.AdminComment, "norequeue") {
			t.Errorf("submitted: %+v", j)
		}
		if err := c.client.PinRelease(t.Context(), id, "n0"); err != nil {
			t.Fatal(err)
		}
		c.awaitJob(t, id, "to run", slurm.Job.Running)
		if err := c.client.RequeueHold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		j := c.awaitJob(t, id, "to be held", func(j slurm.Job) bool { return j.Pending() && j.Held })
		if j.Requeue {
			t.Error("the user's --no-requeue was forgotten")
		}
	})
}
