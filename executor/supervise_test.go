package executor

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/executor/device"
)

// TestMain lets the test binary be its own supervisor.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == superviseVerb {
		if err := supervise(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// realGroup makes cgroups of this machine, or skips.
func realGroup(t *testing.T, id int64) *group {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	c, err := findCgroups(fmt.Sprintf("executor_test%d", os.Getpid()))
	if err != nil {
		t.Skip("needs cgroup v2: ", err)
	}
	g := c.group(id, device.Device{ID: "cpu:0", Cores: []int{0}})
	if err := g.create(nil); err != nil {
		if os.IsPermission(err) || strings.Contains(err.Error(), "read-only") {
			t.Skip("needs writable cgroups: ", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.kill(); err != nil {
			t.Error(err)
		}
		within(t, 5*time.Second, "the group to empty", func() bool { p, err := g.pids(); return err == nil && len(p) == 0 })
		within(t, 5*time.Second, "the groups to go", func() bool { return g.remove() == nil })
		for _, dir := range g.dirs() {
			_ = os.Remove(filepath.Dir(dir))
		}
	})
	return g
}

// within polls until ok or the time is over.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", limit, what)
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 2e6}, nil) //nolint:errcheck // an early return only polls sooner
	}
}

// spinner starts a process that burns CPU, and a child of it that does too.
func spinner(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "(while :; do :; done) & while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	})
	within(t, 5*time.Second, "the child", func() bool { return len(descendants(cmd.Process.Pid)) == 2 })
	return cmd.Process.Pid
}

func TestGroup_MovesFreezesAndKills(t *testing.T) {
	g := realGroup(t, 1)
	pid := spinner(t)
	if err := g.add(pid); err != nil {
		t.Fatal(err)
	}
	pids, err := g.pids()
	if err != nil || len(pids) != 2 {
		t.Fatalf("in the group: %v %v, want the process and its child", pids, err)
	}
	v, err := newFreezer(g.unified)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.close() }()
	if !v.stopped(monotonicNs() + 5e9) {
		t.Fatal("a new group does not stop what is moved into it")
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(pid, &set); err != nil || set.Count() != 1 || !set.IsSet(0) {
		t.Errorf("cores %v %v, want core 0", set, err)
	}
	before := v.cpuNs()
	if err := v.thaw(); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "CPU time", func() bool { return v.cpuNs() > before+5e6 })
	if err := v.freeze(); err != nil {
		t.Fatal(err)
	}
	if !v.stopped(monotonicNs() + 5e9) {
		t.Fatal("not frozen")
	}
	if own, err := g.cpuNs(); err != nil || own != v.cpuNs() {
		t.Errorf("CPU time %d %v and %d", own, err, v.cpuNs())
	}
	if err := g.signalOne(os.Getpid(), unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a process outside of the group was signalled: %v", err)
	}
	if err := g.signalOne(pid, unix.SIGCONT); err != nil {
		t.Errorf("one of the group was not: %v", err)
	}
	if err := g.kill(); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the frozen processes to die", func() bool { p, _ := g.pids(); return len(p) == 0 })
}

// superRig is a supervisor with its pages, this process being its daemon.
type superRig struct {
	group   *group
	main    *page[mainPage]
	control *page[controlPage]
	fill    *page[fillPage]
	super   *page[superPage]
	cmd     *exec.Cmd
}

func newRig(t *testing.T, daemonPid int) *superRig {
	t.Helper()
	r := &superRig{group: realGroup(t, 2)}
	var err [4]error
	r.main, err[0] = newMainPage("m")
	r.control, err[1] = newPage[controlPage]("c", controlMagic)
	r.fill, err[2] = newPage[fillPage]("f", fillMagic)
	r.super, err[3] = newPage[superPage]("s", superMagic)
	for _, e := range err {
		if e != nil {
			t.Fatal(e)
		}
	}
	r.super.at.DaemonPid.Store(uint32(daemonPid))
	r.super.at.Command.Store(superRun)
	r.control.at.BeatNs.Store(uint64(monotonicNs()))
	args, e := superviseArguments(superviseOrder{Group: r.group.unified, Device: "cpu:0", Mode: pipefill.ModeSignal})
	if e != nil {
		t.Fatal(e)
	}
	r.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: args, Env: superviseEnv(), Stderr: os.Stderr,
		ExtraFiles:  []*os.File{r.main.file, r.control.file, r.fill.file, r.super.file},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	})
	within(t, 10*time.Second, "the supervisor", func() bool { return r.super.at.State.Load() == stateFrozen })
	return r
}

