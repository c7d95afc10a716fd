package schedule

import (
	"math"
	"strconv"

	"pipefill"
)

// JobAttributes is what a policy may say of a job, as job.NAME. Values that are
// not known are said in the table below and in docs/policies.md.
type JobAttributes struct {
	Wait         float64 `expr:"wait_s"`
	Time         float64 `expr:"time_s"`
	Work         float64 `expr:"work_s"`
	Speed        float64 `expr:"speed"`
	Elsewhere    float64 `expr:"elsewhere_s"`
	Misfit       float64 `expr:"misfit"`
	Done         float64 `expr:"done_s"`
	Limit        float64 `expr:"limit_s"`
	Deadline     float64 `expr:"deadline_s"`
	Slack        float64 `expr:"slack_s"`
	Due          float64 `expr:"due_s"`
	HasDeadline  bool    `expr:"has_deadline"`
	MemBytes     float64 `expr:"mem_bytes"`
	Used         float64 `expr:"used_s"`
	Attempts     float64 `expr:"attempts"`
	Devices      float64 `expr:"devices"`
	GPU          bool    `expr:"gpu"`
	Fairshare    float64 `expr:"fairshare"`
	Usage        float64 `expr:"usage_s"`
	AccountUsage float64 `expr:"account_usage_s"`
	Running      float64 `expr:"running"`
	AccountRuns  float64 `expr:"account_running"`
	User         string  `expr:"user"`
	Account      string  `expr:"account"`
	Name         string  `expr:"name"`
	Partition    string  `expr:"partition"`
	Mode         string  `expr:"mode"`
	Source       string  `expr:"source"`
}

// SlotAttributes is what a policy may say of a slot, as slot.NAME.
type SlotAttributes struct {
	Share     float64 `expr:"share"`
	Iteration float64 `expr:"iteration_s"`
	Longest   float64 `expr:"longest_s"`
	Bubbles   float64 `expr:"bubbles"`
	FreeBytes float64 `expr:"free_bytes"`
	Remaining float64 `expr:"remaining_s"`
	Kind      string  `expr:"kind"`
	Node      string  `expr:"node"`
}

// Never stands where a time has no end, in seconds: about 30 years, so that sums
// of it stay exact.
const Never = 1e9

// pace is how an attribute moves with time alone.
type pace int

const (
	still  pace = iota // not at all
	evenly             // by the same for every job
	freely             // by what depends on the job
)

// Attribute describes one name of the policy language.
type Attribute struct {
	Name string // job.NAME or slot.NAME
	Type string // number, bool or string
	Unit string
	Text string

	pace    pace
	trend   trend                      // where it has a pace
	shares  bool                       // moves with the usage of users
	running bool                       // moves with what runs
	ends    bool                       // moves with when what runs ends
	column  func(c *columns) []float64 // where it is one as it stands
	number  func(c *context, i int) float64
	numbers func(c *context, first int, out []float64) // in place of number: of many jobs, where policies ask for it often
	text    func(c *context, i int) string
}

// context is what an evaluation rests on besides the job. slot is that of the
// class which is asked for; speeds are by profile, the first of jobs without.
type context struct {
	*columns

	nowMs   float64
	slot    *Slot
	speeds  []float64
	groups  []group
	later   [][]opening // by profile: when which speeds are to be had
	misfits []float64   // by profile
	doneS   float64
}

// opening is a slot that will be free.
type opening struct {
	inS    float64 // from now
	perS   float64 // seconds of time a second of work
	untilS float64 // of work, up to which it is the one where a job ends soonest
}

// leastSpeed keeps times finite on slots whose bubbles are not learned yet.
const leastSpeed = 0.001

func (c *context) speed(i int) float64 { return max(c.speeds[c.profile[i]], leastSpeed) }

// times is how long jobs take on the slot.
func (c *context) times(first int, out []float64) {
	works, speeds := c.workS[first:first+len(out)], c.speeds
	for i, p := range c.profile[first : first+len(out)] {
		out[i] = works[i] / max(speeds[p], leastSpeed)
	}
}

// elsewheres is when jobs would end on the best of the slots that are taken.
func (c *context) elsewheres(first int, out []float64) {
	works := c.workS[first : first+len(out)]
	for i, p := range c.profile[first : first+len(out)] {
		out[i] = Never
		if int(p) >= len(c.later) {
			continue
		}
		for k := range c.later[p] {
			o := &c.later[p][k]
			if works[i] <= o.untilS {
				out[i] = o.inS + works[i]*o.perS
				break
			}
		}
	}
}

// misfit is a job's, by its profile.
func (c *context) misfit(first int, out []float64) {
	for i, p := range c.profile[first : first+len(out)] {
		out[i] = 0
		if int(p) < len(c.misfits) {
			out[i] = c.misfits[p]
		}
	}
}

// flag is 1 for true. That of a random bool is a jump that processors guess
// wrong half of the time: bits are chosen without one.
func flag(b bool) float64 {
	bits := uint64(0)
	if b {
		bits = oneBits
	}
	return math.Float64frombits(bits)
}

const oneBits = 0x3FF0000000000000 // of 1.0

