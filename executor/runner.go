package executor

import (
	"sync/atomic"
	"time"

	"pipefill"
)

// The runner keeps one fill job within the gate. It is the only part whose
// lateness a main job could feel, so its loop allocates nothing, takes no lock
// and calls nothing but the futex and the freezer.

const (
	// A daemon that beats slower than this is as good as dead; a chunked fill
	// job judges by the same number (control.beat_ns in spank/page.h).
	beatMaxAge = 200 * time.Millisecond
	// How long a supervisor waits for a new daemon before it leaves the fill
	// job stopped for good.
	orphanWait = time.Minute
	// The longest wait between two looks at the daemon's beat and commands.
	longestWait = 50 * time.Millisecond
	// Thawing and freezing cost about 90 us: what is left of a shorter opening
	// would be spent on the switches.
	shortestOpening = 300 * time.Microsecond
	// Bounds of the time kept before the deadline for stopping the fill job.
	leastMargin = 100 * time.Microsecond
	mostMargin  = 5 * time.Millisecond
	// So often in a row it may run past the grace; then it is stopped from
	// outside for some openings. The daemon ends one that is caught again and
	// again (caughtMost); it is forgiven once for so many openings in a row that
	// it minded, since on a busy machine an honest one is caught now and then.
	strikesMost      = 3
	distrustOpenings = 20
	forgiveOpenings  = 200
	// How often it is looked whether a fill job has stopped, from the first look
	// to the last, each eight times later than the one before. Next to a main
	// job that computes on the same cores it has no core to stop on, and each
	// look takes one for 20 to 50 us.
	stopLookFirst = 100 * time.Microsecond
	stopLookLast  = 50 * time.Millisecond
	// Not more often while the main job waits, or the device is no core: the
	// kernel says then when it has stopped, and how long it took is learned.
	stopLookWaiting = 10 * time.Millisecond
	// Less than this past the deadline is the stop itself: the way into the
	// freezer takes 5 us of CPU time (60 at most), and must not make the governor
	// widen the guard.
	overrunLeast = 100 * time.Microsecond
	// What a chunked fill job may be late before it is stopped from outside.
	chunkGrace = 5 * time.Millisecond
)

// valve stops and continues one fill job.
type valve interface {
	thaw() error
	freeze() error
	// stopped waits until every thread has stopped, at most until untilNs.
	stopped(untilNs int64) bool
	// cpuNs is the CPU time used so far, 0 where it cannot be told.
	cpuNs() int64
}

// waiter waits for a change of the gate word.
type waiter interface {
	// wait returns when one of the gates' words is no longer its value, somebody
	// woke one, or untilNs has passed.
	wait(values []uint32, untilNs int64)
	nowNs() int64
}

// recorder takes notes for traces; nil when nobody asked.
type recorder interface {
	reading(atNs, cpuNs int64, open bool)
	opening(openNs, runNs int64)
}

// gate is one device's, as the runner last saw it.
type gate struct {
	main     *mainPage
	word     uint32
	openedNs int64 // when this opening was first seen
}

// runner is the loop of one supervisor. Of a fill job with several devices the
// gate is open while those of all are, until the earliest of their deadlines.
type runner struct {
	gates   []gate
	raw     []uint32     // the gates' words as of the last look
	control *controlPage // any of them: one daemon beats in all
	fill    *fillPage
	super   *superPage
	valve   valve
	waiter  waiter
	trace   recorder
	mode    pipefill.Mode

	daemonGone atomic.Bool // set by whoever watches the daemon's process

	margin    int64 // kept before the deadline, from how long stops take
	thawedAt  int64 // 0: stopped
	running   bool  // charged: thawed, or chunked and within an opening
	frozen    bool
	cpuBound  bool   // a cpu device: CPU time outside the gate is device time
	word      uint32 // of the opening last seen, see look
	until     int64  // the end of the current opening
	cpuAtOpen int64
	cpuAtStop int64 // of the opening before
	orphanAt  int64
	strikes   int // in a row: a chunked fill job ran while the gate was shut
	minded    int // openings in a row that it has minded
	distrust  int // openings for which it is stopped from outside after that
}

