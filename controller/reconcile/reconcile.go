// Package reconcile compares what the controller believes with what Slurm and
// the nodes say, and decides what to do about the difference, level by level.
// It is pure and repeatable: an action that was lost is decided again the next
// time, and one that was done is not.
package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// Times after which a silence is taken for an answer.
const (
	// reservedMs: a node that lives says what it holds within a long poll.
	reservedMs = 30_000
	// releasedMs: Slurm starts a released job within a second or two, unless
	// something else took the node's memory.
	releasedMs = 60_000
	// reasonMs: Slurm's reason is that of its last look, which the release may have
	// come after.
	reasonMs = 5_000
	// attachMs: the plugin asks for 10 s, and the node's word takes another.
	attachMs = 15_000
	// nodeWordMs: a node's account of an end comes with its next sync; Slurm's
	// may be first.
	nodeWordMs = 20_000
	// extendBelowMs and extendByMin: a job that runs a fraction of the time gets
	// more wall-clock time before Slurm ends it.
	extendBelowMs = 5 * 60_000
	extendByMin   = 30
)

// Node is what a node last said.
type Node struct {
	SeenMs      int64
	Assignments map[int64]api.NodeAssignment
	// Ends are of those that it says have ended: the number of the last ask of
	// Slurm that had begun when we first heard it.
	Ends    map[int64]int64
	Mains   []api.MainDevice
	Devices []api.NodeDevice
}

// View is everything a decision rests on.
type View struct {
	NowMs      int64
	NodeLostMs int64    // a node silent for longer is lost
	MaxMin     int64    // wall-clock limit that no job is stretched past, in minutes; 0: none
	Partitions []string // the fill partitions; none: not looked at
	Live       []store.Assignment
	Jobs       []store.FillJob     // open
	Slurm      map[int64]slurm.Job // of the fill partitions, by job number
	// Asks of Slurm are numbered: the last in which it said that a job runs, and
	// the last in which there was no slurmctld; see Node.Ends.
	Ran    map[int64]int64
	Away   int64
	Nodes  map[string]Node  // by name
	Vacate map[string]bool  // nodes that a pending main job could use
	Leave  map[int64]string // assignments that an operator wants off their devices, and why
}

// Kind says what an action does.
type Kind string

// The kinds. The first three are written to the store, the others asked of
// Slurm.
const (
	Advance     Kind = "advance"
	End         Kind = "end"
	EndJob      Kind = "end job"
	PinRelease  Kind = "pin and release"
	Hold        Kind = "hold"
	RequeueHold Kind = "requeue and hold"
	Cancel      Kind = "cancel"
	Extend      Kind = "extend"
)

// Action is one step. Actions of one job follow each other: when one fails, the
// rest of the job's wait for the next time.
type Action struct {
	Kind       Kind
	Assignment int64 // id; of Advance and End
	FillJobID  int64 // of EndJob
	JobID      int64 // Slurm's number
	Node       string
	State      pipefill.AssignmentState // to Advance to
	Outcome    pipefill.Outcome         // of End and EndJob
	JobOutcome pipefill.Outcome         // End: of the job as well; "": back to the queue
	Reason     string                   // Cancel: "" where its user knows why
	ExitCode   int
	Minutes    int64 // Extend: the new limit
	Avoid      bool  // End: the job keeps off Node for a while
	Wait       bool  // End: the job keeps off all nodes for a while
}

// Decide returns what to do.
func Decide(v View) []Action {
	var actions []Action
	assigned := map[int64]bool{}
	for _, a := range v.Live {
		assigned[a.Job.JobID] = true
		actions = append(actions, v.assignment(a)...)
	}
	for _, j := range v.Jobs {
		if !assigned[j.JobID] {
			actions = append(actions, v.unassigned(j)...)
		}
		assigned[j.JobID] = true
	}
	// Every job that Slurm has not ended was mirrored, unless it ended here: a
	// slurmctld that was killed may have forgotten that.
	for _, id := range slices.Sorted(maps.Keys(v.Slurm)) {
		job := v.Slurm[id]
		if !assigned[id] && !job.Completing && (job.Pending() || job.Running()) {
			actions = append(actions, Action{Kind: Cancel, JobID: id, Reason: "it has ended here, and Slurm has it again"})
		}
	}
	return actions
}