func until(atMs, nowMs float64) float64 {
	bits := math.Float64bits((atMs - nowMs) / 1000)
	if atMs == 0 {
		bits = neverBits
	}
	return math.Float64frombits(bits)
}

var neverBits = math.Float64bits(Never)

func due(deadlineMs float64) float64 {
	if deadlineMs == 0 {
		return 1e12
	}
	return deadlineMs / 1000
}

// Attributes lists the policy language's names: first the jobs', then the
// slots'.
var Attributes = []Attribute{
	{
		Name: "job.wait_s", Type: "number", Unit: "s", Text: "since it was first seen pending", pace: evenly, trend: rises,
		numbers: func(c *context, first int, out []float64) {
			for i, ms := range c.firstMs[first : first+len(out)] {
				out[i] = (c.nowMs - ms) / 1000
			}
		},
	},
	{
		Name: "job.time_s", Type: "number", Unit: "s", Text: "expected from start to end on this slot: work_s / speed",
		numbers: (*context).times,
	},
	{
		Name: "job.work_s", Type: "number", Unit: "s", Text: "expected device time if it had the device alone; 1 day where neither profile, history nor limit tells",
		column: func(c *columns) []float64 { return c.workS },
	},
	{
		Name: "job.speed", Type: "number", Unit: "1", Text: "device seconds of work done a second on this slot: by its execution plan, else slot.share",
		number: func(c *context, i int) float64 { return c.speed(i) },
	},
	{
		Name: "job.elsewhere_s", Type: "number", Unit: "s", pace: freely, trend: swings, ends: true,
		Text:    "until it would end if it waited for a slot that is taken now, and had the one where that is soonest; 1e9: there is none",
		numbers: (*context).elsewheres,
	},
	{
		Name: "job.misfit", Type: "number", Unit: "2 %", pace: freely, trend: swings, ends: true,
		Text:    "so many times 2 % more it costs on this slot than where it costs the least, in what slots are worth: that follows from the work that waits. 0: it belongs here",
		numbers: (*context).misfit,
	},
	{
		Name: "job.done_s", Type: "number", Unit: "s", pace: freely, trend: swings, ends: true,
		Text:    "until all that waits and runs could be done: a bound, no order ends it sooner",
		numbers: func(c *context, _ int, out []float64) { fill(out, c.doneS) },
	},
	{
		Name: "job.limit_s", Type: "number", Unit: "s", Text: "its --time, which means device time; 1e9: no limit",
		column: func(c *columns) []float64 { return c.limitS },
	},
	{
		Name: "job.deadline_s", Type: "number", Unit: "s", Text: "until its deadline, negative after it; 1e9: it has none", pace: freely, trend: falls,
		number: func(c *context, i int) float64 { return until(c.deadlineMs[i], c.nowMs) },
	},
	{
		Name: "job.slack_s", Type: "number", Unit: "s", Text: "deadline_s - time_s: negative where it cannot be met any more on this slot", pace: freely, trend: falls,
		numbers: func(c *context, first int, out []float64) {
			c.times(first, out)
			for i, ms := range c.deadlineMs[first : first+len(out)] {
				out[i] = until(ms, c.nowMs) - out[i]
			}
		},
	},
	{
		Name: "job.due_s", Type: "number", Unit: "s", Text: "its deadline, since 1970; 1e12: it has none. Unlike deadline_s it stands still",
		number: func(c *context, i int) float64 { return due(c.deadlineMs[i]) },
	},
	{
		Name: "job.has_deadline", Type: "bool", Text: "whether it has a deadline",
		numbers: func(c *context, first int, out []float64) {
			for i, ms := range c.deadlineMs[first : first+len(out)] {
				out[i] = flag(ms != 0)
			}
		},
	},
	{
		Name: "job.mem_bytes", Type: "number", Unit: "bytes", Text: "device memory asked for; 0: unknown",
		column: func(c *columns) []float64 { return c.memBytes },
	},
	{
		Name: "job.used_s", Type: "number", Unit: "s", Text: "device time charged so far, all attempts",
		column: func(c *columns) []float64 { return c.usedS },
	},
	{
		Name: "job.attempts", Type: "number", Unit: "1", Text: "how often it was started",
		column: func(c *columns) []float64 { return c.attempts },
	},
	{
		Name: "job.devices", Type: "number", Unit: "1", Text: "slots that it needs at once",
		column: func(c *columns) []float64 { return c.devices },
	},
	{
		Name: "job.gpu", Type: "bool", Text: "whether it asks for a GPU",
		number: func(c *context, i int) float64 { return flag(c.gpu[i]) },
	},
	{
		Name: "job.fairshare", Type: "number", Unit: "1", Text: "2^(-usage/share) of its user in its account, 0 to 1, as Slurm's; 0.5: just its share, 1: nothing used", shares: true,
		numbers: func(c *context, first int, out []float64) {
			for i, g := range c.group[first : first+len(out)] {
				out[i] = c.groups[g].fairshare
			}
		},
	},
	{
		Name: "job.usage_s", Type: "number", Unit: "s", Text: "its user's device time in its account, decayed by the half-life", shares: true,
		number: func(c *context, i int) float64 { return c.groups[c.group[i]].usageS },
	},
	{
		Name: "job.account_usage_s", Type: "number", Unit: "s", Text: "its account's device time, decayed by the half-life", shares: true,
		number: func(c *context, i int) float64 { return c.groups[c.group[i]].accountUsageS },
	},
	{
		Name: "job.running", Type: "number", Unit: "slots", Text: "that its user's jobs hold at the start of the round", running: true,
		number: func(c *context, i int) float64 { return c.groups[c.group[i]].running },
	},
	{
		Name: "job.account_running", Type: "number", Unit: "slots", Text: "that its account's jobs hold at the start of the round", running: true,
		number: func(c *context, i int) float64 { return c.groups[c.group[i]].accountRunning },
	},
	{Name: "job.user", Type: "string", Text: "its user's name", text: func(c *context, i int) string { return c.groups[c.group[i]].user }},
	{Name: "job.account", Type: "string", Text: "its Slurm account", text: func(c *context, i int) string { return c.groups[c.group[i]].account }},
	{Name: "job.name", Type: "string", Text: "its --job-name", text: func(c *context, i int) string { return c.job[i].Name }},
	{Name: "job.partition", Type: "string", Text: "its fill partition", text: func(c *context, i int) string { return c.job[i].Partition }},
	{Name: "job.mode", Type: "string", Text: "mode= of its --pipefill: signal, chunked, launch, or empty", text: func(c *context, i int) string { return string(c.job[i].Mode) }},
	{Name: "job.source", Type: "string", Text: "where time_s is from: plan, history, limit or nothing; plan+history and so on: the speed from its plan, the work from the other", text: func(c *context, i int) string { return c.source[i] }},

	{
		Name: "slot.share", Type: "number", Unit: "1", Text: "of the main job's time in which the gate is open, two digits; 0: not learned yet",
		number: func(c *context, _ int) float64 { return c.slot.Share },
	},
	{
		Name: "slot.iteration_s", Type: "number", Unit: "s", Text: "one iteration of the main job",
		number: func(c *context, _ int) float64 { return c.slot.IterationS },
	},
	{
		Name: "slot.longest_s", Type: "number", Unit: "s", Text: "its longest bubble",
		number: func(c *context, _ int) float64 { return c.slot.LongestS },
	},
	{
		Name: "slot.bubbles", Type: "number", Unit: "1", Text: "bubbles in one iteration",
		number: func(c *context, _ int) float64 { return float64(c.slot.Bubbles) },
	},
	{
		Name: "slot.free_bytes", Type: "number", Unit: "bytes", Text: "device memory for fill jobs; 0: unknown",
		number: func(c *context, _ int) float64 { return float64(c.slot.FreeBytes) },
	},
	{
		Name: "slot.remaining_s", Type: "number", Unit: "s", Text: "until the main job's time limit; 1e9: not known", pace: evenly, trend: falls,
		number: func(c *context, _ int) float64 { return until(float64(c.slot.MainEndMs), c.nowMs) },
	},
	{Name: "slot.kind", Type: "string", Text: "of device: gpu or cpu", text: func(c *context, _ int) string { return string(c.slot.Device.Kind()) }},
	{Name: "slot.node", Type: "string", Text: "the node's name", text: func(c *context, _ int) string { return c.slot.Node }},
}

