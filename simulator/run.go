package simulator

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
	"pipefill/simulator/workload"
)

// slotState is one device and the job that has it.
type slotState struct {
	class int
	slot  schedule.Slot
}

// jobState is one fill job.
type jobState struct {
	submitMs, startMs, endMs int64 // -1: not yet
	runMs                    int64
	fill                     int32
	user                     int32
	deadlineMs               int64
	slots                    []int32
}

// ending is one job's end, in the heap of what comes.
type ending struct {
	atMs int64
	job  int32
}

// run is one scenario under one policy with one seed.
type run struct {
	w         *world
	scheduler *schedule.Scheduler
	random    *rand.Rand
	next      func() workload.Job
	coming    workload.Job

	slots   []slotState
	place   map[pipefill.DeviceID]int32
	free    [][]int32 // by class
	freeNow int
	jobs    []jobState
	ends    []ending
	nowMs   int64
	endMs   int64
	usage   map[int32]float64 // device seconds by user, decayed
	usageMs int64

	occupied [][]float64 // ms by class and fill
	queueMin int
	queueMax int
}

// loadedMost bounds the jobs of a run: a workload that is faster than this is a
// mistake in its file.
const loadedMost = 5_000_000

// shareEvery is how often usage is told to the scheduler, and progress and
// cancellation are looked at.
const shareEvery = 3600_000

func newRun(w *world, policy *schedule.Policy, seed uint64) *run {
	r := &run{
		w: w, endMs: w.s.Duration.Milliseconds(), place: map[pipefill.DeviceID]int32{}, usage: map[int32]float64{},
		random: rand.New(rand.NewPCG(seed, 0x6b696e64)), //nolint:gosec // a simulation's, to be the same again
	}
	r.scheduler = schedule.New(policy, schedule.Options{MaxWait: schedule.DefaultMaxWait, Speed: r.speed})
	r.free, r.occupied = make([][]int32, len(w.classes)), make([][]float64, len(w.classes))
	for c := range w.classes {
		own := &w.classes[c]
		r.occupied[c] = make([]float64, len(w.s.Fills))
		var longest int64
		for _, b := range own.cycle.Bubbles {
			longest = max(longest, b.DurationNs)
		}
		for range own.devices {
			id := int32(len(r.slots)) //nolint:gosec // bounded by the file's check
			device := pipefill.DeviceID(fmt.Sprintf("gpu:%d", id))
			r.slots = append(r.slots, slotState{c, schedule.Slot{
				Node: own.name, Device: device, Main: pipefill.JobKey{JobID: int64(own.main + 1)}, Share: schedule.RoundShare(own.usable),
				IterationS: float64(own.cycle.IterationNs) / 1e9, LongestS: float64(longest) / 1e9, Bubbles: len(own.cycle.Bubbles), Cycle: own.name,
			}})
			r.place[device] = id
			r.free[c] = append(r.free[c], id)
		}
	}
	r.freeNow = len(r.slots)
	r.arrivals(seed)
	return r
}

// arrivals sets next up, at the load asked for.
func (r *run) arrivals(seed uint64) {
	l := r.w.s.Workload
	if l.Once {
		left := l.Trace.Jobs
		r.next = func() workload.Job {
			if len(left) == 0 {
				return workload.Job{SubmitMs: math.MaxInt64}
			}
			job := left[0]
			left = left[1:]
			return job
		}
		return
	}
	longest := l.LongestMs
	gap := 0.0
	if l.Load > 0 {
		speed := r.w.meanSpeed()
		if speed == 0 {
			speed = 1 // nothing fits: as if the devices were idle
		}
		capacity := speed * float64(r.w.devices())
		mean := 1e3 * workload.RunTimes.Mean(float64(longest)/1e3)
		if l.Trace != nil {
			mean = l.Trace.MeanRunMs(longest)
		}
		gap = mean / capacity / l.Load
	}
	if l.Trace != nil {
		r.next = workload.NewRepeater(*l.Trace, seed, gap, longest).Next
		return
	}
	r.next = workload.NewSynthetic(seed, max(gap, 1), longest, l.Users).Next
}

