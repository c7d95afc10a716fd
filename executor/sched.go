package executor

import (
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fillSched is how a fill job shares cores with its main job within the gate.
type fillSched string

const (
	// schedIdle: only while the main job does not want the core.
	schedIdle fillSched = "idle"
	// schedNormal: with the main job's own priority; the gate alone keeps the
	// two apart.
	schedNormal fillSched = "normal"
)

// fillSlice is what a fill job of normal priority runs at a time. The kernel's
// default of 3 ms is what a main job that wakes up would wait for at worst;
// from Linux 6.12 on a task may ask for less.
const fillSlice = 100 * time.Microsecond

// apply sets a process and what it will start. It is best effort: without it
// the fill job still stops at its gate. A user cannot take it back: leaving
// SCHED_IDLE needs RLIMIT_NICE.
func (f fillSched) apply(pid int) {
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return
	}
	if f == schedIdle {
		attr.Policy, attr.Nice = unix.SCHED_IDLE, 0
	} else {
		// The same weight; but woken at an opening it does not take the core
		// from the main job, which has only to go on to its receive.
		attr.Policy, attr.Runtime = unix.SCHED_BATCH, uint64(fillSlice)
	}
	_ = unix.SchedSetAttr(pid, attr, 0)
}

// makeIdle makes the fill jobs' groups run only when nothing else wants a
// core. A task's own policy counts within its group only, and sessions are
// groups (autogroup), so that SCHED_IDLE alone would change nothing.
func (g *group) makeIdle() error {
	for _, dir := range []string{filepath.Dir(g.cpu), g.cpu} {
		err := writeFile(filepath.Join(dir, "cpu.idle"), "1")
		if errors.Is(err, fs.ErrNotExist) {
			return nil // before Linux 5.15
		}
		if err != nil {
			return err
		}
	}
	return nil
}
