package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

const (
	nowMs   = 1_000_000_000
	second  = 1000
	lostMs  = 60 * second
	reserve = pipefill.AssignmentReserved
	release = pipefill.AssignmentReleased
	attach  = pipefill.AssignmentAttached
	runs    = pipefill.AssignmentRunning
	ended   = pipefill.AssignmentEnded
)

// scene is one assignment, its job in Slurm and its node's word on it.
type scene struct {
	View
	a     store.Assignment
	job   slurm.Job
	said  api.NodeAssignment
	node  Node
	gone  bool // Slurm does not know the job
	quiet bool // the node has not called since the controller started
}

// at is an assignment in a state that Slurm and the node agree with: job 100 on
// cpu:0 of n0, where main job 5000 runs.
func at(state pipefill.AssignmentState, change ...func(*scene)) *scene {
	key := pipefill.JobKey{Cluster: "test", JobID: 100, SubmitMs: 1}
	s := &scene{
		View: View{NowMs: nowMs, NodeLostMs: lostMs, Vacate: map[string]bool{}},
		a: store.Assignment{
			Assignment: pipefill.Assignment{
				ID: 9, Job: key, UID: 1000, Node: "n0", Device: "cpu:0", MainJob: pipefill.JobKey{Cluster: "test", JobID: 5000}, State: state,
			},
			FillJobID: 4, Requeue: true, ReservedMs: nowMs - 5*second, ReleasedMs: nowMs - 4*second,
		},
		job: slurm.Job{
			ID: 100, UID: 1000, SubmitMs: 1, State: "PENDING", Held: true, Requeue: true, Batch: true, TimeLimitMin: 60, NodeCount: 1,
		},
		said: api.NodeAssignment{ID: 9, Job: key, Device: "cpu:0", State: state},
		node: Node{SeenMs: nowMs, Mains: []api.MainDevice{{Job: pipefill.JobKey{Cluster: "test", JobID: 5000}, Device: "cpu:0", Enabled: true}}},
	}
	switch state {
	case reserve, ended:
	case release:
		s.job.Held, s.job.PinnedNode = false, "n0"
	case attach, runs:
		s.job.State, s.job.Held, s.job.PinnedNode, s.job.Nodes, s.job.StartMs = "RUNNING", false, "n0", "n0", nowMs-3*second
	}
	for _, c := range change {
		c(s)
	}
	return s
}

// decide returns the actions in short, after a look at the names they carry.
func (s *scene) decide(t *testing.T) []string {
	t.Helper()
	s.Live = []store.Assignment{s.a}
	s.Slurm = map[int64]slurm.Job{}
	if !s.gone {
		s.Slurm[100] = s.job
	}
	if !s.quiet {
		s.node.Assignments = map[int64]api.NodeAssignment{}
		if s.said.State != "" {
			s.node.Assignments[9] = s.said
		}
	}
	s.Nodes = map[string]Node{"n0": s.node}
	var short []string
	for _, a := range Decide(s.View) {
		if a.JobID != 100 || a.Kind == End && (a.Assignment != 9 || a.FillJobID != 4 || a.Reason == "" && a.Outcome != "completed" && a.Outcome != s.said.Outcome) ||
			a.Kind == Advance && a.Assignment != 9 {
			t.Errorf("an action without its names or reason: %+v", a)
		}
		short = append(short, inShort(a))
	}
	return short
}

func inShort(a Action) string {
	switch a.Kind {
	case Advance:
		return "advance to " + string(a.State)
	case End:
		text := fmt.Sprintf("end %s", a.Outcome)
		if a.JobOutcome != "" {
			text += ", job " + string(a.JobOutcome)
		} else {
			text += ", back"
		}
		if a.Avoid {
			text += ", avoid " + a.Node
		}
		if a.Wait {
			text += ", wait"
		}
		return text
	case EndJob:
		return "end job " + string(a.Outcome)
	case PinRelease:
		return "pin to " + a.Node
	case Extend:
		return fmt.Sprintf("extend to %d", a.Minutes)
	case Hold, RequeueHold, Cancel:
	}
	return string(a.Kind)
}

