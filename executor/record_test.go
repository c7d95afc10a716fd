package executor

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/api"
)

func TestRecording_Sizes(t *testing.T) {
	for text, want := range map[string]int64{"off": 0, "": 0, "64KiB": 64 << 10, "1MiB": 1 << 20, "64MiB": 64 << 20} {
		if got, err := parseRecording(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"on", "1", "1KiB", "1GiB", "-1MiB", "NaNMiB", "1e300TiB"} {
		if got, err := parseRecording(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// It never grows beyond its size, and has the newest.
func TestRecording_IsBounded(t *testing.T) {
	r := newRecording(leastRecording)
	const all = 3*leastRecording/recordBytes + 5
	for i := range int64(all) {
		r.event(eventCopy{begin: 1000 + i, end: 1001 + i, iteration: uint64(i)})
	}
	if len(r.ring) != leastRecording/recordBytes || cap(r.ring) != len(r.ring) {
		t.Errorf("%d records, room for %d", len(r.ring), cap(r.ring))
	}
	records, cut := r.copied(10)
	events, _ := told(records, 0, math.MaxInt64)
	if !cut || len(events) != 10 || events[0].Iteration != all-10 || events[9].Iteration != all-1 {
		t.Errorf("%v %+v", cut, events)
	}
	if records, cut := r.copied(1 << 20); cut || len(records) != len(r.ring) {
		t.Errorf("%d of %d, %v", len(records), len(r.ring), cut)
	}
	if newRecording(0) != nil {
		t.Error("off: nothing is kept")
	}
}

func TestRecording_InTheWordsOfTheWire(t *testing.T) {
	r := newRecording(leastRecording)
	for _, e := range []eventCopy{
		{iteration: 3, begin: 10, end: 50, deadline: 40, kind: 1, flags: eventOffered, freeBytes: 7},
		{iteration: 3, begin: 60, end: 70, kind: 1, index: 2, flags: eventWork},
		{iteration: 3, begin: 70, end: 80, kind: 2, index: math.MaxUint32, flags: eventWork},
		{iteration: 3, begin: 80, end: 85, kind: 4, index: math.MaxUint32, flags: eventWork},
		{iteration: 3, begin: 70, end: 80, kind: 77, flags: eventWork}, // no work: not kept
		{iteration: math.MaxUint64, begin: 5, end: 90, index: 9, kind: 99, flags: eventIteration | eventControl},
		{begin: 1, end: math.MaxInt64, kind: 0},
	} {
		r.event(e)
	}
	events, chunks := told(r.ring, 0, 1000)
	want := []api.RecordedEvent{
		{Iteration: 3, Kind: "fwd-bwd", BeginNs: 10, EndNs: 50, DeadlineNs: 40, Flags: eventOffered},
		{Iteration: 3, Kind: "backward", Index: 2, BeginNs: 60, EndNs: 70, Flags: eventWork},
		{Iteration: 3, Kind: "step", Index: -1, BeginNs: 70, EndNs: 80, Flags: eventWork},
		{Iteration: 3, Kind: "checkpoint", Index: -1, BeginNs: 80, EndNs: 85, Flags: eventWork},
		{Iteration: math.MaxInt64, BeginNs: 5, EndNs: 90, Flags: eventIteration | eventControl},
	}
	if d := cmp.Diff(want, events); d != "" || len(chunks) != 0 {
		t.Error(d, chunks)
	}
	if events, _ := told(r.ring, 75, 1000); len(events) != 3 {
		t.Errorf("since 75: %+v", events)
	}
}

// What the supervisor writes reaches the recording, once, and what was
// overwritten is counted.
func TestRecording_Chunks(t *testing.T) {
	super := &superPage{}
	f := &fillJob{super: &page[superPage]{at: super}, rec: fillRecord{Assignment: pipefill.Assignment{Job: pipefill.JobKey{JobID: 9}, Mode: pipefill.ModeChunked}}}
	s := &runner{super: super}
	s.thawedAt = 100
	s.note(140, 150, 30, 8, 1)
	r := newRecording(leastRecording)
	tail := r.chunks(f, 0)
	tail = r.chunks(f, tail)
	want := []api.RecordedChunk{{Job: 9, Mode: pipefill.ModeChunked, BeginNs: 100, ShutNs: 140, EndNs: 150, CPUNs: 30, LateNs: 8, Overrun: true}}
	if _, chunks := told(r.ring, 0, 1000); tail != 1 || cmp.Diff(want, chunks) != "" {
		t.Errorf("tail %d: %+v", tail, chunks)
	}
	for range superChunks + 3 {
		s.note(140, 150, 30, 8, 0)
	}
	if tail = r.chunks(f, tail); tail != superChunks+4 || len(r.ring) != superChunks+1 || r.lost != 3 {
		t.Errorf("tail %d, %d kept, %d lost", tail, len(r.ring), r.lost)
	}
	if off := (*recording)(nil); off.chunks(f, 0) != superChunks+4 {
		t.Error("off: nothing is waiting when it is turned on")
	}
}

// A runner writes a chunk for every opening: what ran in the gate, and after.
func TestRunner_NotesChunks(t *testing.T) {
	s := newStage()
	s.spins, s.freezing = true, time.Duration(3*ms)
	s.bubble(10*ms, 20*ms, 19*ms)
	s.bubble(40*ms, 50*ms, 60*ms) // shorter than it was thought to be
	s.play(pipefill.ModeSignal, 80*ms)
	if n := s.super.ChunkHead.Load(); n != 2 {
		t.Fatalf("%d chunks", n)
	}
	var deviceNs uint64
	for i := range 2 {
		c := &s.super.Chunks[i]
		begin, shut, end := c.BeginNs.Load(), c.ShutNs.Load(), c.EndNs.Load()
		if c.Seq.Load() != uint64(i)+1 || begin > shut || shut > end || c.CPUNs.Load() == 0 {
			t.Errorf("chunk %d: %d to %d, stopped %d, CPU %d", i, begin, shut, end, c.CPUNs.Load())
		}
		deviceNs += shut - begin + c.LateNs.Load()
	}
	if deviceNs != s.super.DeviceNs.Load() {
		t.Errorf("chunks sum up to %d ns, charged are %d", deviceNs, s.super.DeviceNs.Load())
	}
	if late := s.super.Chunks[1].LateNs.Load(); late < uint64(2*ms) {
		t.Errorf("late by %d ns, where a stop takes 3 ms", late)
	}
}

// The recording of a main job that has ended is kept, but not for ever.
func TestRecording_KeptForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{now: time.Now, mono: monotonicNs, kept: map[pipefill.DeviceID]keptRecording{}, poke: make(chan struct{}, 1)}
		n.kept["cpu:0"] = keptRecording{job: pipefill.JobKey{JobID: 3}, ended: n.now(), records: newRecording(leastRecording)}
		time.Sleep(recordingKept - time.Minute)
		if n.dropRecordings(); len(n.kept) != 1 {
			t.Error("forgotten too early")
		}
		time.Sleep(2 * time.Minute)
		if n.dropRecordings(); len(n.kept) != 0 {
			t.Error("kept too long")
		}
	})
}

// A daemon records what a main job announces, answers who asks, keeps it after
// the job's end, and turns the recording on and off while jobs run.
func TestDaemon_Recording(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pipefilld.yaml")
	s := newSiteWith(t, func(c *config) { c.path = file })
	key := pipefill.JobKey{Cluster: "test", JobID: 41}
	if _, err := s.node.attachMain(key, 1000, "0", message{keys: map[string]string{}}, 1); err != nil {
		t.Fatal(err)
	}
	hang := func(recording string) {
		t.Helper()
		text := "node: n\ncluster: test\ncontroller: unix:/x\ndevices: [{device: \"cpu:0\"}]\nrecording: " + recording + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	device := func() *mainDevice {
		s.node.mu.Lock()
		defer s.node.mu.Unlock()
		return s.node.mains[41].devices[0]
	}()
	// Until it serves, a hangup is its end.
	within(t, 5*time.Second, "the daemon to serve", func() bool { return len(s.sync().Mains) == 1 })
	if device.control.at.Recording.Load() != 0 {
		t.Error("it records by default")
	}
	hang("1MiB")
	within(t, 5*time.Second, "the recording to be on", func() bool { return device.control.at.Recording.Load() == 1 })
	hang("lots") // a mistake changes nothing
	within(t, 5*time.Second, "the controller to hear of it", func() bool { return len(s.sync().Recordings) == 1 })
	if got := s.sync().Recordings[0]; got.Job != key || got.UID != 1000 {
		t.Errorf("%+v", got)
	}
	device.main.at.Stage.Store(6)
	now := monotonicNs()
	put(device.main.at, eventCopy{iteration: 5, begin: now - 20*ms, end: now - 10*ms, kind: 1, flags: eventWork})
	ask := func() api.Recording {
		t.Helper()
		s.order(func(o *api.NodeOrders) { o.Recordings = []api.RecordingAsk{{ID: 77, Job: key, LastMs: 60_000}} })
		select {
		case part := <-s.parts:
			return part
		case <-time.After(10 * time.Second):
			t.Fatal("no part came")
			return api.Recording{}
		}
	}
	part := ask()
	if part.ID != 77 || part.Node != s.cfg.Node || part.Job != key || len(part.Devices) != 1 || len(part.Devices[0].Events) != 1 || part.Devices[0].Stage != 5 {
		t.Fatalf("%+v", part)
	}
	if at := part.Devices[0].Events[0].EndNs + part.EpochNs; math.Abs(float64(time.Now().UnixNano()-at)) > 60e9 {
		t.Errorf("by the time of day that was at %d", at)
	}
	s.node.mu.Lock()
	s.node.endMain(s.node.mains[41], "the test")
	s.node.mu.Unlock()
	within(t, 5*time.Second, "the main job to go", func() bool { return len(s.sync().Mains) == 0 && len(s.sync().Recordings) == 1 })
	if part := ask(); len(part.Devices) != 1 || len(part.Devices[0].Events) != 1 || part.Devices[0].Stage != 5 {
		t.Errorf("after its end: %+v", part)
	}
	hang("off")
	within(t, 5*time.Second, "the recording to go", func() bool { return len(s.sync().Recordings) == 0 })
}

// BenchmarkRecording is what recording costs the node's cores for an event that a
// main job announced (test/bench, part recording).
func BenchmarkRecording(b *testing.B) {
	r := newRecording(1 << 20)
	event := eventCopy{iteration: 123456, begin: 1_234_567_890_123, end: 1_234_567_990_123, deadline: 1_234_567_980_000, index: 7, kind: 1, flags: 1}
	for b.Loop() {
		r.event(event)
	}
}
