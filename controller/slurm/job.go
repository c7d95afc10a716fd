package slurm

// Job is one Slurm job or array task, as every release of slurmrestd tells it.
// A time that Slurm does not know is 0.
type Job struct {
	ID        int64
	ArrayID   int64 // the array's job number; 0: not of an array
	ArrayTask int64 // the task's index; -1: not of an array
	ArrayMax  int64 // so many tasks of the array may run at once; 0: no limit
	Het       bool  // part of a heterogeneous job
	Name      string
	UID       uint32
	User      string
	Account   string
	Partition string // a comma-separated list while the job is pending
	// State is the base state (PENDING, RUNNING, SUSPENDED, COMPLETED, ...); COMPLETING
	// where the release does not tell what comes after it.
	State        string
	Completing   bool // its processes are still being cleaned up
	Reason       string
	Dependency   string // what it still waits for, "afterok:7(unfulfilled)"; "": nothing
	Priority     int64
	Held         bool // priority 0, by user, administrator, or requeue hold
	TimeLimitMin int64
	SubmitMs     int64
	EligibleMs   int64
	StartMs      int64
	EndMs        int64
	Restarts     int
	Requeue      bool // may be requeued; false: submitted with --no-requeue
	Batch        bool
	// RequestedGPUs are the GPU requests, as asked ("gres:gpu:2"), those that
	// job_submit.lua took away and noted in the administrator's comment included.
	RequestedGPUs string
	// Options is the value of --pipefill as job_submit.lua noted it; "" without Lua.
	Options        string
	RequestedNodes string // by the user; a pin of ours is not in it
	ExcludedNodes  string
	PinnedNode     string // by PinRelease; "" where not pinned
	Nodes          string // allocated
	MemBytes       int64  // for the whole job
	CPUs           int64
	NodeCount      int64
	ExitCode       int
	Signal         int
	Comment        string
	AdminComment   string
}

// Infinite is a time limit without bound, in minutes.
const Infinite = int64(1) << 40

// Pending tells whether the job waits.
func (j Job) Pending() bool { return j.State == "PENDING" }

// Running tells whether the job holds its nodes.
func (j Job) Running() bool { return j.State == "RUNNING" || j.State == "SUSPENDED" }

// Ended tells whether no process of the job is left to come or to go.
func (j Job) Ended() bool {
	switch j.State {
	case "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED":
		return !j.Completing
	}
	return false
}

// Node is one Slurm node.
type Node struct {
	Name       string
	State      string // IDLE, MIXED, ALLOCATED, DOWN, ...
	Down       bool   // takes no job: down, drained, failing, not responding, unknown
	Reserved   bool   // for a reservation that is on
	Partitions []string
	CPUs       int64
	FreeCPUs   int64
	MemBytes   int64
	FreeBytes  int64 // not allocated to any job
	Gres       string
}