// The changes that scenes are made of.
var (
	once      = func(s *scene) { s.a.Requeue, s.job.Requeue = false, false }
	untold    = func(s *scene) { s.said = api.NodeAssignment{} }
	quiet     = func(s *scene) { s.quiet, s.said, s.node.Mains = true, api.NodeAssignment{}, nil }
	nodeLost  = func(s *scene) { s.node.SeenMs = nowMs - lostMs - 1 }
	mainGone  = func(s *scene) { s.node.Mains = nil }
	otherMain = func(s *scene) { s.node.Mains[0].Job.JobID = 5001 }
	jobGone   = func(s *scene) { s.gone = true }
	again     = func(s *scene) {
		s.job.State, s.job.Held, s.job.PinnedNode, s.job.Nodes, s.job.Restarts = "PENDING", true, "", "", 1
	}
	free     = func(s *scene) { s.job.Held = false }
	stranger = func(s *scene) { s.job.UID, s.job.State = 1001, "PENDING" }
	vacate   = func(s *scene) { s.Vacate["n0"] = true }
	pending  = func(s *scene) { s.job.State, s.job.Held, s.job.PinnedNode, s.job.Nodes = "PENDING", true, "", "" }
)

func slurmSays(state string) func(*scene) {
	return func(s *scene) {
		s.job.State, s.job.Held, s.job.PinnedNode, s.job.Nodes, s.job.EndMs = state, false, "", "n0", nowMs-second
	}
}

// nowhere: Slurm gave it no node.
func nowhere(s *scene) { s.job.Nodes = "" }

func nodeSays(state pipefill.AssignmentState) func(*scene) {
	return func(s *scene) { s.said.State = state }
}

func nodeEnded(outcome pipefill.Outcome, agoMs int64) func(*scene) {
	return func(s *scene) {
		s.said.State, s.said.Outcome, s.said.Reason, s.said.EndedMs = ended, outcome, "as the node says", nowMs-agoMs
	}
}

func startedAgo(agoMs int64) func(*scene) { return func(s *scene) { s.job.StartMs = nowMs - agoMs } }

func because(reason string) func(*scene) { return func(s *scene) { s.job.Reason = reason } }

type decision struct {
	name  string
	scene *scene
	want  string // actions, "; " between them
}

