package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/api"
)

// fakeController answers syncs as pipefillctld does, with orders a test sets.
type fakeController struct {
	mu     sync.Mutex
	orders api.NodeOrders
	last   api.NodeSync
	count  used // usage by (ledger, seq), summed
	seen   map[string]bool
	down   bool
	news   chan struct{}
	parts  chan api.Recording
}

var _ controller = (*fakeController)(nil)

func newFakeController() *fakeController {
	return &fakeController{seen: map[string]bool{}, news: make(chan struct{}, 1), parts: make(chan api.Recording, 16), orders: api.NodeOrders{Serial: 1, Cluster: "test", Partitions: []string{"pipefill"}}}
}

var errDown = errors.New("the controller is down")

func (c *fakeController) Sync(ctx context.Context, s api.NodeSync) (api.NodeOrders, error) {
	c.mu.Lock()
	c.last = s
	if c.down {
		c.mu.Unlock()
		return api.NodeOrders{}, errDown
	}
	c.orders.UsageAck = map[string]int64{}
	for _, u := range s.Usage {
		if key := fmt.Sprint(u.Ledger, u.Seq); !c.seen[key] {
			c.seen[key] = true
			c.count.DeviceNs += u.DeviceNs
			c.count.CPUNs += u.CPUNs
			c.count.Openings += u.Openings
		}
		c.orders.UsageAck[u.Ledger] = max(c.orders.UsageAck[u.Ledger], u.Seq)
	}
	fresh := c.orders.Serial != s.OrdersSeen || len(s.Usage) > 0
	c.mu.Unlock()
	if !fresh {
		select {
		case <-ctx.Done():
			return api.NodeOrders{}, ctx.Err()
		case <-c.news:
		case <-time.After(500 * time.Millisecond):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.orders, nil
}

func (c *fakeController) SendRecording(_ context.Context, r api.Recording) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return errDown
	}
	c.orders.Recordings = nil
	select {
	case c.parts <- r:
	default: // it came twice
	}
	return nil
}

// order changes the orders.
func (c *fakeController) order(change func(*api.NodeOrders)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.orders)
	c.orders.Serial++
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// assignment is what the node last said of an assignment.
func (c *fakeController) assignment() api.NodeAssignment {
	const id = 7
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.last.Assignments {
		if a.ID == id {
			return a
		}
	}
	return api.NodeAssignment{}
}

func (c *fakeController) sync() api.NodeSync {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *fakeController) used() used {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// site is a daemon with a fake controller and Slurm's groups, in folders of
// the test.
type site struct {
	node *node // of the daemon that runs
	*fakeController
	dir   string
	cfg   config
	store storage
	stop  func()
	slurm string // where the test makes Slurm's groups

	fillBytes int64 // that a fill job may hold
}

// newSite starts a daemon, or skips where there are no cgroups to write.
func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteWith(t, func(*config) {})
}

func newSiteWith(t *testing.T, change func(*config)) *site {
	t.Helper()
	realGroup(t, 999) // skips
	cfg := defaultConfig()
	cfg.FillSched = schedNormal // of the idle class it starves on a machine that tests something else besides
	dir := t.TempDir()
	cfg.Node, cfg.Cluster, cfg.RunDir, cfg.StateDir = fmt.Sprintf("site%d", os.Getpid()), "test", filepath.Join(dir, "run"), filepath.Join(dir, "state")
	cfg.Devices, cfg.TraceDir = []configDevice{{"cpu:0"}}, filepath.Join(dir, "trace")
	cfg.budget, cfg.control, cfg.groups = 0.01, controlPpm, "executor_"+cfg.Node
	change(&cfg)
	s := &site{fakeController: newFakeController(), dir: dir, cfg: cfg, store: disk{}, slurm: fmt.Sprintf("/sys/fs/cgroup/freezer/slurm_%s", cfg.Node)}
	if err := os.MkdirAll(s.slurm, 0o755); err != nil {
		t.Skip("needs the v1 freezer, to play Slurm: ", err)
	}
	t.Cleanup(func() {
		within(t, 5*time.Second, "Slurm's groups to go", func() bool {
			dirs, err := filepath.Glob(s.slurm + "/*/*/*")
			for _, depth := range []string{"/*/*", "/*", ""} {
				more, _ := filepath.Glob(s.slurm + depth)
				dirs = append(dirs, more...)
			}
			for _, d := range dirs {
				err = errors.Join(err, os.Remove(d))
			}
			return err == nil
		})
		// The daemon is stopped; what it left to its supervisors goes too.
		left, _ := filepath.Glob("/sys/fs/cgroup/unified/" + cfg.groups + "/*")
		for _, dir := range left {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		}
		within(t, 5*time.Second, "the groups to go", func() bool {
			left, _ := filepath.Glob("/sys/fs/cgroup/*/" + cfg.groups)
			more, _ := filepath.Glob("/sys/fs/cgroup/*/" + cfg.groups + "/*")
			for _, dir := range append(more, left...) {
				_ = os.Remove(dir)
			}
			return len(left) == 0
		})
	})
	t.Cleanup(func() { s.endSupervisors(t) })
	s.start(t)
	return s
}

