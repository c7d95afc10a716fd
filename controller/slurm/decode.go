package slurm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unique"
)

// number takes what releases write for a number: 3, "3", null, "INFINITE", and
// {"set","infinite","number"} from v0.0.40 on. It is int64 because priorities
// reach 4294901759 on a stock cluster, and NO_VAL64 is clamped, not refused.
type number struct {
	set, infinite bool
	n             int64
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *number) UnmarshalJSON(b []byte) error {
	*v = number{}
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0, string(b) == "null":
		return nil
	case b[0] == '{':
		var o struct {
			Set      bool        `json:"set"`
			Infinite bool        `json:"infinite"`
			Number   json.Number `json:"number"`
		}
		if err := json.Unmarshal(b, &o); err != nil {
			return fmt.Errorf("number %.60s: %w", b, err)
		}
		*v = number{set: o.Set, infinite: o.Infinite, n: clamp(o.Number.String())}
	case b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("number %.60s: %w", b, err)
		}
		if strings.EqualFold(s, "INFINITE") || strings.EqualFold(s, "UNLIMITED") {
			v.infinite = true
		} else if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			v.set, v.n = true, n
		}
	case b[0] == '-', b[0] >= '0' && b[0] <= '9':
		*v = number{set: true, n: clamp(string(b))}
	default:
		return fmt.Errorf("number %.60s: not a number", b)
	}
	return nil
}

// or returns the number, or what to take where it is not set or has no end.
func (v number) or(absent int64) int64 {
	if !v.set || v.infinite {
		return absent
	}
	return v.n
}

// ms turns seconds since the epoch into milliseconds.
func (v number) ms() int64 {
	if !v.set || v.n <= 0 || v.n > math.MaxInt64/1000 {
		return 0
	}
	return v.n * 1000
}

func clamp(s string) int64 {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(s, 64) // out of range gives +-Inf, which clamps
	switch {
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f <= math.MinInt64:
		return math.MinInt64
	}
	return int64(f)
}

// words takes "A", "A,B", ["A","B"] and null.
type words []string

// UnmarshalJSON implements json.Unmarshaler.
func (w *words) UnmarshalJSON(b []byte) error {
	*w = nil
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '[' {
		var list []string
		if err := json.Unmarshal(b, &list); err != nil {
			return fmt.Errorf("words %.60s: %w", b, err)
		}
		*w = list
		return nil
	}
	var one *string
	if err := json.Unmarshal(b, &one); err != nil {
		return fmt.Errorf("words %.60s: %w", b, err)
	}
	if one != nil && *one != "" {
		*w = strings.Split(*one, ",")
	}
	return nil
}

