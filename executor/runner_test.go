package executor

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"pipefill"
)

const (
	us = int64(time.Microsecond)
	ms = int64(time.Millisecond)
)

// stage plays a main job, a daemon and a kernel in simulated time: the runner's
// waits advance the clock to the next thing that happens.
type stage struct {
	now     int64
	events  []stageEvent // in order
	main    mainPage
	others  []mainPage // of a gang's other devices
	control controlPage
	fill    fillPage
	super   superPage
	beating bool

	frozen   bool
	freezing time.Duration // how long a stop takes
	froze    int64         // since when it is asked for
	spins    bool          // the fill job runs whenever it is not frozen
	cpu      int64
	log      []stop
	thawed   int64
}

type stageEvent struct {
	at int64
	do func()
}

type stop struct{ from, to int64 }

var (
	_ valve  = (*stage)(nil)
	_ waiter = (*stage)(nil)
)

func (s *stage) nowNs() int64 { return s.now }

func (s *stage) advance(to int64) {
	if s.beating {
		s.control.BeatNs.Store(uint64(to))
	}
	runs := to
	if done := s.froze + int64(s.freezing); s.froze != 0 && done <= to {
		s.frozen, s.froze, runs = true, 0, done
		if s.thawed != 0 {
			s.log = append(s.log, stop{s.thawed, done})
		}
	} else if s.frozen {
		runs = s.now
	}
	if s.spins && runs > s.now {
		s.cpu += runs - s.now
	}
	s.now = to
}

func (s *stage) wait(values []uint32, until int64) {
	for i, g := range s.gates() {
		if g.main.Word.Load() != values[i] {
			return
		}
	}
	if len(s.events) > 0 && s.events[0].at <= until {
		e := s.events[0]
		s.events = s.events[1:]
		s.advance(max(s.now, e.at))
		e.do()
		return
	}
	s.advance(max(s.now, until))
}

func (s *stage) thaw() error {
	s.frozen, s.thawed, s.froze = false, s.now, 0
	s.advance(s.now + 20*us)
	return nil
}

func (s *stage) freeze() error {
	s.advance(s.now + 10*us)
	if !s.frozen && s.froze == 0 {
		s.froze = s.now
	}
	return nil
}

func (s *stage) stopped(until int64) bool {
	if !s.frozen {
		s.advance(max(s.now, min(until, s.froze+int64(s.freezing))))
	}
	return s.frozen
}

func (s *stage) cpuNs() int64 { return s.cpu }

// bubble opens the gate at a time and shuts it at another.
func (s *stage) bubble(begin, end, deadline int64) {
	s.events = append(s.events, stageEvent{begin, func() {
		s.main.BeginNs.Store(uint64(begin))
		s.main.EndNs.Store(uint64(end))
		s.main.DeadlineNs.Store(uint64(deadline))
		s.main.Word.Store(s.main.Word.Load() + 2 | wordOpen)
	}}, stageEvent{end, func() { s.main.Word.Store(s.main.Word.Load() &^ wordOpen) }})
}

// bubbles are so many, one every 100 ms from 100 ms on; end and deadline count
// from the begin of each.
func (s *stage) bubbles(count, end, deadline int64) {
	for i := int64(1); i <= count; i++ {
		s.bubble(100*ms*i, 100*ms*i+end, 100*ms*i+deadline)
	}
}

func (s *stage) at(at int64, do func()) { s.events = append(s.events, stageEvent{at, do}) }

func (s *stage) play(mode pipefill.Mode, until int64) {
	s.at(until, func() { s.super.Command.Store(superExit) })
	s.beating = true
	s.advance(1)
	r := s.runner(mode)
	r.run()
}

func (s *stage) gates() []gate {
	gates := []gate{{main: &s.main}}
	for i := range s.others {
		gates = append(gates, gate{main: &s.others[i]})
	}
	return gates
}

func (s *stage) runner(mode pipefill.Mode) *runner {
	gates := s.gates()
	return &runner{
		gates: gates, raw: make([]uint32, len(gates)), control: &s.control, fill: &s.fill, super: &s.super,
		valve: s, waiter: s, mode: mode, cpuBound: true,
	}
}

func newStage() *stage {
	s := &stage{frozen: true, freezing: 50 * time.Microsecond, spins: true}
	s.super.Command.Store(superRun)
	return s
}

