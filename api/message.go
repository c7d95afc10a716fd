// Package api is the wire between controller, executor and cli: the messages,
// the client, and how errors travel. docs/protocol.md section 3 describes it.
//
// It holds no state and knows neither Slurm nor SQLite.
package api

import (
	"encoding/json"

	"pipefill"
)

// Version is the wire's version, in every answer's Pipefill-Api header.
const Version = "1"

// VersionHeader is the header that carries Version in every answer but a 401.
const VersionHeader = "Pipefill-Api"

// NodeSync is a node's whole state, sent by pipefilld.
type NodeSync struct {
	Node        string           `json:"node"`
	Version     string           `json:"version"`
	Run         int64            `json:"run"`         // names this run of the daemon
	Seq         int64            `json:"seq"`         // rises with each sync of a run: one that comes late is not heard
	WaitMs      int64            `json:"wait_ms"`     // how long the controller may hold the answer
	OrdersSeen  int64            `json:"orders_seen"` // NodeOrders.Serial last acted on; 0: none
	Devices     []NodeDevice     `json:"devices"`     // what the node offers
	Mains       []MainDevice     `json:"mains"`       // one a device of a running main job
	Assignments []NodeAssignment `json:"assignments"` // every one the node knows
	Usage       []pipefill.Usage `json:"usage"`       // not yet acknowledged, by seq
	WantsJob    *pipefill.JobKey `json:"wants_job"`   // a fill job reached the node without assignment
	WantsUID    uint32           `json:"wants_uid"`   // its user
	TakesPlans  bool             `json:"takes_plans"` // NodeOrders.Plans are handed to its fill jobs
	TakesGangs  bool             `json:"takes_gangs"` // assignments may have several devices
	Faults      []string         `json:"faults"`      // what a person should know, for doctor
	Recordings  []RecordingOf    `json:"recordings,omitempty"`
}

// NodeDevice is one device of a node.
type NodeDevice struct {
	Device     pipefill.DeviceID `json:"device"`
	TotalBytes int64             `json:"total_bytes"`
}

// MainDevice is one device of a running main job: a slot.
type MainDevice struct {
	Job       pipefill.JobKey      `json:"job"`
	UID       uint32               `json:"uid"`
	Device    pipefill.DeviceID    `json:"device"`
	Stage     int                  `json:"stage"`
	Options   string               `json:"options"` // of --pipefill
	StartedMs int64                `json:"started_ms"`
	Enabled   bool                 `json:"enabled"`              // the governor lets it be filled
	Reason    string               `json:"reason"`               // why not
	Slow      string               `json:"slow,omitempty"`       // what slows the device down besides: heat, power
	Launches  bool                 `json:"launches,omitempty"`   // fill jobs of mode launch are let in
	Fence     string               `json:"fence,omitempty"`      // what holds a fill job to its memory: driver, audit, ""
	Budget    float64              `json:"budget"`               // of slow-down that is accepted, as 0.01
	Cycle     pipefill.BubbleCycle `json:"cycle"`                // as with nothing moved
	CycleKept bool                 `json:"cycle_kept,omitempty"` // cycle is left out: the last one sent in this run stands
	Movable   []Movable            `json:"movable,omitempty"`
	Totals    MainTotals           `json:"totals"`
}

// What of a main job may leave its device over bubbles.
const (
	MoveOptimizer = "optimizer" // its optimizer state
	MoveCache     = "cache"     // blocks that its allocator keeps without using them
)

// Movable is memory that a main job's program could move out of a device over
// bubbles, by its own word, where site and owner let it. A Plan must not have a
// Move of what is not told.
type Movable struct {
	Kind   string `json:"kind"` // MoveOptimizer, MoveCache
	Bytes  int64  `json:"bytes"`
	OutNs  int64  `json:"out_ns"`           // what leaving takes, of the bubble that it leaves in
	InNs   int64  `json:"in_ns"`            // what coming back takes: state beside what is computed then, cached blocks before anything is
	Bubble *int   `json:"bubble,omitempty"` // the only one that it could be away over, by its index
}

// MainTotals sums a main job's device since it attached. All durations in ns.
type MainTotals struct {
	Iterations        int64   `json:"iterations"`
	ControlIterations int64   `json:"control_iterations"`
	BubbleNs          int64   `json:"bubble_ns"`  // announced, control iterations excluded
	OfferedNs         int64   `json:"offered_ns"` // gate open
	FilledNs          int64   `json:"filled_ns"`  // device time charged inside
	IterationNs       int64   `json:"iteration_ns"`
	CommNs            int64   `json:"comm_ns"`             // never offered: collectives
	OtherNs           int64   `json:"other_ns"`            // never offered: optimizer, evaluation, checkpoints
	FilledIterationNs int64   `json:"filled_iteration_ns"` // iterations beside fill work
	FilledMeanNs      float64 `json:"filled_mean_ns"`
	ControlMeanNs     float64 `json:"control_mean_ns"`
	OverheadLo        float64 `json:"overhead_lo"` // log-ratio interval of the governor
	OverheadHi        float64 `json:"overhead_hi"`
}