// exitCode takes the wait status of 22.05 and the object of v0.0.40 on.
type exitCode struct {
	code, signal int
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *exitCode) UnmarshalJSON(b []byte) error {
	*e = exitCode{}
	b = bytes.TrimSpace(b)
	if len(b) == 0 || b[0] != '{' {
		var status number
		if err := status.UnmarshalJSON(b); err != nil {
			return err
		}
		e.code, e.signal = int(status.n>>8&0xff), int(status.n&0x7f)
		return nil
	}
	var o struct {
		ReturnCode number `json:"return_code"`
		Signal     struct {
			ID       number `json:"id"`
			SignalID number `json:"signal_id"` // its name up to v0.0.40
		} `json:"signal"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("exit code %.60s: %w", b, err)
	}
	e.code = int(o.ReturnCode.n & 0xff)
	e.signal = int((o.Signal.ID.n | o.Signal.SignalID.n) & 0x7f)
	return nil
}

// rawJob is a job as slurmrestd writes it, v0.0.36 to v0.0.42.
type rawJob struct {
	JobID           number   `json:"job_id"`
	ArrayJobID      number   `json:"array_job_id"`
	ArrayTaskID     number   `json:"array_task_id"`
	ArrayTaskString string   `json:"array_task_string"`
	ArrayMaxTasks   number   `json:"array_max_tasks"`
	Dependency      string   `json:"dependency"`
	HetJobID        number   `json:"het_job_id"`
	Name            string   `json:"name"`
	UserID          number   `json:"user_id"`
	UserName        string   `json:"user_name"`
	Account         string   `json:"account"`
	Partition       string   `json:"partition"`
	JobState        words    `json:"job_state"`
	StateReason     string   `json:"state_reason"`
	Priority        number   `json:"priority"`
	Hold            bool     `json:"hold"`
	TimeLimit       number   `json:"time_limit"`
	SubmitTime      number   `json:"submit_time"`
	EligibleTime    number   `json:"eligible_time"`
	StartTime       number   `json:"start_time"`
	EndTime         number   `json:"end_time"`
	RestartCnt      number   `json:"restart_cnt"`
	Requeue         bool     `json:"requeue"`
	BatchFlag       bool     `json:"batch_flag"`
	TresPerJob      string   `json:"tres_per_job"`
	TresPerNode     string   `json:"tres_per_node"`
	TresPerSocket   string   `json:"tres_per_socket"`
	TresPerTask     string   `json:"tres_per_task"`
	TresReq         string   `json:"tres_req_str"`
	RequiredNodes   string   `json:"required_nodes"`
	ExcludedNodes   string   `json:"excluded_nodes"`
	Nodes           string   `json:"nodes"`
	CPUs            number   `json:"cpus"`
	NodeCount       number   `json:"node_count"`
	MemoryPerNode   number   `json:"memory_per_node"`
	ExitCode        exitCode `json:"exit_code"`
	Comment         string   `json:"comment"`
	AdminComment    string   `json:"admin_comment"`
}

// job turns the answer's job into ours.
func (r *rawJob) job() Job {
	state := decodeState(r.JobState)
	note := parseNote(r.AdminComment)
	j := Job{
		ID: r.JobID.n, ArrayID: r.ArrayJobID.or(0), ArrayTask: -1, Het: r.HetJobID.or(0) != 0,
		ArrayMax: r.ArrayMaxTasks.or(0), Dependency: r.Dependency,
		Name: once(r.Name), UID: uint32(r.UserID.n & math.MaxUint32), User: once(r.UserName), Account: once(r.Account), Partition: once(r.Partition),
		State: once(state.base), Completing: state.completing, Reason: once(r.StateReason), Priority: r.Priority.or(0),
		TimeLimitMin: r.TimeLimit.or(Infinite),
		SubmitMs:     r.SubmitTime.ms(), EligibleMs: r.EligibleTime.ms(), StartMs: r.StartTime.ms(), EndMs: r.EndTime.ms(),
		Restarts: int(r.RestartCnt.or(0)), Requeue: r.Requeue && !note.noRequeue, Batch: r.BatchFlag,
		Options: note.options, RequestedGPUs: r.gpus(note), RequestedNodes: r.RequiredNodes, ExcludedNodes: r.ExcludedNodes,
		PinnedNode: note.pin, Nodes: r.Nodes, MemBytes: r.memBytes(), CPUs: r.CPUs.or(0), NodeCount: r.NodeCount.or(0),
		ExitCode: r.ExitCode.code, Signal: r.ExitCode.signal, Comment: r.Comment, AdminComment: r.AdminComment,
	}
	j.Held = j.Pending() && (r.Hold || state.held || r.Priority.set && r.Priority.n == 0)
	if j.ArrayID != 0 {
		j.ArrayTask = r.ArrayTaskID.or(-1)
	}
	if note.pin != "" {
		j.RequestedNodes = note.required
	}
	return j
}

// once keeps equal texts once: of 100,000 jobs most have the same.
func once(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}

func (r *rawJob) gpus(note note) string {
	var found []string
	for _, tres := range []string{r.TresPerJob, r.TresPerNode, r.TresPerSocket, r.TresPerTask, note.gpus} {
		for part := range strings.SplitSeq(tres, ",") {
			// 22.05 writes gres:gpu:2, later releases gres/gpu:2.
			name := strings.TrimPrefix(strings.TrimPrefix(part, "gres:"), "gres/")
			if name == "gpu" || strings.HasPrefix(name, "gpu:") {
				found = append(found, part)
			}
		}
	}
	return strings.Join(found, ",")
}

func (r *rawJob) memBytes() int64 {
	for part := range strings.SplitSeq(r.TresReq, ",") {
		if text, ok := strings.CutPrefix(part, "mem="); ok {
			return parseMem(text)
		}
	}
	if r.MemoryPerNode.set && r.MemoryPerNode.n > 0 && r.MemoryPerNode.n < 1<<40 {
		return r.MemoryPerNode.n << 20
	}
	return 0
}

// parseMem reads Slurm's sizes, "4000M"; no unit is mebibytes. 0: not a size.
func parseMem(text string) int64 {
	scale := float64(1 << 20)
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMGTP", text[n-1]); i >= 0 {
			scale = math.Pow(1024, float64(i+1))
			text = text[:n-1]
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f*scale >= math.MaxInt64 {
		return 0
	}
	return int64(f * scale)
}

type jobState struct {
	base             string
	held, completing bool
}

// decodeState parts a base state from its flags. 22.05 writes a flag instead of
// the base state; later releases list both.
func decodeState(list words) jobState {
	var s jobState
	implied := ""
	for _, word := range list {
		switch word = strings.ToUpper(strings.TrimSpace(word)); word {
		case "":
		case "COMPLETING", "STAGE_OUT":
			s.completing = true
			implied = "COMPLETING"
		case "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD":
			s.held = true
			implied = "PENDING"
		case "REQUEUED", "REQUEUE_FED":
			implied = "PENDING"
		case "CONFIGURING", "POWER_UP_NODE", "RESIZING", "SIGNALING", "STOPPED":
			implied = "RUNNING"
		case "RECONFIG_FAIL", "LAUNCH_FAILED", "UPDATE_DB", "EXPEDITING":
		default:
			s.base = word
		}
	}
	if s.base == "" {
		s.base = implied
	}
	if s.base == "" {
		s.base = "UNKNOWN"
	}
	return s
}

// rawNode is a node as slurmrestd writes it.
type rawNode struct {
	Name        string `json:"name"`
	State       words  `json:"state"`
	StateFlags  words  `json:"state_flags"` // up to v0.0.38
	Partitions  words  `json:"partitions"`
	CPUs        number `json:"cpus"`
	AllocCPUs   number `json:"alloc_cpus"`
	RealMemory  number `json:"real_memory"`
	AllocMemory number `json:"alloc_memory"`
	Gres        string `json:"gres"`
}

func (r *rawNode) node() Node {
	const maxMiB = 1 << 40
	mib := func(v number) int64 { return min(max(v.or(0), 0), maxMiB) }
	n := Node{
		Name: r.Name, Partitions: r.Partitions, CPUs: r.CPUs.or(0), FreeCPUs: max(0, r.CPUs.or(0)-r.AllocCPUs.or(0)),
		MemBytes: mib(r.RealMemory) << 20, FreeBytes: max(0, mib(r.RealMemory)-mib(r.AllocMemory)) << 20, Gres: r.Gres,
	}
	for i, word := range append(append(words{}, r.State...), r.StateFlags...) {
		word = strings.ToUpper(word)
		if i == 0 {
			n.State = word
		}
		switch word {
		case "RESERVED":
			n.Reserved = true
		case "DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "ERROR", "NOT_RESPONDING", "UNKNOWN", "FUTURE",
			"MAINTENANCE", "REBOOT_ISSUED", "REBOOT_REQUESTED", "POWERED_DOWN", "POWERING_DOWN", "INVALID", "INVALID_REG":
			n.Down = true
		}
	}
	if n.State == "" {
		n.State, n.Down = "UNKNOWN", true
	}
	return n
}