func (s *site) start(t *testing.T) {
	t.Helper()
	d, err := newDaemon(s.cfg, slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})), s.fakeController, s.store)
	if err != nil {
		t.Fatal(err)
	}
	s.node = d.node
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- errors.Join(d.serve(ctx), d.close()) }()
	stopped := false
	s.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(s.stop)
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// plugin sends a request to attach.sock.
func (s *site) plugin(t *testing.T, verb string, keys ...string) string {
	t.Helper()
	text, _ := ask(t, filepath.Join(s.cfg.RunDir, "attach.sock"), "pipefill 1 "+verb+"\ncluster=test\nuid=0\n"+strings.Join(keys, "\n")+"\n")
	return text
}

// slurmGroup makes the group of a step of a job.
func (s *site) slurmGroup(t *testing.T, job int) string {
	t.Helper()
	dir := fmt.Sprintf("%s/uid_0/job_%d/step_batch", s.slurm, job)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// askAsMain asks for the pages of a job from within its group.
func (s *site) askAsMain(t *testing.T, job int) (string, []*os.File, error) {
	t.Helper()
	dir := s.slurmGroup(t, job)
	enter := func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(os.Getpid())), 0); err != nil {
			t.Fatal(err)
		}
	}
	enter(dir)
	defer enter("/sys/fs/cgroup/freezer")
	return tryAsk(filepath.Join(s.cfg.RunDir, "gate.sock"), "pipefill 1 open-main\ndevice=\n")
}

// openMain plays the library in a main job's process: this one, for a moment
// in the job's group.
func (s *site) openMain(t *testing.T, job int) (*page[mainPage], *page[controlPage]) {
	t.Helper()
	text, files, err := s.askAsMain(t, job)
	if err != nil || text != "ok\ndevice=cpu:0\n" || len(files) != 2 {
		t.Fatalf("open-main: %q, %d descriptors, %v", text, len(files), err)
	}
	main, err := mapPage[mainPage](files[0])
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(files[1].Fd()), 0, controlSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mapPage[controlPage](files[1]); err == nil {
		t.Error("the main job can write its control page")
	}
	return main, &page[controlPage]{at: (*controlPage)(unsafe.Pointer(&mem[0])), file: files[1], mem: mem}
}

// script plays a batch script: sh, in the group of its job, waiting for a line
// before it goes on.
type script struct {
	cmd *exec.Cmd
	in  interface{ Write([]byte) (int, error) }
}

func (s *site) script(t *testing.T, job int, text string) *script {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read go; "+text)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := os.WriteFile(filepath.Join(s.slurmGroup(t, job), "cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return &script{cmd, in}
}

func (s *script) goOn(t *testing.T) {
	t.Helper()
	if _, err := s.in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
}

