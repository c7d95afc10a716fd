package executor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
)

// gangSite is a site with two devices, a main job on both, and a gang on them that
// runs a text, by its plugin's words.
func gangSite(t *testing.T, mode pipefill.Mode, text string) (*site, []*page[mainPage], *script) {
	t.Helper()
	s := newSiteWith(t, func(c *config) { c.Devices = []configDevice{{"cpu:0"}, {"cpu:1"}} })
	if got := s.plugin(t, "main", mainKeys, "tasks=2", "options="); !strings.HasSuffix(got, "\ndevices=cpu:0 cpu:1\n") {
		t.Fatalf("main: %q", got)
	}
	var mains []*page[mainPage]
	for _, id := range []string{"cpu:0", "cpu:1"} {
		_, files := s.askFrom(t, 100, "open-main\ndevice="+id)
		main, err := mapPage[mainPage](files[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(main.close)
		mains = append(mains, main)
	}
	s.order(func(o *api.NodeOrders) {
		o.Assignments = []pipefill.Assignment{{
			ID: 7, Job: pipefill.JobKey{Cluster: "test", JobID: 200}, Device: "cpu:0", Others: "cpu:1", MainJob: pipefill.JobKey{Cluster: "test", JobID: 100},
			Mode: mode, State: pipefill.AssignmentReleased,
		}}
	})
	within(t, 5*time.Second, "the reservation", func() bool { return s.assignment().ID == 7 })
	if got := s.plugin(t, "fill", fillKeys, "pid=1", "partition=pipefill", "options="); !strings.HasSuffix(got, "\ndevices=cpu:0 cpu:1\n") {
		t.Fatalf("fill: %q", got)
	}
	sc := s.script(t, 200, text)
	if got := s.plugin(t, "task", fillKeys, fmt.Sprintf("pid=%d", sc.cmd.Process.Pid)); got != "ok\n" {
		t.Fatalf("task: %q", got)
	}
	sc.goOn(t)
	return s, mains, sc
}

// askFrom asks gate.sock from within a job's group.
func (s *site) askFrom(t *testing.T, job int, request string) (string, []*os.File) {
	t.Helper()
	enter := func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(os.Getpid())), 0); err != nil {
			t.Fatal(err)
		}
	}
	enter(s.slurmGroup(t, job))
	defer enter("/sys/fs/cgroup/freezer")
	text, files, err := tryAsk(filepath.Join(s.cfg.RunDir, "gate.sock"), "pipefill 1 "+request+"\n")
	if err != nil {
		t.Fatal(err)
	}
	return text, files
}

func (s *site) devicesOf(t *testing.T) (fills, assignments [2]int64) {
	t.Helper()
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	for _, m := range s.node.mains {
		for i, d := range m.devices {
			if d.fill != nil {
				fills[i] = d.fill.rec.Assignment.ID
			}
			assignments[i] = int64(d.control.at.Assignment.Load())
		}
	}
	return fills, assignments
}

