// Package simulator answers what filling would give a cluster: pipeline schedules
// become bubbles, fill jobs arrive, and the scheduler and the planner that run in
// production (controller/schedule, controller/plan) decide in simulated time. It
// decides nothing about jobs itself, reads no clock, and gives the same answer for
// the same seed.
package simulator

import (
	"time"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/simulator/pipeline"
	"pipefill/simulator/workload"
)

// Scenario is one cluster and what it is asked to run.
type Scenario struct {
	Name     string
	Duration time.Duration
	Mains    []Main
	Filling  Filling
	Fills    []Fill // the kinds of fill job
	Workload Workload
	Device   workload.Device

	plans *planCache // of the file; nil: none
}

// Main is a main job. It runs all the time.
type Main struct {
	Name       string
	Devices    int
	Pipeline   pipeline.Model // its bubbles, unless Measured has them
	Measured   []Measured
	FLOPS      float64 // of one device while it computes, FLOP/s
	Iterations int64   // of the whole training; 0: not known
	// LengthScale multiplies the length of every bubble that is offered, with
	// nothing else changed: for sensitivity.
	LengthScale float64
	// FreeBytes, where more than 0, is what every bubble has free, whatever the
	// memory model says.
	FreeBytes int64
}

// Measured is the bubble cycle of a device that really ran.
type Measured struct {
	Cycle    pipefill.BubbleCycle
	BubbleNs int64 // of all bubbles of an iteration, whether offered or not
	Devices  int   // that are like it
}

// Filling is how bubbles are offered and what handing over costs.
type Filling struct {
	Share     float64
	GuardNs   int64
	LeastNs   int64
	Kinds     []pipefill.BubbleKind
	Control   float64       // share of iterations that are withheld
	OpenNs    int64         // from the gate's opening to the first fill work
	LateNs    int64         // the main job's, at the end of each bubble
	Announce  int64         // ns, the main job's, before each wait
	Start     time.Duration // from the assignment to the first fill work
	Program   float64       // speed of a program without profile within the gate, of its speed alone
	BestPlans bool          // mixed configurations; else the best single one
}

// Fill is a kind of fill job.
type Fill struct {
	Name    string
	Weight  float64       // of its share among the jobs
	Profile *plan.Profile // nil: a program that is stopped and continued
	Alone   float64       // samples a second on an idle device
	FLOPS   float64       // on an idle device, FLOP/s

	// Within is the speed of a program without profile within the gate, of its
	// speed alone; 0: Filling.Program.
	Within float64

	key string // tells profiles apart; "": its plans are not kept
}

// Workload says which jobs arrive when.
type Workload struct {
	Trace *workload.Trace // nil: drawn
	// Once: the trace's jobs come at their times, and none after them.
	Once bool
	// Load is the work that arrives over the work that the bubbles can do; 0: as
	// recorded.
	Load      float64
	Backlog   int // jobs that wait at the begin
	LongestMs int64
	Users     int
	Gangs     bool    // jobs of several devices want them at once; else they come apart
	Deadline  float64 // of each job, as a multiple of its run time; 0: none
}