// run returns when it is told to, or when no daemon came for a minute. It
// always leaves the fill job stopped.
func (r *runner) run() {
	r.margin = int64(2 * leastMargin)
	r.adopt(r.waiter.nowNs())
	r.cpuAtStop = r.valve.cpuNs()
	for {
		now := r.waiter.nowNs()
		if r.super.Command.Load() == superExit || r.orphaned(now) {
			r.close(now)
			r.stop(now)
			return
		}
		s := r.look(now)
		r.word = s.word
		until := r.allowedUntil(s, now)
		switch {
		case until != 0 && !r.running:
			r.open(s, until)
		case until == 0 && r.running:
			r.close(now)
		case until != 0:
			r.until = until
		}
		r.waiter.wait(r.raw, min(r.wakeAt(until), now+int64(longestWait)))
	}
}

// opening is what the gates say together.
type opening struct {
	word  uint32 // as a gate's: bit 0 open, the rest counts openings of any
	begin int64  // since when all are open, by the main pages
	until int64  // the earliest deadline; 0: shut
}

// look reads all gates.
func (r *runner) look(now int64) opening {
	o := opening{until: 1<<63 - 1}
	for i := range r.gates {
		g := &r.gates[i]
		s := readGate(g.main)
		if r.raw[i] = s.word; s.word != g.word {
			g.word, g.openedNs = s.word, now
		}
		o.begin, o.until = max(o.begin, s.begin), min(o.until, s.openUntil(g.openedNs, now))
	}
	o.word = together(r.raw)
	return o
}

// words reads the gates' words alone.
func (r *runner) words() uint32 {
	for i := range r.gates {
		r.raw[i] = r.gates[i].main.Word.Load()
	}
	return together(r.raw)
}

// together is one word of several, as opening has it: that of a single gate is
// its own.
func together(words []uint32) uint32 {
	sum, open := uint32(0), uint32(wordOpen)
	for _, w := range words {
		sum, open = sum+w&^wordOpen, open&w
	}
	return sum | open
}

// edge tells whether the gate has opened or shut since the last look; that one
// of several did is neither while others are shut.
func (r *runner) edge() bool {
	now := r.words()
	return now != r.word && (len(r.raw) == 1 || (r.word|now)&wordOpen != 0)
}

// adopt stops the fill job, and charges what it ran since the supervisor
// before this one died with its gate open.
func (r *runner) adopt(now int64) {
	at := r.stop(now)
	if since := int64(r.super.ThawedAtNs.Load()); since != 0 && since < at {
		r.super.DeviceNs.Add(uint64(at - since))
		r.super.OverrunNs.Add(uint64(at - since))
		r.super.Overruns.Add(1)
	}
	r.super.ThawedAtNs.Store(0)
}

func (r *runner) wakeAt(until int64) int64 {
	if until == 0 {
		return 1<<63 - 1
	}
	return until - r.ahead()
}

// ahead is how long before the deadline the fill job is stopped: a chunked one
// stops by itself.
func (r *runner) ahead() int64 {
	if r.lenient() || r.super.Command.Load() == superGrace {
		return 0
	}
	return r.margin
}

// lenient tells whether the fill job minds the gate itself: it has opened
// libpipefill and has not been caught running outside.
func (r *runner) lenient() bool {
	return r.mode.MindsGate() && r.fill.Pid.Load() != 0 && r.distrust == 0
}

// allowedUntil is the end of the time the fill job may run in now, 0 if it may
// not. The stop is taken off already when it says 0.
func (r *runner) allowedUntil(s opening, now int64) int64 {
	if r.blind(now) {
		return 0
	}
	var until int64
	switch r.super.Command.Load() {
	case superRun:
		until = s.until
	case superGrace:
		until = int64(r.super.GraceUntilNs.Load())
	}
	left := until - r.ahead() - now
	if left <= 0 || !r.running && left < int64(shortestOpening) {
		return 0
	}
	return until
}

