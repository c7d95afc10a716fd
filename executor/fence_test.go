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
	"time"

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
	health device.Health
	limits []string
}

var _ meter = (*fakeMeter)(nil)

func (m *fakeMeter) Read(pipefill.DeviceID) ([]device.Use, error)    { return m.uses, m.err }
func (m *fakeMeter) Health(pipefill.DeviceID) (device.Health, error) { return m.health, m.err }

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
	if n.ledger, err = openLedger(filepath.Join(cfg.StateDir, "ledger"), disk{}); err != nil {
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
		group: &group{unified: dir}, devices: main.devices[:1],
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

func TestFence_NoMemoryIsLeft(t *testing.T) {
	n, m, _, _ := gpuNode(t, pipefill.ModeChunked)
	n.mains[100].rec.Devices[0].Openers = []process{n.self}
	for most, want := range map[int64]string{70: "", 79: "the main job has held 80896 MiB of the GPU's 81920 MiB, and its reserve= is 2048 MiB: no memory is left to fill jobs"} {
		n.mains[100].rec.Devices[0].HighBytes = 0
		m.uses = []device.Use{{Pid: os.Getpid(), Bytes: most << 30}}
		n.lookAtMemory()
		if md := n.snapshot().Mains[0]; md.Reason != want || md.Enabled != (want == "") {
			t.Errorf("%d GiB: enabled %v, %q", most, md.Enabled, md.Reason)
		}
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
	main := n.mains[100]
	main.rec.Devices[0].Openers = []process{n.self}
	m.uses = []device.Use{{Pid: os.Getpid(), Bytes: 70 << 30}}
	n.lookAtMemory()
	exclusive := "its compute mode lets one process use it"
	for _, c := range []struct {
		health     device.Health
		err        error
		fault      string
		shut, slow string
	}{
		{device.Health{Slow: "it is too hot"}, nil, "device gpu:GPU-a: it is too hot", "", "it is too hot"},
		{device.Health{Shut: exclusive}, nil, "device gpu:GPU-a: " + exclusive, exclusive, ""},
		{device.Health{Shut: exclusive, Slow: "it is too hot"}, nil, "device gpu:GPU-a: " + exclusive + "; it is too hot", exclusive, "it is too hot"},
		{device.Health{}, errors.New("GPU is lost"), "device gpu:GPU-a: is not watched: GPU is lost", "", ""},
		{device.Health{}, nil, "", "", ""},
	} {
		m.health, m.err = c.health, c.err
		n.lookAtHealth()
		said := n.snapshot() // what the controller gets, for doctor and slots
		if got := strings.Join(said.Faults, "\n"); got != c.fault {
			t.Errorf("faults %q, want %q", got, c.fault)
		}
		md := said.Mains[0]
		if md.Reason != c.shut || md.Enabled != (c.shut == "") || md.Slow != c.slow {
			t.Errorf("%+v: enabled %v, reason %q, slow %q", c.health, md.Enabled, md.Reason, md.Slow)
		}
	}
}

// Through the real bindings, on an NVML of our own that has each trouble: what
// doctor and slots get to say.
func TestHealth_OfNVML(t *testing.T) {
	library := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	if out, err := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-o", library, "device/testdata/fake_nvml.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	n, _, _, _ := gpuNode(t, pipefill.ModeChunked)
	main := n.mains[100]
	main.rec.Devices[0].Openers = []process{n.self}
	main.devices[0].device.ID, n.devices[0].ID = "gpu:GPU-aaaa", "gpu:GPU-aaaa"
	main.rec.Devices[0].HighBytes = 1
	m, err := device.OpenMeter(n.devices, library)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	n.meter = m
	for call, want := range map[string]struct{ fault, shut, slow string }{
		"":                {},
		"powercap":        {},
		"hot":             {"device gpu:GPU-aaaa: the hardware slows it down, it is too hot: look at fans", "", "too hot"},
		"brake":           {"device gpu:GPU-aaaa: its power supply slows it down", "", "power supply"},
		"exclusive":       {"device gpu:GPU-aaaa: its compute mode lets one process use it", "nvidia-smi -c DEFAULT", ""},
		"exclusive swhot": {"nvidia-smi -c DEFAULT; the driver slows it down, it is too hot", "nvidia-smi -c DEFAULT", "too hot"},
		"clocks":          {"device gpu:GPU-aaaa: is not watched: device gpu:GPU-aaaa: read why its clocks are slow: NVML: GPU is lost", "", ""},
	} {
		t.Setenv("FAKE_NVML", call)
		n.lookAtHealth()
		said := n.snapshot()
		faults, md := strings.Join(said.Faults, "\n"), said.Mains[0]
		if (faults == "") != (want.fault == "") || !strings.Contains(faults, want.fault) {
			t.Errorf("%s: faults %q, want %q", call, faults, want.fault)
		}
		if md.Enabled != (want.shut == "") || !strings.Contains(md.Reason, want.shut) || (md.Slow == "") != (want.slow == "") || !strings.Contains(md.Slow, want.slow) {
			t.Errorf("%s: enabled %v, %q, slow %q", call, md.Enabled, md.Reason, md.Slow)
		}
	}
}

// A driver that hangs is said by somebody else than who waits for it.
func TestHealth_ADriverThatHangs(t *testing.T) {
	n, _, _, _ := gpuNode(t, pipefill.ModeChunked)
	now := time.Unix(1000, 0)
	n.now = func() time.Time { return now }
	n.asking("gpu:GPU-a")
	for wait, want := range map[time.Duration]string{time.Second: "", time.Minute: "device gpu:GPU-a: the driver has not answered since"} {
		now = time.Unix(1000, 0).Add(wait)
		n.tickDriver()
		if got := n.faults["driver"]; (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("after %s: %q", wait, got)
		}
	}
	n.asking("")
	n.tickDriver()
	if got := n.faults["driver"]; got != "" {
		t.Errorf("once it has answered: %q", got)
	}
}

// Where the kernel lets nobody onto GPUs, that is found before a fill job is.
func TestCanGrant(t *testing.T) {
	null := []device.Device{{ID: "cpu:0", Cores: []int{0}}, {ID: "gpu:GPU-a", Node: &device.Node{Path: "/dev/null", Major: 1, Minor: 3}}}
	broken := &cgroups{unified: t.TempDir(), name: "x"} // no groups there
	if err := broken.canGrant(null[:1]); err != nil {
		t.Errorf("without GPUs: %v", err)
	}
	if err := broken.canGrant(null); err == nil || !strings.Contains(err.Error(), "cgroup.freeze") {
		t.Errorf("without groups: %v", err)
	}
	realGroup(t, 0) // or skips
	c, err := findCgroups(fmt.Sprintf("executor_grant%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.leave)
	if err := c.canGrant(null); err != nil {
		t.Errorf("on this machine: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(c.unified, c.name, "assignment_*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	n, _, _, _ := gpuNode(t, pipefill.ModeChunked)
	n.fault("grants", "fill jobs cannot be let onto GPUs")
	if md := n.snapshot().Mains[0]; md.Enabled || md.Reason != "fill jobs cannot be let onto GPUs" {
		t.Errorf("%+v", md)
	}
}

// What was wrong with a GPU is not said for ever once its main job has left.
func TestHealth_EndsWithTheMainJob(t *testing.T) {
	n, m, _, _ := gpuNode(t, pipefill.ModeChunked)
	m.health, m.err = device.Health{Slow: "it is too hot"}, errors.New("GPU is lost")
	n.lookAtMemory()
	n.lookAtHealth()
	if len(n.faults) != 2 {
		t.Fatalf("faults %q", n.faults)
	}
	mains := n.mains
	n.mains = map[int64]*mainJob{}
	n.lookAtHealth()
	if len(n.faults) != 0 || len(n.health) != 0 {
		t.Errorf("faults %q, health %v", n.faults, n.health)
	}
	n.mains = mains
}