// speed is what the scheduler is told of a profile on a slot.
func (r *run) speed(profile string, s schedule.Slot) float64 {
	c, known := r.w.byName[s.Cycle]
	if !known {
		return 0
	}
	f := slices.IndexFunc(r.w.s.Fills, func(f Fill) bool { return f.Name == profile })
	return r.w.classes[c].rates[f].speed
}

// run lets time pass. progress is told the part of it that is over.
func (r *run) run(ctx context.Context, progress func(float64)) error {
	baseMs := int64(0) // the last of those that wait at the begin
	for range r.w.s.Workload.Backlog {
		job := r.next()
		baseMs = job.SubmitMs
		r.submit(job)
	}
	come := func() {
		r.coming = r.next()
		r.coming.SubmitMs -= baseMs
	}
	come()
	r.assign()
	r.queueMin = r.scheduler.Len()
	lookMs := int64(0)
	for {
		if r.nowMs >= lookMs {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("simulate: %w", context.Cause(ctx))
			}
			progress(float64(r.nowMs) / float64(r.endMs))
			r.share()
			lookMs = r.nowMs + shareEvery
		}
		ended := len(r.ends) > 0 && r.ends[0].atMs <= min(r.coming.SubmitMs, r.endMs)
		if !ended && r.coming.SubmitMs > r.endMs {
			break
		}
		if ended {
			r.finish(r.popEnd())
		} else {
			r.nowMs = r.coming.SubmitMs
			r.submit(r.coming)
			come()
			if r.freeNow > 0 {
				r.assign()
			}
		}
		r.queueMin = min(r.queueMin, r.scheduler.Len())
		r.queueMax = max(r.queueMax, r.scheduler.Len())
		if len(r.jobs) > loadedMost {
			return pipefill.Errorf(pipefill.CodeInvalid, "more than %d fill jobs: set workload's load", loadedMost)
		}
	}
	r.nowMs = r.endMs
	for i := range r.jobs {
		if j := &r.jobs[i]; j.startMs >= 0 && j.endMs < 0 {
			r.account(j)
		}
	}
	progress(1)
	if fault := r.scheduler.Fault(); fault != "" {
		return pipefill.Errorf(pipefill.CodeInvalid, "%s", fault)
	}
	return nil
}

// submit queues a job, or its parts.
func (r *run) submit(j workload.Job) {
	parts, devices := j.Devices, 1
	if r.w.s.Workload.Gangs {
		parts, devices = 1, j.Devices
	}
	fill := int32(j.Kind - 1) //nolint:gosec // a handful
	if j.Kind == 0 {
		fill = r.draw()
	}
	for range parts {
		id := int64(len(r.jobs))
		state := jobState{submitMs: r.nowMs, startMs: -1, endMs: -1, runMs: j.RunMs, fill: fill, user: int32(j.User)} //nolint:gosec // a user's number
		if k := r.w.s.Workload.Deadline; k > 0 {
			state.deadlineMs = r.nowMs + int64(k*float64(j.RunMs))
		}
		r.jobs = append(r.jobs, state)
		kind := &r.w.s.Fills[fill]
		job := store.FillJob{
			ID: id + 1, JobID: id + 1, SubmitMs: r.nowMs, FirstMs: r.nowMs, Name: kind.Name, User: userName(state.user), Mode: pipefill.ModeChunked,
			Requeue: true, WorkMs: j.RunMs, Devices: devices, DeadlineMs: state.deadlineMs,
		}
		if kind.Profile != nil {
			job.Profile = kind.Name
		}
		r.scheduler.Put(job)
	}
}

// draw picks a kind by weight.
func (r *run) draw() int32 {
	total := 0.0
	for _, f := range r.w.s.Fills {
		total += f.Weight
	}
	at := r.random.Float64() * total
	for i, f := range r.w.s.Fills {
		if at -= f.Weight; at < 0 {
			return int32(i)
		}
	}
	return int32(len(r.w.s.Fills) - 1) //nolint:gosec // a handful
}

// assign lets the scheduler choose among the free devices. Those of a class are
// alike, so that as many of each are shown as jobs wait.
func (r *run) assign() {
	waiting := r.scheduler.Len()
	if waiting == 0 || r.freeNow == 0 {
		return
	}
	var free []schedule.Slot
	for _, list := range r.free {
		n := len(list)
		if r.w.s.Workload.Gangs {
			waiting = n
		}
		for _, id := range list[n-min(n, waiting):] {
			free = append(free, r.slots[id].slot)
		}
	}
	r.take(r.scheduler.Assign(r.nowMs, free))
}