// lost tells whether a node has been silent for too long.
func (v View) lost(name string) bool { return v.NowMs-v.Nodes[name].SeenMs > v.NodeLostMs }

// heard tells whether a node has said anything since the controller started: a
// node that has not may know better than we do, until it counts as lost.
func (v View) heard(name string) bool { return v.Nodes[name].Assignments != nil || v.lost(name) }

// assignment decides about a live assignment.
func (v View) assignment(a store.Assignment) []Action {
	job, known := v.Slurm[a.Job.JobID]
	said, told := v.Nodes[a.Node].Assignments[a.ID]
	switch {
	case !known, job.UID != a.UID: // a slurmctld that lost its state gives numbers anew
		return v.forgotten(a, said)
	case job.Restarts > a.Job.Restarts:
		return v.over(a, said)
	case job.Ended():
		return v.ended(a, job, said)
	case job.Pending() && job.Restarts == a.Job.Restarts:
		return v.pending(a, job, said, told)
	case job.Running():
		return v.running(a, job, said, told)
	}
	return nil // Slurm's list is older than what we know, or the job is completing
}

// forgotten: Slurm no longer has the job, so that its attempts are over.
func (v View) forgotten(a store.Assignment, said api.NodeAssignment) []Action {
	switch {
	case a.State == pipefill.AssignmentReserved || a.State == pipefill.AssignmentReleased:
		return end(a, pipefill.OutcomeCancelled, pipefill.OutcomeCancelled, "the job is gone from Slurm", 0)
	case said.State == pipefill.AssignmentEnded:
		return end(a, said.Outcome, said.Outcome, said.Reason, said.ExitCode)
	case v.heard(a.Node) && said.State == "" || v.lost(a.Node):
		return end(a, pipefill.OutcomeLost, pipefill.OutcomeLost, "the job is gone from Slurm, and node "+a.Node+" does not know how it ended", 0)
	}
	return nil // the node still has it, and will say
}

// over: Slurm has sent the job back to the queue (our eviction, its owner's
// requeue, a node failure): this attempt counts as nothing, whatever the node
// says, and another may follow. A script that is told to end may well end as
// completed. It has come to its end by itself where Slurm, asked after we had heard
// of that, still had it as running, or was away itself: then Slurm has lost the
// node before it heard, or has forgotten the end, and what it has under that name
// is not to run again.
func (v View) over(a store.Assignment, said api.NodeAssignment) []Action {
	if at, heard := v.Nodes[a.Node].Ends[a.ID]; heard && said.Outcome == pipefill.OutcomeCompleted && max(v.Ran[a.Job.JobID], v.Away) > at {
		actions := done(a, said)
		actions[0].Reason, actions[1].Reason = requeuedAfter, requeuedAfter
		return actions
	}
	outcome, reason := pipefill.OutcomeEvicted, said.Reason
	if said.Outcome != pipefill.OutcomeEvicted {
		outcome, reason = pipefill.OutcomeLost, "Slurm requeued the job"
	}
	return v.back(a, outcome, reason, started(a.State) || started(said.State) ||
		said.State == pipefill.AssignmentEnded || said.State == "")
}

const requeuedAfter = "Slurm requeued it after it had completed; it was not run again"

// started tells whether a node has let a job attach.
func started(s pipefill.AssignmentState) bool {
	return s == pipefill.AssignmentAttached || s == pipefill.AssignmentRunning
}

// back ends an assignment and sends its job back to the queue, or ends it too
// where it may not be restarted.
func (v View) back(a store.Assignment, outcome pipefill.Outcome, reason string, started bool) []Action {
	if a.Requeue || !started {
		return end(a, outcome, "", reason, 0)
	}
	return append([]Action{{Kind: Cancel, JobID: a.Job.JobID}}, end(a, outcome, outcome, reason, 0)...)
}