// value is a number, or a bool as 0 or 1.
func (a *Attribute) value(c *context, i int) float64 {
	if a.column != nil {
		return a.column(c.columns)[i]
	}
	if a.numbers != nil {
		var out [1]float64
		a.numbers(c, i, out[:])
		return out[0]
	}
	return a.number(c, i)
}

// numeric tells a number or bool from a text.
func (a *Attribute) numeric() bool { return a.text == nil }

// Slot is a device of a running main job. Slots that agree in what a policy asks
// for are one class, so that whoever makes them rounds: see RoundShare.
type Slot struct {
	Node       string
	Device     pipefill.DeviceID
	Main       pipefill.JobKey
	Options    string  // of the main job's --pipefill: its allow= is kept
	FreeBytes  int64   // device memory for fill jobs; 0: unknown
	Launches   bool    // mode launch is let in
	Share      float64 // of time in which its gate is open, 0 to 1; 0: not learned yet
	IterationS float64
	LongestS   float64
	Bubbles    int
	MainEndMs  int64  // when the main job's limit ends it; 0: not known
	Alone      bool   // its node takes jobs of one device only
	Order      int    // among the devices of its node, as the main job has them
	Peers      int    // slots of one main job on one node that share it have bubbles that coincide
	Cycle      string // names the bubble cycle to Speed: slots with the same name run any plan alike
}

// RoundShare rounds to two digits: what two iterations of one stage differ by is
// less, and slots of one stage become equal.
func RoundShare(share float64) float64 { return roundTo(share, 2) }

// roundTo rounds to so many digits; what is no positive number is 0.
func roundTo(x float64, digits int) float64 {
	if x <= 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(x, 'e', digits-1, 64), 64)
	if err != nil {
		return 0
	}
	return rounded
}