// beat keeps the daemon's beat going until the test ends or stop is called.
func (r *superRig) beat(t *testing.T) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-tick.C:
				r.control.at.BeatNs.Store(uint64(monotonicNs()))
			case <-done:
				tick.Stop()
				return
			}
		}
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			close(done)
			<-ended
		}
	}
	t.Cleanup(stop)
	return stop
}

// open plays pf_bubble_begin, shut pf_bubble_end.
func (r *superRig) open(length time.Duration) {
	now := monotonicNs()
	r.main.at.BeginNs.Store(uint64(now))
	r.main.at.EndNs.Store(uint64(now + int64(length)))
	r.main.at.DeadlineNs.Store(uint64(now + int64(length)))
	r.main.at.Word.Store((r.main.at.Word.Load() | wordOpen) + 2)
	futexWake(&r.main.at.Word)
}

func (r *superRig) shut() {
	r.main.at.Word.Store(r.main.at.Word.Load() &^ wordOpen)
	futexWake(&r.main.at.Word)
}

func TestSupervise_FollowsTheGate(t *testing.T) {
	r := newRig(t, os.Getpid())
	r.beat(t)
	if err := r.group.add(spinner(t)); err != nil {
		t.Fatal(err)
	}
	used := func() int64 { ns, err := r.group.cpuNs(); _ = err; return ns }
	before := used()
	for i := uint64(1); i <= 10; i++ {
		within(t, 10*time.Second, "the opening to be over", func() bool {
			if now := uint64(monotonicNs()); r.super.at.Openings.Load() < i && now > r.main.at.EndNs.Load() {
				r.open(20 * time.Millisecond) // on a busy machine one may be slept through
			}
			return r.super.at.Openings.Load() == i && r.super.at.State.Load() == stateFrozen
		})
	}
	ran, charged := used()-before, int64(r.super.at.DeviceNs.Load())
	if ran < 20e6 || charged < ran/2 {
		t.Errorf("10 openings of 20 ms: ran %d ms of CPU time, charged %d ms", ran/1e6, charged/1e6)
	}
	t.Logf("ran %d us, charged %d us, overruns %d (%d us), worst stop %d us", ran/1000, charged/1000,
		r.super.at.Overruns.Load(), r.super.at.OverrunNs.Load()/1000, r.super.at.StopWorstNs.Load()/1000)
	// An opening that is ended early stops the fill job early.
	r.open(10 * time.Second)
	within(t, 2*time.Second, "the fill job to run", func() bool { return r.super.at.State.Load() == stateThawed })
	r.shut()
	within(t, 2*time.Second, "the fill job to stop", func() bool { return r.super.at.State.Load() == stateFrozen })
	r.super.at.Command.Store(superExit)
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// The beat never gets old, so that what stops the fill job is the end of the daemon's
// process, and nothing else can. How long that takes is ours as far as the
// machine lets the supervisor and the fill job's processes have a core: of some
// deaths the quickest counts. A beat that ends would take beatMaxAge.
func TestSupervise_StopsWhenTheDaemonDies(t *testing.T) {
	daemon := newDaemonProcess(t)
	r := newRig(t, daemon.Process.Pid)
	r.control.at.BeatNs.Store(uint64(monotonicNs() + int64(time.Hour)))
	if err := r.group.add(spinner(t)); err != nil {
		t.Fatal(err)
	}
	r.open(60 * time.Second)
	const deaths, limit = 8, beatMaxAge / 2
	quickest := time.Duration(math.MaxInt64)
	for range deaths {
		within(t, 5*time.Second, "the fill job to run", func() bool { return r.super.at.State.Load() == stateThawed })
		killed := time.Now()
		if err := daemon.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, "the fill job to stop", func() bool { return r.super.at.State.Load() == stateFrozen })
		quickest = min(quickest, time.Since(killed))
		// A new daemon is followed: the gate is still open.
		daemon = newDaemonProcess(t)
		r.super.at.DaemonPid.Store(uint32(daemon.Process.Pid))
		if quickest <= limit {
			break
		}
	}
	if quickest > limit {
		t.Errorf("of %d deaths of the daemon the quickest stop took %s, more than %s", deaths, quickest, limit)
	}
	within(t, 5*time.Second, "the fill job to go on", func() bool { return r.super.at.State.Load() == stateThawed })
}

// newDaemonProcess is a process that stands for a daemon's.
func newDaemonProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}