// ended: Slurm says how the job ended, which is what counts, except that a job
// which we took off its device did not fail by itself.
func (v View) ended(a store.Assignment, job slurm.Job, said api.NodeAssignment) []Action {
	outcome := outcomeOf(job)
	if outcome == pipefill.OutcomeCompleted {
		return end(a, outcome, outcome, "", job.ExitCode)
	}
	if outcome == pipefill.OutcomeLost && byItself(said) {
		return end(a, said.Outcome, said.Outcome, "Slurm lost the node after its end", said.ExitCode)
	}
	if a.State == pipefill.AssignmentReserved && a.Requeue && outcome == pipefill.OutcomeFailed {
		return []Action{{Kind: RequeueHold, JobID: a.Job.JobID}} // what failed was not let go by us
	}
	if job.Nodes == "" && outcome == pipefill.OutcomeCancelled && !started(a.State) && !started(said.State) {
		return end(a, outcome, outcome, "it was cancelled before it started", 0) // no node has anything to say
	}
	waits := said.State != pipefill.AssignmentEnded && said.State != "" && v.Nodes[a.Node].SeenMs-job.EndMs < nodeWordMs
	if a.State != pipefill.AssignmentReserved && (waits || !v.heard(a.Node)) && !v.lost(a.Node) {
		return nil // the node will say whether it was evicted
	}
	if said.State != pipefill.AssignmentEnded && a.Requeue && killed(job) {
		return []Action{{Kind: RequeueHold, JobID: a.Job.JobID}} // by us or not: the node, which alone knows, does not say
	}
	if said.Outcome == pipefill.OutcomeEvicted && outcome != pipefill.OutcomeCancelled {
		if !a.Requeue {
			return end(a, pipefill.OutcomeEvicted, pipefill.OutcomeEvicted, said.Reason, job.ExitCode)
		}
		return []Action{{Kind: RequeueHold, JobID: a.Job.JobID}} // over() follows
	}
	reason := said.Reason
	if reason == "" {
		reason = fmt.Sprintf("Slurm says %s, exit code %d", job.State, job.ExitCode)
		if job.Signal > 0 {
			reason = fmt.Sprintf("Slurm says %s, signal %d", job.State, job.Signal)
		}
	}
	return end(a, outcome, outcome, reason, job.ExitCode)
}

// killed tells whether a job ended as an eviction lets it end, itself or the
// program that its script ran.
func killed(job slurm.Job) bool {
	const sigkill, sigterm, byShell = 9, 15, 128
	return job.State == "FAILED" && (job.Signal == sigkill || job.Signal == sigterm || job.ExitCode == byShell+sigkill || job.ExitCode == byShell+sigterm)
}

func outcomeOf(job slurm.Job) pipefill.Outcome {
	switch job.State {
	case "COMPLETED":
		return pipefill.OutcomeCompleted
	case "CANCELLED":
		return pipefill.OutcomeCancelled
	case "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED":
		return pipefill.OutcomeLost
	}
	return pipefill.OutcomeFailed
}

// pending: the way to the device.
func (v View) pending(a store.Assignment, job slurm.Job, said api.NodeAssignment, told bool) []Action {
	hold := Action{Kind: Hold, JobID: a.Job.JobID}
	// Of one that was released the list may be older than that: it runs by now, maybe,
	// and cannot be held, nor is it over then.
	held := job.Held && job.PinnedNode == "" && a.State == pipefill.AssignmentReserved
	withdraw := func(outcome pipefill.Outcome, reason string) []Action {
		actions := v.back(a, outcome, reason, false)
		if !held {
			actions = append([]Action{hold}, actions...)
		}
		return actions
	}
	switch {
	case job.Held && started(said.State) && !v.lost(a.Node):
		return nil // see forgot
	case said.State == pipefill.AssignmentEnded || started(a.State):
		return v.forgot(a, job, said)
	case v.lost(a.Node):
		return withdraw(pipefill.OutcomeLost, "node "+a.Node+" does not report")
	case !v.heard(a.Node):
		return nil
	case !v.hasMain(a):
		return withdraw(pipefill.OutcomeEvicted, fmt.Sprintf("main job %d has left %s", a.MainJob.JobID, pipefill.DevicesOf(a.Devices())))
	case v.Leave[a.ID] != "":
		return withdraw(pipefill.OutcomeEvicted, v.Leave[a.ID])
	case a.State == pipefill.AssignmentReserved && v.NowMs-a.ReservedMs > reservedMs && !told:
		return withdraw(pipefill.OutcomeLost, "node "+a.Node+" did not take the assignment")
	case a.State == pipefill.AssignmentReserved && !held:
		return []Action{hold}
	case a.State == pipefill.AssignmentReserved && told:
		return []Action{
			{Kind: Advance, Assignment: a.ID, JobID: a.Job.JobID, State: pipefill.AssignmentReleased},
			{Kind: PinRelease, Assignment: a.ID, JobID: a.Job.JobID, Node: a.Node},
		}
	case a.State == pipefill.AssignmentReserved:
		return nil // the node is being told
	case v.NowMs-a.ReleasedMs > releasedMs:
		return marked(withdraw(pipefill.OutcomeLost, "Slurm did not start it: "+job.Reason), a.Node, avoid)
	case v.NowMs-a.ReleasedMs > reasonMs && !job.Held && whyNot(job.Reason) != "":
		return marked(withdraw(pipefill.OutcomeLost, "Slurm does not start it: "+job.Reason), a.Node, whyNot(job.Reason))
	case job.Held || job.PinnedNode != a.Node || job.Restarts > 0 && job.EligibleMs > v.NowMs+1000:
		// A start time given while the attempt before completes does not stick:
		// Slurm then puts the job off for two minutes.
		return []Action{{Kind: PinRelease, Assignment: a.ID, JobID: a.Job.JobID, Node: a.Node}}
	}
	return nil
}