func TestRunner_StopsBeforeTheDeadline(t *testing.T) {
	s := newStage()
	s.bubbles(5, 30*ms, 20*ms)
	s.play(pipefill.ModeSignal, 700*ms)
	if len(s.log) != 5 || s.super.Openings.Load() != 5 {
		t.Fatalf("ran %+v, want 5 openings", s.log)
	}
	var charged int64
	for i, o := range s.log {
		begin := 100 * ms * int64(i+1)
		if o.from < begin || o.from > begin+ms/10 || o.to > begin+20*ms || o.to < begin+19*ms {
			t.Errorf("opening %d: ran %d..%d after its begin", i, o.from-begin, o.to-begin)
		}
		charged += o.to - o.from
	}
	if got := int64(s.super.DeviceNs.Load()); got < charged || got > charged+ms/10 {
		t.Errorf("charged %d, ran %d", got, charged)
	}
	if s.super.OverrunNs.Load() != 0 || s.super.Overruns.Load() != 0 {
		t.Errorf("overrun %d ns in %d openings", s.super.OverrunNs.Load(), s.super.Overruns.Load())
	}
}

func TestRunner_StopsWhenTheBubbleEndsEarly(t *testing.T) {
	s := newStage()
	s.bubble(100*ms, 110*ms, 140*ms)
	s.play(pipefill.ModeSignal, 200*ms)
	if len(s.log) != 1 || s.log[0].to > 110*ms+100*us {
		t.Errorf("ran %+v after an end at 110 ms", s.log)
	}
	// Charged to the end of the stop: the time after the shut is overrun.
	if late := int64(s.super.OverrunNs.Load()); late < 50*us || late > 100*us {
		t.Errorf("overrun %d ns", late)
	}
}

func TestRunner_LearnsHowLongStopsTake(t *testing.T) {
	s := newStage()
	s.freezing, s.frozen = time.Millisecond, false
	s.bubble(100*ms, 140*ms, 130*ms)
	s.bubble(200*ms, 240*ms, 230*ms)
	s.play(pipefill.ModeSignal, 300*ms)
	if s.super.Overruns.Load() != 0 { // the first stop, of a group found running, was measured
		t.Errorf("%d overruns", s.super.Overruns.Load())
	}
	s = newStage()
	s.bubble(100*ms, 140*ms, 130*ms)
	s.at(150*ms, func() {})
	s.bubble(200*ms, 240*ms, 230*ms)
	s.bubble(300*ms, 340*ms, 330*ms)
	s.events[0].do = func(do func()) func() { return func() { do(); s.freezing = 2 * time.Millisecond } }(s.events[0].do)
	s.play(pipefill.ModeSignal, 400*ms)
	if s.super.Overruns.Load() != 1 {
		t.Errorf("%d overruns, want the first alone", s.super.Overruns.Load())
	}
}

func TestRunner_IgnoresOpeningsTooShortOrNotOffered(t *testing.T) {
	s := newStage()
	s.bubble(100*ms, 100*ms+400*us, 100*ms+350*us)
	s.bubble(200*ms, 240*ms, 150*ms)
	s.bubble(300*ms, 340*ms, 330*ms)
	kind := s.events[4].do
	s.events[4].do = func() { s.main.Kind.Store(uint32(pipefill.BubbleComm)); kind() }
	s.play(pipefill.ModeSignal, 400*ms)
	if len(s.log) != 0 {
		t.Errorf("ran %+v", s.log)
	}
}

func TestRunner_HoldAndGrace(t *testing.T) {
	s := newStage()
	s.super.Command.Store(superHold)
	s.bubble(100*ms, 140*ms, 130*ms)
	s.at(200*ms, func() {
		s.super.GraceUntilNs.Store(uint64(300 * ms))
		s.super.Command.Store(superGrace)
	})
	s.play(pipefill.ModeSignal, 500*ms)
	if len(s.log) != 1 || s.log[0].from < 200*ms || s.log[0].to < 299*ms || s.log[0].to > 301*ms {
		t.Errorf("ran %+v, want the grace alone", s.log)
	}
}