// NodeAssignment is what a node knows of an assignment.
type NodeAssignment struct {
	ID       int64                    `json:"id"`
	Job      pipefill.JobKey          `json:"job"`
	Device   pipefill.DeviceID        `json:"device"`
	Others   pipefill.DeviceSet       `json:"others,omitempty"` // a gang's other devices
	State    pipefill.AssignmentState `json:"state"`
	Outcome  pipefill.Outcome         `json:"outcome,omitempty"`
	Reason   string                   `json:"reason,omitempty"`
	ExitCode int                      `json:"exit_code"`
	EndedMs  int64                    `json:"ended_ms,omitempty"`
	Plan     uint64                   `json:"plan,omitempty"` // the one that the node has of it: Plan.ID
	At       PlanPosition             `json:"at,omitzero"`
}

// PlanPosition is where a fill job says that it is: the next op of a pass of a
// configuration, by the plan that it follows. A user's program wrote it.
type PlanPosition struct {
	Plan   uint64 `json:"plan"` // 0: it follows none
	Config int    `json:"config"`
	Op     int    `json:"op"`
}

// MaxPlan bounds the text of a Plan.
const MaxPlan = 1 << 20

// Plan is the execution plan of a live assignment, for its fill job.
type Plan struct {
	Assignment int64           `json:"assignment"`
	ID         uint64          `json:"id"`   // names Text by its content
	Text       json.RawMessage `json:"text"` // docs/plans.md, "handed to the job"; the node does not look into it
	Move       *PlanMove       `json:"move,omitempty"`
}

// PlanMove is the state of the main job that a Plan counts on to be away: from
// before bubble Out begins to the end of bubble In, by their indices.
type PlanMove struct {
	Kind  string `json:"kind"` // as of the Movable
	Out   int    `json:"out"`
	In    int    `json:"in"`
	Bytes int64  `json:"bytes"` // of room that this makes
}

// NodeOrders is the controller's answer to a sync.
type NodeOrders struct {
	Serial      int64                 `json:"serial"`      // rises when the orders change
	Assignments []pipefill.Assignment `json:"assignments"` // all the node should hold, not ended
	Forget      []int64               `json:"forget"`      // ended ones the node may drop from disk
	UsageAck    map[string]int64      `json:"usage_ack"`   // per ledger: counted up to this seq
	Partitions  []string              `json:"partitions"`  // the fill partitions
	Cluster     string                `json:"cluster"`
	Refused     *pipefill.JobKey      `json:"refused"` // answer to WantsJob: no assignment
	NowMs       int64                 `json:"now_ms"`
	Recordings  []RecordingAsk        `json:"recordings,omitempty"` // to be sent (POST /v1/node/recording)
	Plans       []Plan                `json:"plans,omitempty"`      // of assignments whose plan the node has not
	TakesKept   bool                  `json:"takes_kept,omitempty"` // MainDevice.CycleKept is understood; a controller that does not say so is sent all
	Whole       bool                  `json:"whole,omitempty"`      // a cycle was left out that is not known here: the sync was not heard, send all
}

// Failure is the body of every answer that is not 2xx.
type Failure struct {
	Code    pipefill.Code `json:"code"`
	Message string        `json:"message"`
}

// FillJob is one row of the queue, as the CLI shows it.
type FillJob struct {
	JobID      int64              `json:"job_id"`
	ArrayTask  int64              `json:"array_task"` // -1: not of an array
	Name       string             `json:"name"`
	User       string             `json:"user"`
	Account    string             `json:"account"`
	Partition  string             `json:"partition"`
	State      string             `json:"state"` // queued, held, an assignment's state, or an outcome
	Reason     string             `json:"reason"`
	Priority   int64              `json:"priority"`
	SubmitMs   int64              `json:"submit_ms"`
	LimitMs    int64              `json:"limit_ms"`
	DeviceMs   int64              `json:"device_ms"` // charged so far
	Node       string             `json:"node,omitempty"`
	Device     pipefill.DeviceID  `json:"device,omitempty"`
	Others     pipefill.DeviceSet `json:"others,omitempty"`  // a gang's other devices
	Devices    int                `json:"devices,omitempty"` // that it asks for at once
	Assignment int64              `json:"assignment,omitempty"`
	Attempts   int                `json:"attempts"`
	ExpectMs   int64              `json:"expect_ms"`   // device time that it is thought to take
	ExpectFrom string             `json:"expect_from"` // plan, history, limit or nothing
	DeadlineMs int64              `json:"deadline_ms,omitempty"`
}

// Slot is one row of `pipefill-cli slots`.
type Slot struct {
	Node    string     `json:"node"`
	Main    MainDevice `json:"main"`
	User    string     `json:"user"`
	FillJob int64      `json:"fill_job,omitempty"`
	SeenMs  int64      `json:"seen_ms"`
}

// Profile is the answer to an uploaded fill profile (POST /v1/profiles, whose body
// is the file): what a job names it by, as profile=DIGEST.
type Profile struct {
	Digest string `json:"digest"`
	Name   string `json:"name"`
}
