package executor

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
)

// A supervisor is a process of its own for one running fill job, so that the
// fill job stops in time however busy, restarting or dead the daemon is. It
// gets its pages as descriptors and everything else in one argument.

// superviseVerb is the hidden subcommand.
const superviseVerb = "supervise"

// The descriptors of a supervisor. A new daemon finds them in /proc/PID/fd. The
// main and control pages of a gang's other devices follow, the latter so that
// they are found there.
const (
	superMainFd = 3 + iota
	superControlFd
	superFillFd
	superPageFd
	superOtherFd
)

// superviseOrder is the supervisor's argument.
type superviseOrder struct {
	ID       int64              `json:"id"`    // of the assignment
	Job      int64              `json:"job"`   // the fill job's number, for traces
	Group    string             `json:"group"` // the v2 group of the fill job
	Device   pipefill.DeviceID  `json:"device"`
	Others   pipefill.DeviceSet `json:"others,omitempty"`
	Mode     pipefill.Mode      `json:"mode"`
	TraceDir string             `json:"trace_dir,omitempty"`
}

// supervise is the supervisor's life.
func supervise(argument string) error {
	// Whatever is sent to the daemon's process group must not end the one who
	// stops the fill job.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	var order superviseOrder
	if err := json.Unmarshal([]byte(argument), &order); err != nil {
		return pipefill.Errorf(pipefill.CodeInvalid, "supervise: this subcommand is pipefilld's own: %w", err)
	}
	r, err := newRunner(order)
	if err != nil {
		return err
	}
	if order.TraceDir != "" {
		t, err := newTrace(order)
		if err != nil {
			return err
		}
		defer t.close()
		r.trace = t
	}
	runtime.LockOSThread()
	calmRuntime()
	raisePriority()
	go watchDaemon(r)
	r.super.Pid.Store(uint32(os.Getpid()))
	r.run()
	return nil
}

func newRunner(order superviseOrder) (*runner, error) {
	var gates []gate
	var words []*atomic.Uint32
	for i := range 1 + len(order.Others.List()) {
		fd := superMainFd
		if i > 0 {
			fd = superOtherFd + 2*(i-1)
		}
		main, err := mapPage[mainPage](os.NewFile(uintptr(fd), "main"))
		if err != nil {
			return nil, err
		}
		gates, words = append(gates, gate{main: main.at}), append(words, &main.at.Word)
	}
	control, err := mapPage[controlPage](os.NewFile(superControlFd, "control"))
	if err != nil {
		return nil, err
	}
	fill, err := mapPage[fillPage](os.NewFile(superFillFd, "fill"))
	if err != nil {
		return nil, err
	}
	super, err := mapPage[superPage](os.NewFile(superPageFd, "super"))
	if err != nil {
		return nil, err
	}
	if err := super.checkHead(superMagic); err != nil {
		return nil, err
	}
	v, err := newFreezer(order.Group)
	if err != nil {
		return nil, err
	}
	return &runner{
		gates: gates, raw: make([]uint32, len(gates)), control: control.at, fill: fill.at, super: super.at,
		valve: v, waiter: newFutex(words), mode: order.Mode, cpuBound: order.Device.Kind() == pipefill.KindCPU,
	}, nil
}

// raisePriority lets the loop run when its time comes, whatever runs on the
// core; it runs for some 50 us an opening. Where real time is not allowed the
// nearest thing is taken, and where nothing is, margins grow by themselves.
func raisePriority() {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
}

// calmRuntime leaves the Go runtime's other threads, and those they will start,
// what nobody else wants: its monitor alone wakes up a hundred times a second,
// which was 0.3 % of a core that a main job computes on. The supervisor is a
// session of its own, so that with autogroup the session's niceness counts.
func calmRuntime() {
	_ = os.WriteFile("/proc/self/autogroup", []byte("19"), 0) // not there without autogroup
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil && tid != unix.Gettid() {
			_ = unix.SchedSetAttr(tid, &attr, 0)
		}
	}
}

// watchEvery is how often a living daemon's number is looked at again. Its
// death wakes the watcher at once; each return from a poll costs sixty wake-ups
// of the runtime's monitor, which every 50 ms took 2.4 % of a core.
const watchEvery = 10 * time.Second

// watchDaemon shuts the gate at once when the daemon's process ends, and
// follows the next one: a beat of the page alone would take 200 ms.
func watchDaemon(r *runner) {
	runtime.LockOSThread()
	raisePriority()
	for pid, fd := 0, -1; ; {
		now := int(r.super.DaemonPid.Load())
		if now != pid {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
			var err error
			pid = now
			if fd, err = unix.PidfdOpen(pid, 0); err != nil {
				fd = -1
			}
			// Without pidfd (before Linux 5.3) the beat decides alone.
			r.daemonGone.Store(err == unix.ESRCH)
		}
		if fd < 0 || r.daemonGone.Load() {
			time.Sleep(longestWait) //nolint:forbidigo // nothing can be waited for here
			continue
		}
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds[:], int(watchEvery.Milliseconds())); err == nil && n > 0 {
			r.daemonGone.Store(true)
			for _, g := range r.gates {
				futexWake(&g.main.Word)
			}
		}
	}
}

// superviseCommand is how the daemon starts one.
func superviseArguments(order superviseOrder) ([]string, error) {
	data, err := json.Marshal(order)
	if err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	return []string{"pipefilld", superviseVerb, string(data)}, nil
}

// superviseEnv keeps the runtime out of the loop's way: no collection before
// 64 MiB (it allocates nothing to speak of), no signals for preemption, and a
// processor for the watcher besides the loop's.
func superviseEnv() []string {
	return []string{"GOGC=off", "GOMEMLIMIT=64MiB", "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=2"}
}