func TestRunner_StopsWithin200msOfADeadDaemon(t *testing.T) {
	for name, die := range map[string]func(*stage, *runner){
		"silent": func(s *stage, _ *runner) { s.beating = false },
		"gone":   func(_ *stage, r *runner) { r.daemonGone.Store(true) },
	} {
		s := newStage()
		s.bubble(100*ms, 40_000*ms, 30_000*ms)
		s.beating = true
		s.advance(1)
		r := s.runner(pipefill.ModeSignal)
		r.cpuBound = false
		s.events = append(s.events[:1:1], stageEvent{500 * ms, func() { die(s, r) }})
		r.run()
		if len(s.log) != 1 || s.log[0].to > 751*ms || !s.frozen {
			t.Errorf("%s: ran %+v, frozen %t", name, s.log, s.frozen)
		}
		if s.now < 60_000*ms || s.now > 61_000*ms {
			t.Errorf("%s: gave up after %d ms, want a minute", name, s.now/ms)
		}
	}
}

func TestRunner_ADaemonThatComesBackIsFollowed(t *testing.T) {
	s := newStage()
	s.at(10*ms, func() { s.beating = false })
	s.bubble(400*ms, 440*ms, 430*ms)
	s.at(500*ms, func() { s.beating = true; s.advance(s.now) })
	s.bubble(600*ms, 640*ms, 630*ms)
	s.play(pipefill.ModeSignal, 700*ms)
	if len(s.log) != 1 || s.log[0].from < 600*ms {
		t.Errorf("ran %+v, want the second bubble alone", s.log)
	}
}

func TestRunner_ChunkedIsLeftAloneWhileItBehaves(t *testing.T) {
	s := newStage()
	s.spins = false
	s.fill.Pid.Store(1)
	s.bubbles(5, 30*ms, 20*ms)
	s.play(pipefill.ModeChunked, 700*ms)
	if len(s.log) != 1 { // thawed at the first opening, stopped at the end
		t.Errorf("stopped %d times: %+v", len(s.log), s.log)
	}
	if got := int64(s.super.DeviceNs.Load()); got < 99*ms || got > 101*ms {
		t.Errorf("charged %d us, want 5 openings of 20 ms", got/us)
	}
}

// A chunk whose core the main job has taken back is stopped, and no fault of
// the fill job's.
func TestRunner_ChunkedWithoutACoreIsNoOffender(t *testing.T) {
	s := newStage()
	s.spins = false
	s.fill.Pid.Store(1)
	s.fill.Running.Store(1)
	s.bubbles(30, 30*ms, 20*ms)
	s.play(pipefill.ModeChunked, 3200*ms)
	if len(s.log) != 30 {
		t.Errorf("stopped %d times, want after each opening", len(s.log))
	}
	if got := s.super.Caught.Load(); got != 0 {
		t.Errorf("caught %d times", got)
	}
}

// An op that was to end before the deadline is stopped where the bubble ends
// earlier, and no fault of the fill job's either.
func TestRunner_ChunkedInBubblesThatEndEarlyIsNoOffender(t *testing.T) {
	s := newStage()
	s.fill.Pid.Store(1)
	s.bubbles(30, 20*ms, 40*ms)
	s.play(pipefill.ModeChunked, 3200*ms)
	for i, o := range s.log {
		if late := o.to - (100*ms*int64(i+1) + 20*ms); late < 5*ms || late > 6*ms {
			t.Errorf("opening %d: stopped %d us after the bubble's end, want the grace", i, late/us)
		}
	}
	if got := s.super.Caught.Load(); got != 0 || len(s.log) != 30 {
		t.Errorf("caught %d times, stopped %d times", got, len(s.log))
	}
}

func TestRunner_ChunkedIsForgiven(t *testing.T) {
	s := newStage()
	s.spins = false
	s.fill.Pid.Store(1)
	s.super.Caught.Store(2)
	s.bubbles(forgiveOpenings+10, 30*ms, 20*ms)
	s.play(pipefill.ModeChunked, 100*ms*(forgiveOpenings+12))
	if got := s.super.Caught.Load(); got != 1 {
		t.Errorf("caught %d times, want one of two forgiven", got)
	}
}

func TestRunner_ChunkedIsStoppedWhenCaught(t *testing.T) {
	s := newStage()
	s.fill.Pid.Store(1)
	s.bubbles(30, 30*ms, 20*ms)
	s.play(pipefill.ModeChunked, 3200*ms)
	if len(s.log) != 30 {
		t.Fatalf("stopped %d times, want after each opening", len(s.log))
	}
	for i, o := range s.log {
		late := o.to - (100*ms*int64(i+1) + 20*ms)
		trusted := i%(strikesMost+distrustOpenings) < strikesMost
		if trusted && (late < 5*ms || late > 6*ms) {
			t.Errorf("opening %d: stopped %d us after the deadline, want the grace", i, late/us)
		}
		if !trusted && late > 0 {
			t.Errorf("opening %d: %d us late though it was caught three times", i, late/us)
		}
	}
	if s.super.Overruns.Load() != 6 || s.super.Caught.Load() != 2 {
		t.Errorf("%d overruns, want 6; caught %d times, want 2", s.super.Overruns.Load(), s.super.Caught.Load())
	}
}