// endSupervisors ends what a daemon leaves behind on purpose.
func (s *site) endSupervisors(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.cfg.StateDir, "assignment-*"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range files {
		var r fillRecord
		if err := readRecord(path, &r); err == nil && r.Supervisor.alive() {
			_ = unix.Kill(r.Supervisor.Pid, unix.SIGKILL)
		}
	}
}

// bubbles opens the gate for half of every 40 ms until stopped.
func bubbles(t *testing.T, m *mainPage) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			now := monotonicNs()
			m.BeginNs.Store(uint64(now))
			m.EndNs.Store(uint64(now + 22*ms))
			m.DeadlineNs.Store(uint64(now + 20*ms))
			m.Word.Store((m.Word.Load() | wordOpen) + 2)
			futexWake(&m.Word)
			select {
			case <-ctx.Done():
			case <-time.After(22 * time.Millisecond):
			}
			m.Word.Store(m.Word.Load() &^ wordOpen)
			futexWake(&m.Word)
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return stop
}

// assign reserves the slot of main job 100 for fill job 200.
func (s *site) assign(id int64) {
	s.order(func(o *api.NodeOrders) {
		o.Assignments = []pipefill.Assignment{{
			ID: id, Job: pipefill.JobKey{Cluster: "test", JobID: 200, SubmitMs: 5}, Node: s.cfg.Node, Device: "cpu:0",
			MainJob: pipefill.JobKey{Cluster: "test", JobID: 100}, Mode: pipefill.ModeSignal, State: pipefill.AssignmentReserved, MemBytes: s.fillBytes,
		}}
	})
}

const mainKeys, fillKeys = "job=100\nrestarts=0\nstep=batch", "job=200\nrestarts=0\nstep=batch"

// fillRuns gets a fill job of a text to the point where it runs.
func (s *site) fillRuns(t *testing.T, text string) (*page[mainPage], *script) {
	t.Helper()
	if got := s.plugin(t, "main", mainKeys, "tasks=1", "options="); got != "ok\ndir="+s.cfg.RunDir+"\ndevices=cpu:0\n" {
		t.Fatalf("main: %q", got)
	}
	main, _ := s.openMain(t, 100)
	t.Cleanup(main.close)
	if got := s.plugin(t, "fill", fillKeys, "pid=1", "partition=main", "options="); got != "other\n" && got != "wait\n" {
		t.Fatalf("fill in another partition: %q", got)
	}
	s.assign(7)
	within(t, 5*time.Second, "the reservation to be told back", func() bool { return s.assignment().State == pipefill.AssignmentReserved })
	want := fmt.Sprintf("ok\nassignment=7\ndevice=cpu:0\nmode=signal\nmem_bytes=%d\ndir=%s\ndevices=cpu:0\n", s.fillBytes, s.cfg.RunDir)
	if got := s.plugin(t, "fill", fillKeys, "pid=1", "partition=pipefill", "options="); got != want {
		t.Fatalf("fill: %q", got)
	}
	sc := s.script(t, 200, text)
	if got := s.plugin(t, "task", fillKeys, fmt.Sprintf("pid=%d", sc.cmd.Process.Pid)); got != "ok\n" {
		t.Fatalf("task: %q", got)
	}
	sc.goOn(t)
	return main, sc
}

func (s *site) leave(t *testing.T, keys string, sc *script) {
	t.Helper()
	status := 0
	if sc != nil {
		var exit *exec.ExitError
		if err := sc.cmd.Wait(); errors.As(err, &exit) {
			ws, ok := exit.Sys().(syscall.WaitStatus)
			if !ok {
				t.Fatal("no wait status")
			}
			status = int(ws)
		}
	}
	if got := s.plugin(t, "leave", keys, fmt.Sprintf("status=%d", status)); got != "ok\n" {
		t.Errorf("leave: %q", got)
	}
}

func (s *site) awaitEnd(t *testing.T, want pipefill.Outcome) api.NodeAssignment {
	t.Helper()
	within(t, 10*time.Second, "the assignment to end", func() bool { return s.assignment().State == pipefill.AssignmentEnded })
	a := s.assignment()
	if a.Outcome != want {
		t.Errorf("outcome %s (%s), want %s", a.Outcome, a.Reason, want)
	}
	return a
}

