package pipefill

import (
	"fmt"
	"slices"
)

// JobKey names one attempt of a Slurm job: a job number is reused after a
// wrap, and a requeue keeps it, so the submit time and the restart count
// belong to the name.
type JobKey struct {
	Cluster  string `json:"cluster"`
	JobID    int64  `json:"job_id"`
	SubmitMs int64  `json:"submit_ms"`
	Restarts int    `json:"restarts"`
}

// String is for logs: cluster/job/submit/restarts.
func (k JobKey) String() string {
	return fmt.Sprintf("%s/%d/%d/%d", k.Cluster, k.JobID, k.SubmitMs, k.Restarts)
}

// AssignmentState is the state machine of an assignment.
type AssignmentState string

// The states, in order; Ended carries an Outcome.
const (
	AssignmentReserved AssignmentState = "reserved" // written; the node is told
	AssignmentReleased AssignmentState = "released" // the node knows; the job is pinned and released
	AssignmentAttached AssignmentState = "attached" // its batch step reached the node
	AssignmentRunning  AssignmentState = "running"  // its gate has been open
	AssignmentEnded    AssignmentState = "ended"
)

var assignmentOrder = map[AssignmentState]int{
	AssignmentReserved: 0, AssignmentReleased: 1, AssignmentAttached: 2, AssignmentRunning: 3, AssignmentEnded: 4,
}

// CanFollow tells whether next may be written after s: forward only, any state
// may end, and writing a state again is allowed (each step can be repeated).
func (s AssignmentState) CanFollow(next AssignmentState) bool {
	from, ok1 := assignmentOrder[s]
	to, ok2 := assignmentOrder[next]
	return ok1 && ok2 && to >= from
}

// Outcome says how an assignment ended.
type Outcome string

// The outcomes of an ended assignment.
const (
	OutcomeCompleted Outcome = "completed"
	OutcomeFailed    Outcome = "failed"
	OutcomeCancelled Outcome = "cancelled"
	OutcomeEvicted   Outcome = "evicted" // the main job ended or took the device back
	OutcomeLost      Outcome = "lost"    // the node or its record vanished
)

// Mode is how a fill job is kept within the gate.
type Mode string

// The modes of a fill job.
const (
	ModeSignal  Mode = "signal"  // stopped and continued as a whole
	ModeChunked Mode = "chunked" // the program runs chunks that fit
	ModeLaunch  Mode = "launch"  // a library preloaded into the program admits what it launches on a GPU
)

// Modes lists what mode= may say.
var Modes = []Mode{ModeSignal, ModeChunked, ModeLaunch}

// MindsGate tells whether a job of this mode keeps to the gate by itself, so
// that it is not stopped from outside while it does.
func (m Mode) MindsGate() bool { return m == ModeChunked || m == ModeLaunch }

// GangObstacle tells why a job of this mode may not have several devices, ""
// where it may.
func (m Mode) GangObstacle(devices int) string {
	switch {
	case devices > MaxDevices:
		return fmt.Sprintf("it asks for %d devices; a fill job has %d at most", devices, MaxDevices)
	case devices > 1 && m == ModeLaunch:
		return "mode=launch goes with one device: the launch library counts the memory and the launches of one; submit it with mode=chunked"
	}
	return ""
}

// Obstacle tells why a job of this mode may not have a device, "" where it may.
// launches: the node preloads the launch library (launch_library of
// pipefilld.yaml), which is what mode launch needs.
func (m Mode) Obstacle(device DeviceID, launches bool) string {
	gpu := device.Kind() == KindGPU
	switch {
	case gpu && !m.MindsGate():
		return "stopping a program does not stop its work on a GPU: write it to ask before each chunk, and submit it with --pipefill=fill,mode=chunked"
	case m == ModeLaunch && !gpu:
		return "mode=launch is for GPUs: what a program computes on cores is no launch"
	case m == ModeLaunch && !launches:
		return "mode=launch is off on this node: its pipefilld.yaml names no launch_library; submit it with mode=chunked"
	}
	return ""
}

// MaxDevices bounds the devices of one fill job: those of one node, and what
// its program takes descriptors of (PF_DEVICES_MAX of spank/page.h).
const MaxDevices = 16

// Assignment is one fill job on one slot, or, a gang, on several slots of one
// main job on one node.
type Assignment struct {
	ID           int64           `json:"id"`
	Job          JobKey          `json:"job"`
	UID          uint32          `json:"uid"`
	User         string          `json:"user"`
	Account      string          `json:"account,omitempty"`
	Node         string          `json:"node"`
	Device       DeviceID        `json:"device"`
	Others       DeviceSet       `json:"others,omitempty"` // a gang's other devices
	MainJob      JobKey          `json:"main_job"`
	Mode         Mode            `json:"mode"`
	MemBytes     int64           `json:"mem_bytes,omitempty"`      // device memory asked for; 0: unknown
	DeviceTimeMs int64           `json:"device_time_ms,omitempty"` // the user's --time; 0: no limit
	State        AssignmentState `json:"state"`
	Outcome      Outcome         `json:"outcome,omitempty"`
	Reason       string          `json:"reason,omitempty"`
}

// Devices are all devices of an assignment, in the order in which its program
// has them.
func (a Assignment) Devices() []DeviceID { return append([]DeviceID{a.Device}, a.Others.List()...) }

// ValidDevices tells whether an assignment's devices are such, all of one kind,
// each once, and no more than a node takes.
func (a Assignment) ValidDevices() bool {
	all := a.Devices()
	for i, d := range all {
		if d.Validate() != nil || d.Kind() != a.Device.Kind() || slices.Contains(all[:i], d) {
			return false
		}
	}
	return len(all) <= MaxDevices
}

// Usage is one ledger record of a node: what an assignment used since the
// record before it. Seq rises by one per node and ledger; the controller takes
// each (node, ledger, seq) in exactly once.
type Usage struct {
	Ledger       string `json:"ledger"` // random name made when the ledger file was
	Seq          int64  `json:"seq"`
	AssignmentID int64  `json:"assignment_id"`
	FromMs       int64  `json:"from_ms"`
	ToMs         int64  `json:"to_ms"`
	DeviceNs     int64  `json:"device_ns"`  // charged: attached, gate open, not yet verified stopped, times devices
	CPUNs        int64  `json:"cpu_ns"`     // CPU time of its cgroup
	OverrunNs    int64  `json:"overrun_ns"` // of DeviceNs, after the gate was shut, times devices
	Openings     int64  `json:"openings"`
}