func check(t *testing.T, decisions []decision) {
	t.Helper()
	for _, d := range decisions {
		t.Run(d.name, func(t *testing.T) {
			if diff := cmp.Diff(d.want, strings.Join(d.scene.decide(t), "; ")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDecide_OnTheWayToTheDevice(t *testing.T) {
	reservedFor := func(ms int64) func(*scene) { return func(s *scene) { s.a.ReservedMs = nowMs - ms } }
	releasedFor := func(ms int64) func(*scene) { return func(s *scene) { s.a.ReleasedMs = nowMs - ms } }
	check(t, []decision{
		{"the node is being told", at(reserve, untold), ""},
		{"the node has it", at(reserve), "advance to released; pin to n0"},
		{"the node has it, late", at(reserve, reservedFor(reservedMs+1)), "advance to released; pin to n0"},
		{"the node does not take it", at(reserve, untold, reservedFor(reservedMs+1)), "end lost, back"},
		{"a --no-requeue job goes back as well", at(reserve, untold, once, reservedFor(reservedMs+1)), "end lost, back"},
		{"somebody released the job", at(reserve, free), "hold"},
		{"a pin was left on it", at(reserve, func(s *scene) { s.job.PinnedNode = "n0" }), "hold"},
		{"the main job left", at(reserve, mainGone), "end evicted, back"},
		{"another main job has the device", at(reserve, otherMain), "end evicted, back"},
		{"the main job left, the job is free", at(release, mainGone), "hold; end evicted, back"},
		{"the node is lost", at(reserve, nodeLost), "end lost, back"},
		{"the node is lost, the job is free", at(release, nodeLost), "hold; end lost, back"},
		{"the node has not called since our start", at(reserve, quiet), ""},
		{"the node never calls", at(reserve, quiet, nodeLost), "end lost, back"},
		{"released", at(release), ""},
		{"the release was lost", at(release, func(s *scene) { s.job.Held, s.job.PinnedNode = true, "" }), "pin to n0"},
		{"the pin is another's", at(release, func(s *scene) { s.job.PinnedNode = "n1" }), "pin to n0"},
		{"Slurm put a restarted job off", at(release, func(s *scene) {
			s.a.Job.Restarts, s.job.Restarts, s.job.EligibleMs = 1, 1, nowMs+120*second
		}), "pin to n0"},
		{"its owner put it off", at(release, func(s *scene) { s.job.EligibleMs = nowMs + 120*second }), ""},
		{"Slurm does not start it", at(release, releasedFor(releasedMs+1)), "hold; end lost, back, avoid n0"},
		{"and may yet", at(release, releasedFor(reasonMs+1), because("Resources")), ""},
		{"it may not have looked again", at(release, releasedFor(reasonMs), because("QOSMaxJobsPerUserLimit")), ""},
		{"a limit of Slurm's", at(release, releasedFor(reasonMs+1), because("QOSMaxJobsPerUserLimit")), "hold; end lost, back, wait"},
		{"its array's limit", at(release, releasedFor(reasonMs+1), because("JobArrayTaskLimit")), "hold; end lost, back, wait"},
		{"the partition is down", at(release, releasedFor(reasonMs+1), because("PartitionDown")), "hold; end lost, back, wait"},
		{"the node is drained", at(release, releasedFor(reasonMs+1), because("ReqNodeNotAvail, UnavailableNodes:n0")), "hold; end lost, back, avoid n0"},
		{"Slurm's list is older than the requeue", at(release, func(s *scene) { s.a.Job.Restarts = 1 }), ""},
	})
}

func TestDecide_OnTheDevice(t *testing.T) {
	check(t, []decision{
		{"attached", at(release, slurmSays("RUNNING"), startedAgo(second), nodeSays(attach)), "advance to attached"},
		{"running at once", at(release, slurmSays("RUNNING"), startedAgo(second), nodeSays(runs)), "advance to running"},
		{"running", at(attach, nodeSays(runs)), "advance to running"},
		{"all agree", at(runs), ""},
		{"suspended", at(runs, func(s *scene) { s.job.State = "SUSPENDED" }), ""},
		{"the node's older word", at(runs, nodeSays(attach)), ""},
		{"it waits for its slot", at(release, slurmSays("RUNNING"), startedAgo(attachMs)), ""},
		{"it waits in vain", at(release, slurmSays("RUNNING"), startedAgo(attachMs+1)), "requeue and hold"},
		{"it waits in vain, --no-requeue", at(release, slurmSays("RUNNING"), once, startedAgo(attachMs+1)), "requeue and hold"},
		{"it waits, the node has not called", at(release, slurmSays("RUNNING"), quiet, startedAgo(attachMs+1)), ""},
		{"it slipped past the hold", at(reserve, slurmSays("RUNNING")), "requeue and hold"},
		{"it runs elsewhere", at(release, slurmSays("RUNNING"), func(s *scene) { s.job.Nodes = "n1" }), "requeue and hold"},
		{"evicted", at(runs, nodeEnded("evicted", 0)), "requeue and hold"},
		{"evicted, --no-requeue", at(runs, once, nodeEnded("evicted", 0)), "cancel"},
		{"lost by the node", at(runs, nodeEnded("lost", 0)), "requeue and hold"},
		{"completed, Slurm is about to say so", at(runs, nodeEnded("completed", second)), ""},
		{"Slurm runs on what completed", at(runs, nodeEnded("completed", nodeWordMs+1)), "end completed, job completed; cancel"},
		{"Slurm runs on, --no-requeue", at(runs, once, nodeEnded("completed", nodeWordMs+1)), "end completed, job completed; cancel"},
		{"Slurm runs on what failed by itself", at(runs, nodeEnded("failed", nodeWordMs+1)), "end failed, job failed; cancel"},
		{"Slurm runs on what was killed", at(runs, nodeEnded("failed", nodeWordMs+1), func(s *scene) { s.said.ExitCode = 143 }), "requeue and hold"},
		{"the node is lost", at(runs, nodeLost), "requeue and hold"},
		{"the node is lost, --no-requeue", at(runs, nodeLost, once), "cancel"},
		{"a main job waits for the memory", at(runs, vacate), "requeue and hold"},
		{"completing", at(runs, func(s *scene) { s.job.State, s.job.Completing = "COMPLETED", true }), ""},
	})
}

func TestDecide_StretchesTheWallClockLimit(t *testing.T) {
	left := func(ms int64) func(*scene) {
		return func(s *scene) { s.job.StartMs = nowMs - s.job.TimeLimitMin*60*second + ms }
	}
	limit := func(minutes int64) func(*scene) { return func(s *scene) { s.job.TimeLimitMin = minutes } }
	most := func(minutes int64) func(*scene) { return func(s *scene) { s.MaxMin = minutes } }
	check(t, []decision{
		{"enough is left", at(runs, left(extendBelowMs+1)), ""},
		{"little is left", at(runs, left(extendBelowMs)), "extend to 90"},
		{"up to the most", at(runs, most(70), left(extendBelowMs)), "extend to 70"},
		{"the most is reached", at(runs, most(60), left(extendBelowMs)), ""},
		{"no limit", at(runs, left(0), limit(slurm.Infinite)), ""},
		{"an unknown limit", at(runs, left(0), limit(0)), ""},
		{"an unknown start", at(runs, func(s *scene) { s.job.StartMs = 0 }), ""},
	})
}

func TestDecide_TheEnd(t *testing.T) {
	killed := func(signal, exit int) func(*scene) {
		return func(s *scene) { s.job.Signal, s.job.ExitCode = signal, exit }
	}
	check(t, []decision{
		{"killed, the node will say by whom", at(runs, slurmSays("FAILED"), killed(15, 0)), ""},
		{"killed, the node never says by whom", at(runs, slurmSays("FAILED"), nodeLost, killed(15, 0)), "requeue and hold"},
		{"killed under its shell, the node forgot", at(runs, slurmSays("FAILED"), untold, killed(0, 137)), "requeue and hold"},
		{"killed, the node never says, --no-requeue", at(runs, slurmSays("FAILED"), once, nodeLost, killed(9, 0)), "end failed, job failed"},
		{"killed, not by us", at(runs, slurmSays("FAILED"), nodeEnded("failed", 0), killed(9, 0)), "end failed, job failed"},
		{"crashed, the node never says", at(runs, slurmSays("FAILED"), nodeLost, killed(11, 0)), "end failed, job failed"},
		{"completed", at(runs, slurmSays("COMPLETED"), nodeEnded("completed", 0)), "end completed, job completed"},
		{"completed, before the node says so", at(runs, slurmSays("COMPLETED")), "end completed, job completed"},
		{"completed while the device was taken", at(runs, slurmSays("COMPLETED"), nodeEnded("evicted", 0)), "end completed, job completed"},
		{"completed, the node is lost", at(runs, slurmSays("COMPLETED"), nodeLost), "end completed, job completed"},
		{"failed", at(runs, slurmSays("FAILED"), nodeEnded("failed", 0)), "end failed, job failed"},
		{"timed out", at(runs, slurmSays("TIMEOUT"), nodeEnded("failed", 0)), "end failed, job failed"},
		{"out of memory", at(runs, slurmSays("OUT_OF_MEMORY"), untold), "end failed, job failed"},
		{"the node failed", at(runs, slurmSays("NODE_FAIL"), nodeLost), "end lost, job lost"},
		{"failed, the node will say why", at(runs, slurmSays("FAILED")), ""},
		{"failed, the node does not say why", at(runs, slurmSays("FAILED"), func(s *scene) { s.job.EndMs = nowMs - nodeWordMs }), "end failed, job failed"},
		{"failed, the node has not called", at(runs, slurmSays("FAILED"), quiet), ""},
		{"failed, the node never calls", at(runs, slurmSays("FAILED"), quiet, nodeLost), "end failed, job failed"},
		{"killed for the main job", at(runs, slurmSays("FAILED"), nodeEnded("evicted", 0)), "requeue and hold"},
		{"killed for the main job, --no-requeue", at(runs, slurmSays("FAILED"), once, nodeEnded("evicted", 0)), "end evicted, job evicted"},
		{"cancelled", at(runs, slurmSays("CANCELLED"), nodeEnded("cancelled", 0)), "end cancelled, job cancelled"},
		{"cancelled as it was evicted", at(runs, slurmSays("CANCELLED"), nodeEnded("evicted", 0)), "end cancelled, job cancelled"},
		{"cancelled before its release", at(reserve, slurmSays("CANCELLED")), "end cancelled, job cancelled"},
		{"failed before its release", at(reserve, slurmSays("FAILED")), "requeue and hold"},
		{"failed before its release, --no-requeue", at(reserve, slurmSays("FAILED"), once), "end failed, job failed"},
		{"cancelled before its start", at(release, slurmSays("CANCELLED"), untold), "end cancelled, job cancelled"},
		{"cancelled before its start, the node waits for it", at(release, slurmSays("CANCELLED"), nowhere), "end cancelled, job cancelled"},
		{"cancelled before its start, the node has not called", at(release, slurmSays("CANCELLED"), nowhere, quiet), "end cancelled, job cancelled"},
		{"cancelled as it ran, of which Slurm does not say where", at(runs, slurmSays("CANCELLED"), nowhere), ""},
	})
}

func TestDecide_SlurmSentItBack(t *testing.T) {
	check(t, []decision{
		{"our eviction", at(runs, again, nodeEnded("evicted", 0)), "end evicted, back"},
		{"its owner's requeue", at(runs, again), "end lost, back"},
		{"whatever the node says", at(runs, again, nodeEnded("completed", 0)), "end lost, back"},
		{"--no-requeue, it had started", at(runs, again, once), "cancel; end lost, job lost"},
		{"--no-requeue, the node let it start", at(release, again, once, nodeSays(attach)), "cancel; end lost, job lost"},
		{"--no-requeue, it came and went", at(release, again, once, nodeEnded("evicted", 0)), "cancel; end evicted, job evicted"},
		{"--no-requeue, the node forgot", at(release, again, once, untold), "cancel; end lost, job lost"},
		{"--no-requeue, it never reached the device", at(release, again, once), "end lost, back"},
	})
}

func TestDecide_SlurmForgot(t *testing.T) {
	exit := func(code int) func(*scene) { return func(s *scene) { s.said.ExitCode = code } }
	pinned := func(s *scene) { s.job.Held, s.job.PinnedNode = false, "n0" }
	check(t, []decision{
		{"the job, before its start", at(release, jobGone), "end cancelled, job cancelled"},
		{"the job, which ended on the node", at(runs, jobGone, nodeEnded("completed", 0)), "end completed, job completed"},
		{"the job, which the node still has", at(runs, jobGone), ""},
		{"the job, as the node did", at(runs, jobGone, untold), "end lost, job lost"},
		{"the job, and the node has not called", at(runs, jobGone, quiet), ""},
		{"the job, and the node is lost", at(runs, jobGone, nodeLost), "end lost, job lost"},
		{"the start: not a second copy", at(runs, pending, pinned), "hold"},
		{"the start: it comes to its end", at(runs, pending), ""},
		{"the start: it has completed", at(runs, pending, nodeEnded("completed", 0)), "end completed, job completed; cancel"},
		{"the start: it has failed by itself", at(runs, pending, nodeEnded("failed", 0), exit(3)), "end failed, job failed; cancel"},
		{"the start: it was killed", at(runs, pending, nodeEnded("failed", 0), exit(137)), "end lost, back, avoid n0"},
		{"the start: it was killed, --no-requeue", at(runs, pending, once, nodeEnded("failed", 0), exit(137)), "cancel; end lost, job lost, avoid n0"},
		{"the start: the node is lost", at(runs, pending, nodeLost), "end lost, back, avoid n0"},
	})
}

// A slurmctld that lost its state gives numbers anew: what has our job's number
// is another user's, and not ours to cancel.
func TestDecide_AnotherUsersJobIsLeftAlone(t *testing.T) {
	check(t, []decision{
		{"before the start", at(release, stranger), "end cancelled, job cancelled"},
		{"--no-requeue, had started", at(runs, once, stranger, untold), "end lost, job lost"},
		{"--no-requeue, has completed", at(runs, once, stranger, nodeEnded("completed", 0)), "end completed, job completed"},
		{"the node still has ours", at(runs, stranger), ""},
	})
}

func TestDecide_JobsWithoutAssignment(t *testing.T) {
	front := func(j *store.FillJob, _ *slurm.Job) { j.Front = true }
	state := func(s string) func(*store.FillJob, *slurm.Job) {
		return func(_ *store.FillJob, job *slurm.Job) { job.State, job.Held = s, false }
	}
	for _, c := range []struct {
		name   string
		change []func(*store.FillJob, *slurm.Job)
		want   string
	}{
		{"held", nil, ""},
		{"free", []func(*store.FillJob, *slurm.Job){state("PENDING")}, "hold"},
		{"pinned", []func(*store.FillJob, *slurm.Job){func(_ *store.FillJob, job *slurm.Job) { job.PinnedNode = "n0" }}, "hold"},
		{"running", []func(*store.FillJob, *slurm.Job){state("RUNNING")}, "requeue and hold"},
		{"completed", []func(*store.FillJob, *slurm.Job){state("COMPLETED")}, "end job completed"},
		{"cancelled", []func(*store.FillJob, *slurm.Job){state("CANCELLED")}, "end job cancelled"},
		{"failed", []func(*store.FillJob, *slurm.Job){state("FAILED")}, "end job failed"},
		{"failed as it was evicted", []func(*store.FillJob, *slurm.Job){state("FAILED"), func(j *store.FillJob, _ *slurm.Job) { j.Requeue = true }, front}, "requeue and hold"},
		{"failed as it was evicted, --no-requeue", []func(*store.FillJob, *slurm.Job){state("FAILED"), front}, "end job failed"},
		{"gone", []func(*store.FillJob, *slurm.Job){func(_ *store.FillJob, job *slurm.Job) { job.ID = 0 }}, "end job cancelled"},
		{"another user's", []func(*store.FillJob, *slurm.Job){state("RUNNING"), func(_ *store.FillJob, job *slurm.Job) { job.UID = 1001 }}, ""},
		{"an attempt not mirrored yet", []func(*store.FillJob, *slurm.Job){state("RUNNING"), func(_ *store.FillJob, job *slurm.Job) { job.Restarts = 1 }}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := store.FillJob{ID: 4, JobID: 100, UID: 1000}
			job := slurm.Job{ID: 100, UID: 1000, State: "PENDING", Held: true}
			for _, change := range c.change {
				change(&row, &job)
			}
			view := View{NowMs: nowMs, Jobs: []store.FillJob{row}, Slurm: map[int64]slurm.Job{}}
			if job.ID != 0 {
				view.Slurm[100] = job
			}
			var got []string
			for _, a := range Decide(view) {
				if a.JobID != 100 || a.Kind == EndJob && (a.FillJobID != 4 || a.Reason == "") {
					t.Errorf("an action without its names or reason: %+v", a)
				}
				got = append(got, inShort(a))
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "; ")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// What ended here and has come back in Slurm is not run again.
func TestDecide_CancelsWhatHasEnded(t *testing.T) {
	view := View{NowMs: nowMs, Slurm: map[int64]slurm.Job{
		1: {ID: 1, State: "PENDING", Held: true}, 2: {ID: 2, State: "RUNNING"}, 3: {ID: 3, State: "COMPLETED"},
		4: {ID: 4, State: "RUNNING", Completing: true},
	}}
	var ids []int64
	for _, a := range Decide(view) {
		if a.Kind != Cancel {
			t.Errorf("%+v, want a cancel", a)
		}
		ids = append(ids, a.JobID)
	}
	slices.Sort(ids)
	if diff := cmp.Diff([]int64{1, 2}, ids); diff != "" {
		t.Errorf("cancelled (-want +got):\n%s", diff)
	}
}