func TestDaemon_AFillJobRunsInBubblesAndCompletes(t *testing.T) {
	s := newSite(t)
	main, sc := s.fillRuns(t, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; exit 0")
	within(t, 5*time.Second, "running", func() bool { return s.assignment().State == pipefill.AssignmentRunning })
	if used := s.used(); used.CPUNs != 0 {
		t.Errorf("used %+v before the gate was ever open", used)
	}
	stop := bubbles(t, main.at)
	s.leave(t, fillKeys, sc)
	stop()
	s.awaitEnd(t, pipefill.OutcomeCompleted)
	within(t, 5*time.Second, "its usage", func() bool { u := s.used(); return u.CPUNs > 10e6 && u.DeviceNs > u.CPUNs/2 && u.Openings > 0 })
	t.Logf("used %+v", s.used())
	for _, dir := range []string{"unified", "cpuset"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + dir + "/" + s.cfg.groups + "/assignment_7"); err == nil {
			t.Error("its group is still there in ", dir)
		}
	}
	// The controller wrote it down: nothing is left on disk.
	s.order(func(o *api.NodeOrders) { o.Assignments, o.Forget = nil, []int64{7} })
	within(t, 5*time.Second, "it to be forgotten", func() bool { return s.assignment().ID == 0 })
	if left, _ := filepath.Glob(filepath.Join(s.cfg.StateDir, "assignment-*")); len(left) > 0 {
		t.Error("left on disk: ", left)
	}
	s.leave(t, mainKeys, nil)
	within(t, 5*time.Second, "the slot to vanish", func() bool { return len(s.sync().Mains) == 0 })
	if data, err := os.ReadFile(filepath.Join(s.cfg.TraceDir, "readings-7.jsonl")); err != nil || !strings.Contains(string(data), `"open": true`) {
		t.Errorf("readings %q %v", data, err)
	}
}

// TestDaemon_GathersProcessesThatNoPluginToldOf: such as a login that
// pam_slurm_adopt has put into the fill job.
func TestDaemon_GathersProcessesThatNoPluginToldOf(t *testing.T) {
	s := newSite(t)
	s.fillRuns(t, "sleep 60")
	stranger, login := s.script(t, 201, "sleep 60"), s.script(t, 200, "sleep 60")
	s.node.mu.Lock()
	f := s.node.fills[7]
	s.node.gather(f, []int{stranger.cmd.Process.Pid, login.cmd.Process.Pid, 1 << 30})
	pids, err := f.group.pids()
	s.node.mu.Unlock()
	if err != nil || !slices.Contains(pids, login.cmd.Process.Pid) || slices.Contains(pids, stranger.cmd.Process.Pid) {
		t.Errorf("in the group: %v, %v; the login is %d, the stranger %d", pids, err, login.cmd.Process.Pid, stranger.cmd.Process.Pid)
	}
}

func TestDaemon_AFailingScriptFails(t *testing.T) {
	s := newSite(t)
	main, sc := s.fillRuns(t, "exit 3")
	stop := bubbles(t, main.at)
	s.leave(t, fillKeys, sc)
	stop()
	if a := s.awaitEnd(t, pipefill.OutcomeFailed); a.ExitCode != 3 || a.Reason != "exit status 3" {
		t.Errorf("%+v", a)
	}
}

// TestDaemon_ATaskThatWasNeverTakenIsNoFailure: the plugin ends one that it
// cannot hand over, and the job did nothing wrong.
func TestDaemon_ATaskThatWasNeverTakenIsNoFailure(t *testing.T) {
	s := newSite(t)
	s.plugin(t, "main", mainKeys, "tasks=1", "options=")
	s.assign(7)
	within(t, 5*time.Second, "its assignment", func() bool {
		return strings.HasPrefix(s.plugin(t, "fill", fillKeys, "pid=1", "partition=pipefill", "options="), "ok")
	})
	s.plugin(t, "leave", fillKeys, "status=9")
	s.awaitEnd(t, pipefill.OutcomeEvicted)
}

