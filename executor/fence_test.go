package executor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	"pipefill/executor/device"
)

func TestJudgeMemory(t *testing.T) {
	const gib = int64(1) << 30
	known := func(high int64) memory { return memory{total: 80 * gib, high: high, reserve: 2 * gib} }
	for name, c := range map[string]struct {
		limit, used int64
		memory      memory
		want        pipefill.Outcome
		says        string
	}{
		"within":                        {8 * gib, 8 * gib, known(70 * gib), "", ""},
		"a byte beyond":                 {8 * gib, 8*gib + 1<<20, known(70 * gib), pipefill.OutcomeFailed, "held 8193 MiB of memory on gpu:GPU-a and may hold 8192 MiB, 1 MiB too much"},
		"nobody said what it may":       {0, 8 * gib, known(70 * gib), "", ""},
		"half the reserve is the slack": {8 * gib, gib, known(71 * gib), "", ""},
		"the main job has grown":        {8 * gib, gib, known(71*gib + 1<<20), pipefill.OutcomeEvicted, "grew to 72705 MiB of 81920 MiB, and 8192 MiB are this job's"},
		"the main job is not known":     {8 * gib, 79 * gib / 10, memory{total: 80 * gib}, "", ""},
		"both: its own fault counts":    {8 * gib, 9 * gib, known(79 * gib), pipefill.OutcomeFailed, "too much"},
		"unlimited, and in the way":     {0, 12 * gib, known(70 * gib), pipefill.OutcomeEvicted, "are this job's"},
	} {
		t.Run(name, func(t *testing.T) {
			outcome, reason := judgeMemory(c.limit, c.used, c.memory, "gpu:GPU-a")
			if outcome != c.want || !strings.Contains(reason, c.says) {
				t.Errorf("%q, %q", outcome, reason)
			}
		})
	}
	if bytes, ok := known(70 * gib).offered(); !ok || bytes != 8*gib {
		t.Errorf("offered %d, %v", bytes, ok)
	}
	if bytes, ok := known(79 * gib).offered(); !ok || bytes != 0 {
		t.Errorf("nothing is left, offered %d, %v", bytes, ok)
	}
	if _, ok := known(0).offered(); ok {
		t.Error("offered before anything is known")
	}
}

// fakeMeter says what a test wants of GPU-a.
type fakeMeter struct {
	uses   []device.Use
	err    error
	health string
	limits []string
}

var _ meter = (*fakeMeter)(nil)

func (m *fakeMeter) Read(pipefill.DeviceID) ([]device.Use, error) { return m.uses, m.err }
func (m *fakeMeter) Health(pipefill.DeviceID) (string, error)     { return m.health, m.err }

func (m *fakeMeter) Limits() bool { return true }
func (m *fakeMeter) Limit(id pipefill.DeviceID, group string, bytes int64) error {
	m.limits = append(m.limits, fmt.Sprintf("%s %s %d", id, filepath.Base(group), bytes))
	return nil
}

// gpuNode is a node with a main job on one GPU of 80 GiB that has run for two
// iterations, and a fill job there with a process of its own.
func gpuNode(t *testing.T, mode pipefill.Mode) (*node, *fakeMeter, *fillJob, int) {
	t.Helper()
	cfg := defaultConfig()
	cfg.StateDir, cfg.budget, cfg.control = t.TempDir(), 0.01, controlPpm
	gpu := device.Device{ID: "gpu:GPU-a", Node: &device.Node{Major: 195}, TotalBytes: 80 << 30}
	n, err := newNode(cfg, slog.New(slog.DiscardHandler), &cgroups{unified: t.TempDir(), name: "x"}, []device.Device{gpu}, disk{})
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMeter{}
	n.meter = m
	key := pipefill.JobKey{Cluster: "test", JobID: 100}
	if _, err := n.attachMain(key, 1000, "batch", message{keys: map[string]string{"options": "reserve=2GiB"}}, 1); err != nil {
		t.Fatal(err)
	}
	main := n.mains[100]
	t.Cleanup(func() { n.closeMain(main) })
	main.devices[0].drain.totals.Iterations = knownIterations
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	dir := filepath.Join(t.TempDir(), "assignment_7")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendln(nil, cmd.Process.Pid), 0o600)); err != nil {
		t.Fatal(err)
	}
	f := &fillJob{
		rec: fillRecord{Assignment: pipefill.Assignment{
			ID: 7, Job: pipefill.JobKey{Cluster: "test", JobID: 200}, Device: gpu.ID, MainJob: key, Mode: mode, MemBytes: 4 << 30,
			State: pipefill.AssignmentRunning,
		}},
		group: &group{unified: dir}, device: main.devices[0],
	}
	if f.page, err = newPage[fillPage]("fill", fillMagic); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.page.close)
	main.devices[0].fill, n.fills[7] = f, f
	return n, m, f, cmd.Process.Pid
}