// blind tells whether the daemon is dead or hangs.
func (r *runner) blind(now int64) bool {
	return r.daemonGone.Load() || now-int64(r.control.BeatNs.Load()) > int64(beatMaxAge)
}

func (r *runner) orphaned(now int64) bool {
	if !r.blind(now) {
		r.orphanAt = 0
		return false
	}
	if r.orphanAt == 0 {
		r.orphanAt = now
	}
	return now-r.orphanAt > int64(orphanWait)
}

// open lets the fill job run. Device time is charged from before the thaw.
func (r *runner) open(s opening, until int64) {
	now := r.waiter.nowNs()
	r.running, r.thawedAt, r.until = true, now, until
	r.super.LastOpenNs.Store(uint64(s.begin))
	r.super.ThawedAtNs.Store(uint64(now))
	r.super.Openings.Add(1)
	if r.mode.MindsGate() || r.trace != nil {
		r.cpuAtOpen = r.valve.cpuNs()
	}
	if r.frozen {
		if err := r.valve.thaw(); err != nil {
			r.super.Failures.Add(1)
		}
		r.frozen = false
	}
	r.super.State.Store(stateThawed)
	if r.trace != nil {
		r.trace.reading(now, r.cpuAtOpen, true)
		if r.super.Command.Load() == superRun && !r.lenient() {
			r.trace.opening(s.begin, r.waiter.nowNs())
		}
	}
}

// close ends an opening and charges it: up to the shutting of the gate by the
// clock, and from there on what the fill job still ran. On a core that both
// share that is CPU time: a fill job that waits there for its stop, while the
// main job has the core, costs nobody anything.
func (r *runner) close(now int64) {
	if !r.running {
		return
	}
	// Before the clock is read: whoever takes the core from this supervisor in
	// between lets no time go uncharged.
	cpuAtShut := r.valve.cpuNs()
	now = max(now, r.waiter.nowNs())
	// The gate is shut from the end of the bubble, or from the deadline on;
	// stopping ahead of either is not late.
	shut := now
	if word := r.words(); word == r.word && word&wordOpen != 0 && now < r.until {
		shut = r.until
	}
	lenient := r.lenient()
	if r.distrust > 0 {
		r.distrust--
	}
	if r.trace != nil {
		r.trace.reading(now, cpuAtShut, false)
		if lenient && r.fill.Opening.Load() == uint64(r.word&^wordOpen|wordOpen) {
			r.trace.opening(int64(r.super.LastOpenNs.Load()), int64(r.fill.FirstNs.Load()))
		}
	}
	stoppedAt := now
	if !lenient || !r.quiet(now) {
		stoppedAt = r.stop(now)
	}
	r.running = false
	r.super.State.Store(stateFrozen)
	cpuAtStop := r.valve.cpuNs()
	late := max(0, stoppedAt-shut)
	if r.cpuBound && late > 0 {
		late = min(late, max(0, cpuAtStop-cpuAtShut))
	}
	r.super.DeviceNs.Add(uint64(max(0, min(stoppedAt, shut)-r.thawedAt) + late))
	r.super.ThawedAtNs.Store(0)
	overrun := uint64(0)
	if late > 0 {
		r.super.OverrunNs.Add(uint64(late))
		if stoppedAt > r.until && late > int64(overrunLeast) {
			r.super.Overruns.Add(1)
			overrun = 1
		}
	}
	r.note(min(stoppedAt, shut), stoppedAt, cpuAtShut-r.cpuAtStop, late, overrun)
	r.cpuAtStop = cpuAtStop
	if r.trace != nil && stoppedAt > now {
		r.trace.reading(stoppedAt, cpuAtStop, false)
	}
}

// note leaves the chunk that has ended for the daemon's recording: stores only.
func (r *runner) note(shut, stopped, cpu, late int64, overrun uint64) {
	head := r.super.ChunkHead.Load()
	c := &r.super.Chunks[head%superChunks]
	c.Seq.Store(0)
	c.BeginNs.Store(uint64(r.thawedAt))
	c.ShutNs.Store(uint64(shut))
	c.EndNs.Store(uint64(stopped))
	c.CPUNs.Store(uint64(max(0, cpu)))
	c.LateNs.Store(uint64(late))
	c.Overrun.Store(overrun)
	c.Seq.Store(head + 1)
	r.super.ChunkHead.Store(head + 1)
}