func TestDaemon_TheMainJobsEndEvicts(t *testing.T) {
	s := newSite(t)
	// It minds SIGTERM, which a stopped process never sees: the gate is open
	// for its grace.
	mark := filepath.Join(s.dir, "told")
	main, sc := s.fillRuns(t, "trap 'echo > "+mark+"; exit 0' TERM; echo > "+mark+".ready; while :; do :; done")
	stop := bubbles(t, main.at)
	within(t, 5*time.Second, "the script", func() bool { _, err := os.Stat(mark + ".ready"); return err == nil })
	stop()
	s.leave(t, mainKeys, nil)
	if got := s.plugin(t, "epilog", "job=100"); got != "ok\n" {
		t.Errorf("epilog: %q", got)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error("the script's handler of SIGTERM did not run")
	}
	s.leave(t, fillKeys, sc)
	s.awaitEnd(t, pipefill.OutcomeEvicted)
	within(t, 5*time.Second, "the slot to vanish", func() bool { return len(s.sync().Mains) == 0 })
}

func TestDaemon_WhatDoesNotMindIsKilled(t *testing.T) {
	s := newSite(t)
	mark := filepath.Join(s.dir, "ready")
	main, sc := s.fillRuns(t, "trap '' TERM; echo > "+mark+"; while :; do :; done")
	stop := bubbles(t, main.at)
	within(t, 5*time.Second, "the script", func() bool { _, err := os.Stat(mark); return err == nil })
	stop()
	s.leave(t, mainKeys, nil)
	if got := s.plugin(t, "epilog", "job=100"); got != "ok\n" {
		t.Errorf("epilog: %q", got)
	}
	s.leave(t, fillKeys, sc)
	s.awaitEnd(t, pipefill.OutcomeEvicted)
}

func TestDaemon_CancelledByTheController(t *testing.T) {
	s := newSite(t)
	_, _ = s.fillRuns(t, "while :; do :; done")
	within(t, 5*time.Second, "running", func() bool { return s.assignment().State == pipefill.AssignmentRunning })
	s.order(func(o *api.NodeOrders) { o.Assignments = nil })
	s.awaitEnd(t, pipefill.OutcomeCancelled)
}

