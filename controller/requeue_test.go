package controller

import (
	"strings"
	"testing"

	"pipefill"
)

// until lets seconds pass until something holds.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for range 300 {
		if holds() {
			return
		}
		w.second()
	}
	w.t.Fatalf("waited 300 s for %s", what)
}

// hear lets a job's node tell that it has ended, and nothing else happen.
func (w *world) hear(j *worldJob) {
	w.t.Helper()
	n := w.nodes[j.Nodes]
	for range 20 {
		if len(w.ctl.heardOf(n.name).Ends) > 0 {
			return
		}
		w.sync(n)
	}
	w.t.Fatal("the controller has not heard of the end")
}

// notRunAgain holds a job that Slurm requeued against what the queue and Slurm are
// to say of it in the end.
func (w *world) notRunAgain(j *worldJob) {
	w.t.Helper()
	w.until("Slurm to cancel it", func() bool { return j.State == "CANCELLED" })
	w.settle()
	w.check()
	row, err := w.store.JobByID(w.t.Context(), "test", j.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	if row.Outcome != pipefill.OutcomeCompleted || !strings.Contains(row.Reason, "requeued it after it had completed") || j.completed != 1 || j.started != 1 {
		w.t.Errorf("the queue says %q (%s), it was started %d times and came to its end %d times", row.Outcome, row.Reason, j.started, j.completed)
	}
	if j.State != "CANCELLED" || j.AdminComment != notAgain {
		w.t.Errorf("Slurm says %s, comment %q", j.State, j.AdminComment)
	}
}

// A node is lost to Slurm between a job's end there and Slurm's own word of it,
// and Slurm requeues the job.
func TestWorld_RequeuedAfterItsEnd(t *testing.T) {
	ended := func(w *world, j *worldJob, unheard float64) {
		w.endsUnheard = unheard
		w.until("the job's end", func() bool { return j.completed == 1 })
		w.endsUnheard = 0
	}
	outcome := func(w *world, id int64) pipefill.Outcome {
		row, err := w.store.JobByID(w.t.Context(), "test", id)
		if err != nil {
			t.Fatal(err)
		}
		return row.Outcome
	}
	start := func(t *testing.T) (*world, *worldJob) {
		w := newWorld(t, 3, 1)
		j := w.jobs[100]
		j.once, j.Requeue = false, true
		return w, j
	}

	t.Run("after it ran by Slurm's word: it is not run again", func(t *testing.T) {
		w, j := start(t)
		ended(w, j, 1)
		w.hear(j)
		w.ctl.Look(t.Context()) // asks, and hears that it runs
		if o := outcome(w, j.ID); o != "" {
			t.Fatalf("it has ended as %q before Slurm requeued it", o)
		}
		w.loseEnd(j)
		w.notRunAgain(j)
	})

	t.Run("after slurmctld was away and has forgotten the end", func(t *testing.T) {
		w, j := start(t)
		ended(w, j, 1)
		w.hear(j)
		w.down = true
		w.ctl.Look(t.Context())
		w.down = false
		w.loseEnd(j)
		w.notRunAgain(j)
	})

	t.Run("after it counted as completed by Slurm's own word", func(t *testing.T) {
		w, j := start(t)
		ended(w, j, 0)
		w.until("its outcome", func() bool { return outcome(w, j.ID) == pipefill.OutcomeCompleted })
		w.loseEnd(j)
		w.notRunAgain(j)
	})

	t.Run("after it counted as completed by the node's word", func(t *testing.T) {
		w, j := start(t)
		ended(w, j, 1)
		w.hear(j)
		w.nowS += 30
		w.slurmFails = 1 // its cancellation does not come through
		w.second()
		w.slurmFails = 0
		w.loseEnd(j)
		w.notRunAgain(j)
	})

	t.Run("a script that ends well when it is told to end is run again", func(t *testing.T) {
		w, j := start(t)
		w.until("it to run", func() bool { return j.doneS > 0 })
		w.leaveNode(j, pipefill.OutcomeCompleted, "") // it writes a checkpoint
		pin := j.PinnedNode
		w.requeue(j)
		j.Held, j.PinnedNode = false, pin
		j.EligibleMs = w.ms() + 121_000
		w.settle()
		w.check()
		if j.started != 2 || j.completed != 1 || j.State != "COMPLETED" {
			t.Errorf("it was started %d times, came to its end %d times, and is %s", j.started, j.completed, j.State)
		}
	})

	t.Run("a job that may not be requeued has completed where its node says so", func(t *testing.T) {
		w, j := start(t)
		j.once, j.Requeue = true, false
		ended(w, j, 1)
		w.hear(j)
		w.loseEnd(j)
		w.settle()
		if o := outcome(w, j.ID); o != pipefill.OutcomeCompleted || j.started != 1 {
			t.Errorf("it is %q, started %d times", o, j.started)
		}
	})

	t.Run("a failed job that its owner requeues is run again", func(t *testing.T) {
		w, j := start(t)
		w.until("it to run", func() bool { return j.doneS > 0 })
		w.leaveNode(j, pipefill.OutcomeFailed, "ended by exit code 1")
		j.State, j.ExitCode, j.EndMs = "FAILED", 1, w.ms()
		w.until("its outcome", func() bool { return outcome(w, j.ID) == pipefill.OutcomeFailed })
		w.requeue(j)
		w.until("it to run again", func() bool { return j.started == 2 })
		w.settle()
		if o := outcome(w, j.ID); o != pipefill.OutcomeCompleted || j.started != 2 {
			t.Errorf("it is %q, started %d times", o, j.started)
		}
	})
}