// forgot: the job started, and Slurm has it pending under the same name: a
// slurmctld that was killed had not saved the start. It stays held until it has
// ended on the node, lest Slurm launches a second copy, which drains the node:
// there Slurm kills it, or it comes to its end.
func (v View) forgot(a store.Assignment, job slurm.Job, said api.NodeAssignment) []Action {
	switch {
	case byItself(said):
		return done(a, said)
	case !job.Held || job.PinnedNode != "":
		return []Action{{Kind: Hold, JobID: a.Job.JobID}}
	case started(said.State) && !v.lost(a.Node):
		return nil
	}
	return marked(v.back(a, pipefill.OutcomeLost, "Slurm has forgotten that it started", true), a.Node, avoid)
}

// byItself tells whether an attempt came to its end on the node, unkilled.
func byItself(said api.NodeAssignment) bool {
	return said.State == pipefill.AssignmentEnded &&
		(said.Outcome == pipefill.OutcomeCompleted || said.Outcome == pipefill.OutcomeFailed && said.ExitCode < 128)
}

// done: the node's word on the end counts, and what Slurm still has under that
// name is not to run, or not to run on.
// It is written first: Slurm's word of what we cancelled would count otherwise.
func done(a store.Assignment, said api.NodeAssignment) []Action {
	return append(end(a, said.Outcome, said.Outcome, said.Reason, said.ExitCode), Action{Kind: Cancel, JobID: a.Job.JobID})
}

// What a job that did not start keeps off.
const (
	avoid = "node" // the one it was sent to
	wait  = "all"  // every node: another would do no better
)

func marked(actions []Action, node, off string) []Action {
	last := &actions[len(actions)-1]
	last.Node, last.Avoid, last.Wait = node, off == avoid, off == wait
	return actions
}

// whyNot tells from Slurm's reason whether waiting for it to start the job is in
// vain, and whether that is the node's doing; "" where it may still start.
func whyNot(reason string) string {
	for _, node := range [...]string{"ReqNodeNotAvail", "NodeDown", "Reservation", "BadConstraints"} {
		if strings.HasPrefix(reason, node) {
			return avoid
		}
	}
	for _, limit := range [...]string{"Assoc", "QOS", "Partition", "JobArrayTaskLimit", "Dependency", "Licenses", "Account", "InvalidAccount", "InvalidQOS"} {
		if strings.HasPrefix(reason, limit) {
			return wait
		}
	}
	return ""
}

// hasMain tells whether the assignment's main job is still on its devices.
func (v View) hasMain(a store.Assignment) bool {
	for _, d := range a.Devices() {
		if !slices.ContainsFunc(v.Nodes[a.Node].Mains, func(m api.MainDevice) bool { return m.Device == d && m.Job.JobID == a.MainJob.JobID }) {
			return false
		}
	}
	return true
}