// bubbleOn is bubble of another device of the gang.
func (s *stage) bubbleOn(m *mainPage, begin, end, deadline int64) {
	s.events = append(s.events, stageEvent{begin, func() {
		m.BeginNs.Store(uint64(begin))
		m.EndNs.Store(uint64(end))
		m.DeadlineNs.Store(uint64(deadline))
		m.Word.Store(m.Word.Load() + 2 | wordOpen)
	}}, stageEvent{end, func() { m.Word.Store(m.Word.Load() &^ wordOpen) }})
}

func (s *stage) inOrder() {
	slices.SortStableFunc(s.events, func(a, b stageEvent) int { return cmp.Compare(a.at, b.at) })
}

// A gang's gate is open while all gates are, until the earliest deadline, and shuts
// with the first that shuts.
func TestRunner_AGangRunsWhileAllGatesAreOpen(t *testing.T) {
	s := newStage()
	s.others = make([]mainPage, 2)
	// All open from 120; the second's deadline comes first.
	s.bubble(100*ms, 200*ms, 190*ms)
	s.bubbleOn(&s.others[0], 120*ms, 200*ms, 160*ms)
	s.bubbleOn(&s.others[1], 110*ms, 200*ms, 190*ms)
	// All open from 330 to 350, when the third ends early.
	s.bubble(300*ms, 400*ms, 390*ms)
	s.bubbleOn(&s.others[0], 330*ms, 400*ms, 390*ms)
	s.bubbleOn(&s.others[1], 310*ms, 350*ms, 390*ms)
	// Never all at once, and then one that is not offered.
	s.bubble(500*ms, 540*ms, 540*ms)
	s.bubbleOn(&s.others[0], 545*ms, 580*ms, 580*ms)
	s.bubbleOn(&s.others[1], 500*ms, 600*ms, 600*ms)
	s.inOrder()
	s.play(pipefill.ModeSignal, 700*ms)
	want := []stop{{120 * ms, 160 * ms}, {330 * ms, 350 * ms}}
	if len(s.log) != len(want) {
		t.Fatalf("ran %+v, want %+v", s.log, want)
	}
	for i, w := range want {
		if got := s.log[i]; got.from < w.from || got.from > w.from+ms || got.to > w.to+ms || got.to < w.to-2*ms {
			t.Errorf("ran %+v, want %+v", got, w)
		}
	}
	if n := s.super.Overruns.Load(); n != 0 || s.super.Openings.Load() != 2 {
		t.Errorf("%d overruns in %d openings", n, s.super.Openings.Load())
	}
	charged := int64(s.super.DeviceNs.Load())
	if charged < 58*ms || charged > 62*ms {
		t.Errorf("charged %d us for 60 ms", charged/us)
	}
}

// A chunked gang that runs on after one of its gates has shut early is stopped
// after the grace, however often another gate shuts and opens meanwhile.
func TestRunner_AGangThatRunsOnIsStopped(t *testing.T) {
	s := newStage()
	s.fill.Pid.Store(1)
	s.fill.Running.Store(1)
	s.others = make([]mainPage, 1)
	for i := int64(1); i <= 5; i++ {
		at := 100 * ms * i
		s.bubble(at, at+10*ms, at+50*ms)
		s.bubbleOn(&s.others[0], at, at+11*ms, at+50*ms)
		s.bubbleOn(&s.others[0], at+12*ms, at+13*ms, at+50*ms)
		s.bubbleOn(&s.others[0], at+14*ms, at+40*ms, at+50*ms)
	}
	s.inOrder()
	s.play(pipefill.ModeChunked, 700*ms)
	if len(s.log) != 5 {
		t.Fatalf("stopped %d times in 5 openings", len(s.log))
	}
	for _, l := range s.log {
		if ran := l.to - l.from; ran > 10*ms+int64(chunkGrace)+ms {
			t.Errorf("ran for %d us from %d ms on", ran/us, l.from/ms)
		}
	}
}