func TestFence_GPU(t *testing.T) {
	n, m, f, pid := gpuNode(t, pipefill.ModeChunked)
	main := n.mains[100]
	if md := n.mainDevices(main)[0]; md.Fence != "driver" || md.Enabled {
		t.Errorf("before anything is known: %+v", md)
	}
	m.uses = []device.Use{{Pid: os.Getpid(), Bytes: 70 << 30}, {Pid: pid, Bytes: 4 << 30}, {Pid: 1 << 22, Bytes: 60 << 30}}
	n.lookAtMemory()
	if f.rec.Stopping != "" || len(m.limits) != 1 || m.limits[0] != "gpu:GPU-a assignment_7 4294967296" {
		t.Errorf("within its memory: %q, limits %q", f.rec.Assignment.Reason, m.limits)
	}
	if c := n.cycle(main, main.devices[0]); c.AlwaysFreeBytes != 8<<30 {
		t.Errorf("%d bytes are offered beside 70 GiB and 2 GiB of 80", c.AlwaysFreeBytes)
	}
	// What the main job gave back it may take again: its most counts.
	m.uses[0].Bytes = 10 << 30
	n.lookAtMemory()
	if c := n.cycle(main, main.devices[0]); c.AlwaysFreeBytes != 8<<30 || len(m.limits) != 1 {
		t.Errorf("%d bytes are offered after the main job has shrunk, limits %q", c.AlwaysFreeBytes, m.limits)
	}
	m.err = errors.New("GPU is lost")
	n.lookAtMemory()
	if f.rec.Stopping != "" || !strings.Contains(n.faults["memory-gpu:GPU-a"], "GPU is lost") {
		t.Errorf("a meter that fails: %q, %q", f.rec.Assignment.Reason, n.faults)
	}
	m.err, m.uses[0].Bytes = nil, 76<<30
	n.lookAtMemory()
	if f.rec.Stopping != pipefill.OutcomeEvicted || n.faults["memory-gpu:GPU-a"] != "" || f.killNs == 0 {
		t.Errorf("a main job that grows: %q, %q", f.rec.Stopping, n.faults)
	}
	var onDisk mainRecord
	n.tickMain(main)
	if err := readRecord(filepath.Join(n.cfg.StateDir, "main-100-0.json"), &onDisk); err != nil {
		files, _ := filepath.Glob(n.cfg.StateDir + "/*")
		t.Fatal(err, files)
	}
	if onDisk.Devices[0].HighBytes != 76<<30 {
		t.Errorf("on disk: %+v", onDisk.Devices)
	}
}

func TestFence_GPU_Breach(t *testing.T) {
	n, m, f, pid := gpuNode(t, pipefill.ModeChunked)
	m.uses = []device.Use{{Pid: os.Getpid(), Bytes: 10 << 30}, {Pid: pid, Bytes: 5 << 30}}
	n.lookAtMemory()
	if f.rec.Stopping != pipefill.OutcomeFailed || !strings.Contains(f.rec.Assignment.Reason, "held 5120 MiB of memory on gpu:GPU-a and may hold 4096 MiB") {
		t.Errorf("%q, %q", f.rec.Stopping, f.rec.Assignment.Reason)
	}
}

func TestFence_StrangersToTheLaunchLibrary(t *testing.T) {
	n, m, f, pid := gpuNode(t, pipefill.ModeLaunch)
	m.uses = []device.Use{{Pid: pid, Bytes: 1 << 30}}
	for range strangerMost - 1 {
		n.lookAtMemory()
	}
	f.page.at.Process[3].Pid.Store(uint32(pid))
	n.lookAtMemory()
	if f.rec.Stopping != "" || f.strangers != 0 {
		t.Fatalf("a process with the library: %q", f.rec.Assignment.Reason)
	}
	f.page.at.Process[3].Pid.Store(0)
	for range strangerMost {
		n.lookAtMemory()
	}
	if f.rec.Stopping != pipefill.OutcomeFailed || !strings.Contains(f.rec.Assignment.Reason, "without the launch library") {
		t.Errorf("%q, %q", f.rec.Stopping, f.rec.Assignment.Reason)
	}
}

// On cores, for real: a fill job that holds more than it said it needs.
func TestDaemon_AFillJobBeyondItsMemoryIsEnded(t *testing.T) {
	s := newSite(t)
	s.fillBytes = 100 << 20
	main, sc := s.fillRuns(t, `exec /usr/bin/python3 -c "x = bytearray(200 << 20)
while True: x[::4096] = x[::4096]"`)
	stop := bubbles(t, main.at)
	_ = sc.cmd.Wait()
	stop()
	s.leave(t, fillKeys, nil)
	if a := s.awaitEnd(t, pipefill.OutcomeFailed); !strings.Contains(a.Reason, "may hold 100 MiB") {
		t.Errorf("%q", a.Reason)
	}
}

// The library that jobs of mode launch are started with is the switch of the
// mode: nobody else hears of it, and without it none is let in.
func TestNode_ModeLaunch(t *testing.T) {
	n, _, f, _ := gpuNode(t, pipefill.ModeLaunch)
	main := n.mains[100]
	main.devices[0].fill = nil
	a := f.rec.Assignment
	a.ID, a.Job.JobID = 8, 201
	if _, err := n.startFill(a, "batch", ""); !errors.Is(err, errNoSlot) || n.mainDevices(main)[0].Launches {
		t.Errorf("without launch_library: %v", err)
	}
	n.cfg.LaunchLib = "/lib/libpipefill_launch.so"
	if !n.mainDevices(main)[0].Launches {
		t.Error("with launch_library the slot does not say so")
	}
	for mode, want := range map[pipefill.Mode]bool{pipefill.ModeLaunch: true, pipefill.ModeChunked: false, pipefill.ModeSignal: false} {
		a.Mode = mode
		if got := strings.Contains(fmt.Sprint(n.cfg.fillReply(a)), n.cfg.LaunchLib); got != want {
			t.Errorf("mode %s is told of the library: %v", mode, got)
		}
	}
}

func TestHealth_IsSaidUntilItIsOver(t *testing.T) {
	n, m, _, _ := gpuNode(t, pipefill.ModeChunked)
	for _, c := range []struct {
		health string
		err    error
		want   string
	}{{"it is too hot", nil, "device gpu:GPU-a: it is too hot"}, {"", errors.New("lost"), "device gpu:GPU-a: is not watched: lost"}, {"", nil, ""}} {
		m.health, m.err = c.health, c.err
		n.lookAtHealth()
		if got := n.faults["health-gpu:GPU-a"]; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