// running: follow the node, and take the job back where it may not stay.
func (v View) running(a store.Assignment, job slurm.Job, said api.NodeAssignment, told bool) []Action {
	back := []Action{{Kind: RequeueHold, JobID: a.Job.JobID}}
	if !a.Requeue {
		back[0].Kind = Cancel
	}
	switch {
	case a.State == pipefill.AssignmentReserved || job.Nodes != a.Node:
		// Slipped past the hold: it never ran, whatever its right to requeue.
		return []Action{{Kind: RequeueHold, JobID: a.Job.JobID}}
	case job.StartMs > 0 && v.Nodes[a.Node].SeenMs-job.StartMs > attachMs && v.heard(a.Node) && !v.lost(a.Node) && !started(a.State) && !started(said.State) &&
		said.State != pipefill.AssignmentEnded:
		// Its slot went away meanwhile: the plugin holds it back, in vain. What the
		// node said before is no word on that.
		return []Action{{Kind: RequeueHold, JobID: a.Job.JobID}}
	// A slurmctld that was killed did not hear of the end, or launches again what
	// has ended: either way the job has come to its end.
	case byItself(said) && v.NowMs-said.EndedMs > nodeWordMs:
		return done(a, said)
	case said.State == pipefill.AssignmentEnded && said.Outcome == pipefill.OutcomeEvicted,
		said.State == pipefill.AssignmentEnded && said.Outcome == pipefill.OutcomeLost,
		// Slurm runs what the node saw end: it is another attempt under the same name.
		said.State == pipefill.AssignmentEnded && v.NowMs-said.EndedMs > nodeWordMs,
		v.lost(a.Node), v.Vacate[a.Node], v.Leave[a.ID] != "":
		return back
	case told && said.State != a.State && a.State.CanFollow(said.State) && said.State != pipefill.AssignmentEnded &&
		(said.State == pipefill.AssignmentAttached || said.State == pipefill.AssignmentRunning):
		return []Action{{Kind: Advance, Assignment: a.ID, JobID: a.Job.JobID, State: said.State}}
	}
	return v.extend(a, job)
}

// extend keeps Slurm's wall-clock limit, which is not what the user's --time
// means here, from ending the job.
func (v View) extend(a store.Assignment, job slurm.Job) []Action {
	if job.TimeLimitMin <= 0 || job.TimeLimitMin >= slurm.Infinite || job.StartMs <= 0 {
		return nil
	}
	left := job.StartMs + job.TimeLimitMin*60_000 - v.NowMs
	minutes := job.TimeLimitMin + extendByMin
	if v.MaxMin > 0 {
		minutes = min(minutes, v.MaxMin)
	}
	if left > extendBelowMs || minutes <= job.TimeLimitMin {
		return nil
	}
	return []Action{{Kind: Extend, JobID: a.Job.JobID, Minutes: minutes}}
}

// unassigned decides about an open job without a live assignment: it must be
// pending and held.
func (v View) unassigned(j store.FillJob) []Action {
	job, known := v.Slurm[j.JobID]
	switch {
	case !known:
		return []Action{{Kind: EndJob, FillJobID: j.ID, JobID: j.JobID, Outcome: pipefill.OutcomeCancelled, Reason: "the job is gone from Slurm"}}
	case job.UID != j.UID:
		return nil // the mirror has not seen this job yet
	case len(v.Partitions) > 0 && !job.InPartition(v.Partitions):
		return []Action{{
			Kind: EndJob, FillJobID: j.ID, JobID: j.JobID, Outcome: pipefill.OutcomeCancelled,
			Reason: "it was moved to partition " + job.Partition + ", and is no fill job any more",
		}}
	case job.Restarts != j.Restarts:
		return nil // nor this attempt
	case job.Ended() && j.Front && j.Requeue && outcomeOf(job) == pipefill.OutcomeFailed:
		return []Action{{Kind: RequeueHold, JobID: j.JobID}} // was evicted, and killed before Slurm was asked
	case job.Ended():
		return []Action{{
			Kind: EndJob, FillJobID: j.ID, JobID: j.JobID, Outcome: outcomeOf(job),
			Reason: fmt.Sprintf("Slurm says %s, exit code %d", job.State, job.ExitCode), ExitCode: job.ExitCode,
		}}
	case job.Running():
		return []Action{{Kind: RequeueHold, JobID: j.JobID}}
	case job.Pending() && (!job.Held || job.PinnedNode != ""):
		return []Action{{Kind: Hold, JobID: j.JobID}}
	}
	return nil
}

func end(a store.Assignment, outcome, jobOutcome pipefill.Outcome, reason string, exitCode int) []Action {
	return []Action{{
		Kind: End, Assignment: a.ID, FillJobID: a.FillJobID, JobID: a.Job.JobID,
		Outcome: outcome, JobOutcome: jobOutcome, Reason: reason, ExitCode: exitCode,
	}}
}