// A gang has all its devices or none, runs while both gates are open, is charged
// for both, and takes its end on both at once.
func TestGang_RunsWhileBothGatesAreOpen(t *testing.T) {
	s, mains, sc := gangSite(t, pipefill.ModeSignal, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; exit 0")
	within(t, 5*time.Second, "running", func() bool { return s.assignment().State == pipefill.AssignmentRunning })
	if fills, told := s.devicesOf(t); fills != [2]int64{7, 7} || told != [2]int64{7, 7} {
		t.Fatalf("devices are of %v, their pages say %v", fills, told)
	}
	cores, err := os.ReadFile("/sys/fs/cgroup/cpuset/" + s.cfg.groups + "/assignment_7/cpuset.cpus")
	if err == nil && strings.TrimSpace(string(cores)) != "0-1" {
		t.Errorf("it may run on cores %s", cores)
	}
	// One gate alone lets nothing run.
	stop := bubbles(t, mains[0].at)
	within(t, 10*time.Second, "five of its bubbles", func() bool { return mains[0].at.Word.Load() > 10 })
	stop()
	if used := s.used(); used.CPUNs != 0 {
		t.Errorf("used %+v while one gate was shut", used)
	}
	mains[1].at.BeginNs.Store(uint64(monotonicNs()))
	mains[1].at.DeadlineNs.Store(uint64(monotonicNs() + int64(50*time.Second)))
	mains[1].at.Word.Store(3)
	futexWake(&mains[1].at.Word)
	stop = bubbles(t, mains[0].at)
	s.leave(t, fillKeys, sc)
	stop()
	s.awaitEnd(t, pipefill.OutcomeCompleted)
	within(t, 5*time.Second, "its usage", func() bool { u := s.used(); return u.CPUNs > 10e6 && u.Openings > 0 })
	// It was charged for both devices: twice what a device was filled for.
	u := s.used()
	s.node.mu.Lock()
	var filled int64
	for _, d := range s.node.mains[100].devices {
		filled += d.usedHere.DeviceNs
		if d.usedHere.DeviceNs*2 != u.DeviceNs {
			t.Errorf("%s was filled for %d ns of the %d that are charged", d.device.ID, d.usedHere.DeviceNs, u.DeviceNs)
		}
	}
	s.node.mu.Unlock()
	if filled != u.DeviceNs {
		t.Errorf("devices were filled for %d ns, %d are charged", filled, u.DeviceNs)
	}
	if fills, told := s.devicesOf(t); fills != [2]int64{} || told != [2]int64{} {
		t.Errorf("devices are of %v after the end, their pages say %v", fills, told)
	}
}

// Its program gets the pages of both, unless its library minds one gate only.
func TestGang_PagesOfBoth(t *testing.T) {
	s, _, _ := gangSite(t, pipefill.ModeChunked, "sleep 100")
	text, files := s.askFrom(t, 200, "open-fill\ndevice=")
	if !strings.HasPrefix(text, "error\nmessage=this job has 2 devices, and its libpipefill follows fewer") || len(files) != 0 {
		t.Errorf("a library of before: %q, %d descriptors", text, len(files))
	}
	text, files = s.askFrom(t, 200, "open-fill\ndevice=\ndevices=16")
	if !strings.HasPrefix(text, "ok\ndevice=cpu:0\n") || !strings.Contains(text, "\ndevices=cpu:0 cpu:1\n") || len(files) != 5 {
		t.Fatalf("%q, %d descriptors", text, len(files))
	}
	for i, size := range []int64{mainSize, controlSize, fillSize, mainSize, controlSize} {
		if info, err := files[i].Stat(); err != nil || info.Size() != size {
			t.Errorf("descriptor %d: %v, %v", i, info, err)
		}
		// Nothing of it but the fill page is the job's to write.
		_, err := files[i].WriteAt([]byte{0}, 100)
		if (err == nil) != (i == 2) {
			t.Errorf("descriptor %d: written with %v", i, err)
		}
		_ = files[i].Close()
	}
}

// A daemon that starts again takes the gang up on both devices; a main job that
// ends takes it off both.
func TestGang_RestartAndEviction(t *testing.T) {
	s, mains, _ := gangSite(t, pipefill.ModeSignal, "while :; do :; done")
	within(t, 5*time.Second, "running", func() bool { return s.assignment().State == pipefill.AssignmentRunning })
	stops := []func(){bubbles(t, mains[0].at), bubbles(t, mains[1].at)}
	within(t, 5*time.Second, "an opening", func() bool { return s.used().Openings > 0 || s.charged() > 0 })
	s.stop()
	s.start(t)
	if fills, told := s.devicesOf(t); fills != [2]int64{7, 7} || told != [2]int64{7, 7} {
		t.Fatalf("after a restart devices are of %v, their pages say %v", fills, told)
	}
	before := s.charged()
	within(t, 5*time.Second, "it to run on", func() bool { return s.charged() > before })
	for _, stop := range stops {
		stop()
	}
	if got := s.plugin(t, "leave", mainKeys, "status=0"); got != "ok\n" {
		t.Fatal(got)
	}
	s.awaitEnd(t, pipefill.OutcomeEvicted)
	within(t, 5*time.Second, "the main job to be forgotten", func() bool {
		s.node.mu.Lock()
		defer s.node.mu.Unlock()
		return len(s.node.mains) == 0
	})
}

// charged is what the gang's supervisor has charged so far.
func (s *site) charged() int64 {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	f := s.node.fills[7]
	if f == nil || f.super == nil {
		return 0
	}
	return f.super.at.used(monotonicNs()).DeviceNs
}

// What is no gang is not taken.
func TestGang_RefusedOrders(t *testing.T) {
	many := make([]string, pipefill.MaxDevices)
	for i := range many {
		many[i] = fmt.Sprintf("cpu:%d", i+1)
	}
	for others, fine := range map[string]bool{
		"": true, "cpu:1": true, "cpu:0": false, "cpu:1 cpu:1": false, "gpu:GPU-1": false, "../x": false, strings.Join(many, " "): false, strings.Join(many[1:], " "): true,
	} {
		a := pipefill.Assignment{Device: "cpu:0", Others: pipefill.DeviceSet(others)}
		if a.ValidDevices() != fine {
			t.Errorf("%q: taken %t", others, !fine)
		}
	}
}

// A device whose main process has ended while the main job goes on is not offered,
// and its fill job leaves, a gang all its devices.
func TestGang_LeavesWhenOneRankHasDied(t *testing.T) {
	n, _, f, _ := gpuNode(t, pipefill.ModeChunked)
	m := n.mains[100]
	m.rec.Devices[0].Openers = []process{n.self}
	if m.abandoned(m.devices[0], int64(time.Hour)) {
		t.Error("its process lives")
	}
	m.rec.Devices[0].Openers = []process{{Pid: n.self.Pid, Start: n.self.Start + 1}} // another one with its number
	if !m.abandoned(m.devices[0], int64(time.Hour)) {
		t.Error("its process has ended")
	}
	m.devices[0].main.at.BeatNs.Store(uint64(time.Hour - time.Second))
	if m.abandoned(m.devices[0], int64(time.Hour)) {
		t.Error("somebody announces still: a child of it")
	}
	m.devices[0].main.at.BeatNs.Store(0)
	if md := n.mainDevices(m)[0]; md.Enabled || !strings.Contains(md.Reason, "announced its bubbles has ended") {
		t.Errorf("%+v", md)
	}
	n.leaveAbandoned(m)
	if f.rec.Stopping != pipefill.OutcomeEvicted || !strings.Contains(f.rec.Assignment.Reason, "gpu:GPU-a ended") {
		t.Errorf("%q: %s", f.rec.Stopping, f.rec.Assignment.Reason)
	}
}