// quiet tells whether a chunked fill job stops by itself, and waits for it for
// the grace. Its own page is a claim: on a cpu device its CPU time decides.
func (r *runner) quiet(shut int64) bool {
	before := r.valve.cpuNs()
	end := shut + int64(chunkGrace)
	for {
		if r.edge() {
			return true // the next edge is here already: nothing to measure
		}
		if r.waiter.nowNs() >= end {
			break
		}
		r.waiter.wait(r.raw, end)
	}
	ran := r.valve.cpuNs() - before
	if ran < int64(chunkGrace)/2 || !r.cpuBound {
		if r.fill.Running.Load() == 0 {
			r.forgive()
			return true
		}
		if r.cpuBound {
			return false // it has no core to end its chunk on, which is no fault of its own
		}
	}
	if shut < r.until {
		return false // the bubble ended before the deadline that it was told: its op was to end in time
	}
	r.minded = 0
	if r.strikes++; r.strikes >= strikesMost {
		r.strikes, r.distrust = 0, distrustOpenings
		r.super.Caught.Add(1)
	}
	return false
}

// forgive counts an opening that a chunked fill job has minded.
func (r *runner) forgive() {
	r.strikes = 0
	if r.minded++; r.minded < forgiveOpenings {
		return
	}
	r.minded = 0
	if caught := r.super.Caught.Load(); caught > 0 {
		r.super.Caught.Store(caught - 1)
	}
}

// stop freezes and waits until everything has stopped, or the gate is open
// again; it returns when that was. From the freeze on nothing runs but the way
// to the stop: a thread that has no core goes there when it gets one, which may
// be after the main job's next computation.
func (r *runner) stop(now int64) int64 {
	waits := r.waitsStill()
	r.freeze()
	for wait := int64(stopLookFirst); !r.stopped(wait); wait = min(8*wait, int64(stopLookLast)) {
		if word := r.words(); r.running && word&wordOpen != 0 && word != r.word {
			break
		}
		// A thread in an uninterruptible call is not running; one that never
		// stops is the daemon's business, which sees ThawedAtNs stand.
		if r.super.Command.Load() == superExit && r.waiter.nowNs()-now > int64(time.Second) {
			break
		}
		if wait == int64(stopLookLast) {
			r.freeze()
		}
	}
	at := r.waiter.nowNs()
	took := at - now
	r.frozen = true
	if !r.running || waits && r.waitsStill() {
		// Next to a waiting main job a stop takes as long as it takes; next to
		// one that computes it would be a measure of that.
		if r.running && uint64(took) > r.super.StopWorstNs.Load() {
			r.super.StopWorstNs.Store(uint64(took))
		}
		// Up at once, down slowly: twice the longest of the recent stops.
		r.margin = min(int64(mostMargin), max(int64(leastMargin), 2*took, r.margin-r.margin/64))
	}
	r.super.State.Store(stateFrozen)
	return at
}

// stopped waits for a while until everything has stopped, or the next edge.
func (r *runner) stopped(wait int64) bool {
	if r.cpuBound && !r.waitsStill() {
		if r.valve.stopped(r.waiter.nowNs()) {
			return true
		}
		r.words()
		r.waiter.wait(r.raw, r.waiter.nowNs()+wait)
		wait = 0
	}
	return r.valve.stopped(r.waiter.nowNs() + min(wait, int64(stopLookWaiting)))
}

func (r *runner) freeze() {
	if err := r.valve.freeze(); err != nil {
		r.super.Failures.Add(1)
	}
}

// waitsStill tells whether the main job is in the bubble of this opening.
func (r *runner) waitsStill() bool {
	word := r.words()
	return word&wordOpen != 0 && word == r.word
}