func TestDaemon_GoesOnAfterItsOwnRestart(t *testing.T) {
	s := newSite(t)
	main, sc := s.fillRuns(t, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exit 0")
	stop := bubbles(t, main.at)
	within(t, 5*time.Second, "usage", func() bool {
		data, err := os.ReadFile(filepath.Join(s.cfg.TraceDir, "opens-7.jsonl"))
		return err == nil && len(data) > 0
	})
	s.stop() // its supervisor and the main job go on
	back := time.Now()
	s.start(t)
	within(t, 5*time.Second, "the assignment to be known again", func() bool { return s.assignment().State == pipefill.AssignmentRunning })
	s.leave(t, fillKeys, sc) // ends only if the gate opens for it again
	stop()
	s.awaitEnd(t, pipefill.OutcomeCompleted)
	within(t, 5*time.Second, "its usage", func() bool { return s.used().CPUNs > 10e6 })
	got := s.sync().Mains
	if len(got) != 1 || got[0].Device != "cpu:0" {
		t.Fatalf("main jobs %+v", got)
	}
	// The totals are of this daemon's time: what was filled before is not.
	if filled := got[0].Totals.FilledNs; filled <= 0 || filled > int64(time.Since(back)) {
		t.Errorf("filled %s in %s", time.Duration(filled), time.Since(back))
	}
}

func TestDaemon_NoAssignment(t *testing.T) {
	s := newSite(t)
	within(t, 5*time.Second, "the partitions", func() bool { return s.sync().OrdersSeen == 1 })
	if got := s.plugin(t, "fill", fillKeys, "pid=1", "partition=main", "options="); got != "other\n" {
		t.Errorf("another partition: %q", got)
	}
	if got := s.plugin(t, "fill", fillKeys, "pid=1", "partition=pipefill", "options="); got != "wait\n" {
		t.Errorf("first: %q", got)
	}
	within(t, 5*time.Second, "the controller to be asked", func() bool { w := s.sync().WantsJob; return w != nil && w.JobID == 200 })
	s.order(func(o *api.NodeOrders) { o.Refused = &pipefill.JobKey{Cluster: "test", JobID: 200} })
	within(t, 5*time.Second, "the refusal", func() bool {
		return s.plugin(t, "fill", fillKeys, "pid=1", "partition=pipefill", "options=") == "none\n"
	})
	if got := s.plugin(t, "task", fillKeys, fmt.Sprint("pid=", os.Getpid())); got != "none\n" {
		t.Errorf("task: %q", got)
	}
	if got := s.plugin(t, "main", mainKeys, "tasks=1", "options=off"); !strings.HasPrefix(got, "ok\n") {
		t.Errorf("main: %q", got)
	}
	within(t, 5*time.Second, "the slot", func() bool { m := s.sync().Mains; return len(m) == 1 && !m[0].Enabled })
	// A process outside every job gets nothing, whatever it says.
	text, files := ask(t, filepath.Join(s.cfg.RunDir, "gate.sock"), "pipefill 1 open-main\njob=100\ndevice=cpu:0\n")
	if text != "none\n" || len(files) != 0 {
		t.Errorf("a stranger got %q and %d descriptors", text, len(files))
	}
	if got := s.plugin(t, "bogus", mainKeys); !strings.HasPrefix(got, "error\nmessage=unknown verb") {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{"job=x", "job=-1", "job=99999999999", ""} {
		if got := s.plugin(t, "main", bad, "tasks=1"); !strings.HasPrefix(got, "error\n") {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

func TestDaemon_AFullDiskStopsFillJobsAndSaysSo(t *testing.T) {
	s := newSite(t)
	s.stop()
	shaky := &gatedDisk{}
	s.store = shaky
	s.start(t)
	main, _ := s.fillRuns(t, "while :; do :; done")
	bubbles(t, main.at)
	within(t, 5*time.Second, "usage", func() bool {
		data, err := os.ReadFile(filepath.Join(s.cfg.TraceDir, "opens-7.jsonl"))
		return err == nil && len(data) > 0
	})
	shaky.set(true)
	s.node.mu.Lock()
	s.node.fills[7].chargedAt = time.Time{} // due now, not in half a minute
	s.node.mu.Unlock()
	within(t, 10*time.Second, "the fault", func() bool {
		return strings.Contains(strings.Join(s.sync().Faults, ";"), "usage ledger cannot be written")
	})
	cpu := func() string {
		data, err := os.ReadFile("/sys/fs/cgroup/unified/" + s.cfg.groups + "/assignment_7/cpu.stat")
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitN(string(data), "\n", 2)[0]
	}
	within(t, 5*time.Second, "the fill job to stop", func() bool {
		before := cpu()
		for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
			unix.Nanosleep(&unix.Timespec{Nsec: 5e6}, nil) //nolint:errcheck // polls
		}
		return cpu() == before
	})
	shaky.set(false)
	before := cpu()
	within(t, 5*time.Second, "the fill job to go on", func() bool { return cpu() != before })
	within(t, 10*time.Second, "the fault to go", func() bool { return len(s.sync().Faults) == 0 })
}

// gatedDisk is full or not.
type gatedDisk struct {
	disk
	mu   sync.Mutex
	full bool
}

func (d *gatedDisk) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (d *gatedDisk) isFull() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return errFullDisk
	}
	return nil
}

func (d *gatedDisk) replace(path string, data []byte) error {
	if err := d.isFull(); err != nil {
		return err
	}
	return d.disk.replace(path, data)
}

func (d *gatedDisk) put(path string, data []byte) error {
	if err := d.isFull(); err != nil {
		return err
	}
	return d.disk.put(path, data)
}

func (d *gatedDisk) add(f *os.File, data []byte) error {
	if err := d.isFull(); err != nil {
		return err
	}
	return d.disk.add(f, data)
}