// take starts what was decided.
func (r *run) take(pairs []schedule.Pair) {
	for _, p := range pairs {
		id := r.place[p.Slot.Device]
		list := r.free[r.slots[id].class]
		at := len(list) - 1
		for list[at] != id { // those shown are the last ones
			at--
		}
		list[at] = list[len(list)-1]
		r.free[r.slots[id].class] = list[:len(list)-1]
		r.freeNow--
		j := &r.jobs[p.Job.ID-1]
		j.startMs = r.nowMs
		j.slots = append(j.slots, id)
	}
	for _, p := range pairs {
		i := int32(p.Job.ID - 1) //nolint:gosec // below loadedMost
		j := &r.jobs[i]
		if p.Slot.Device != r.slots[j.slots[0]].slot.Device {
			continue // another pair of the same job
		}
		slowest := r.w.classes[r.slots[j.slots[0]].class].rates[j.fill].speed
		for _, s := range j.slots[1:] {
			slowest = min(slowest, r.w.classes[r.slots[s].class].rates[j.fill].speed)
		}
		if slowest > 0 {
			r.pushEnd(ending{r.nowMs + r.w.s.Filling.Start.Milliseconds() + int64(float64(j.runMs)/slowest), i})
		}
	}
}

// finish ends a job, and gives its devices to others.
func (r *run) finish(e ending) {
	r.nowMs = e.atMs
	j := &r.jobs[e.job]
	j.endMs = e.atMs
	r.account(j)
	for _, id := range j.slots {
		s := &r.slots[id]
		r.scheduler.Vacate(s.slot.Node, s.slot.Device)
		r.free[s.class] = append(r.free[s.class], id)
		r.freeNow++
	}
	j.slots = nil
	r.assign()
}

// account books the time for which a job has had its devices, its start left out.
func (r *run) account(j *jobState) {
	ms := float64(r.nowMs - j.startMs - r.w.s.Filling.Start.Milliseconds())
	if ms <= 0 {
		return
	}
	for _, id := range j.slots {
		c := r.slots[id].class
		r.occupied[c][j.fill] += ms
		r.usage[j.user] += ms / 1e3 * r.w.classes[c].rates[j.fill].filled
	}
}

// share tells the scheduler what was used.
func (r *run) share() {
	var records []store.UserUsage
	for user, seconds := range r.usage {
		records = append(records, store.UserUsage{User: userName(user), AtMs: r.usageMs, Seconds: seconds})
	}
	shares := schedule.Shares{Usage: schedule.Decay(records, r.nowMs, schedule.DefaultHalfLife)}
	faded := math.Exp2(-float64(r.nowMs-r.usageMs) / float64(schedule.DefaultHalfLife.Milliseconds()))
	for user := range r.usage {
		r.usage[user] *= faded
	}
	r.usageMs = r.nowMs
	r.scheduler.SetShares(shares)
}

func userName(user int32) string { return "u" + strconv.Itoa(int(user)) }

func (e ending) before(o ending) bool { return e.atMs < o.atMs || e.atMs == o.atMs && e.job < o.job }

func (r *run) pushEnd(e ending) {
	r.ends = append(r.ends, e)
	k := len(r.ends) - 1
	for k > 0 && r.ends[k].before(r.ends[(k-1)/2]) {
		r.ends[k], r.ends[(k-1)/2] = r.ends[(k-1)/2], r.ends[k]
		k = (k - 1) / 2
	}
}

func (r *run) popEnd() ending {
	top, last := r.ends[0], len(r.ends)-1
	r.ends[0] = r.ends[last]
	r.ends = r.ends[:last]
	for k := 0; ; {
		least := 2*k + 1
		if least >= last {
			return top
		}
		if least+1 < last && r.ends[least+1].before(r.ends[least]) {
			least++
		}
		if !r.ends[least].before(r.ends[k]) {
			return top
		}
		r.ends[k], r.ends[least] = r.ends[least], r.ends[k]
		k = least
	}
}
