package executor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// freezer is the valve of a v2 group, through descriptors that stay open. Its
// calls are raw system calls: the Go scheduler must not come between an
// opening and its fill job.
type freezer struct {
	freezeFd, eventsFd, cpuFd int
	buf                       [512]byte
}

var (
	_         valve = (*freezer)(nil)
	one, zero       = [1]byte{'1'}, [1]byte{'0'}
)

func newFreezer(dir string) (*freezer, error) {
	f := &freezer{}
	for _, file := range []struct {
		name string
		flag int
		fd   *int
	}{{"cgroup.freeze", unix.O_WRONLY, &f.freezeFd}, {"cgroup.events", unix.O_RDONLY, &f.eventsFd}, {"cpu.stat", unix.O_RDONLY, &f.cpuFd}} {
		fd, err := unix.Open(filepath.Join(dir, file.name), file.flag|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open freezer: %w", &fs.PathError{Op: "open", Path: filepath.Join(dir, file.name), Err: err})
		}
		*file.fd = fd
	}
	return f, nil
}

func (f *freezer) thaw() error   { return rawWrite(f.freezeFd, &zero) }
func (f *freezer) freeze() error { return rawWrite(f.freezeFd, &one) }

func rawWrite(fd int, b *[1]byte) error {
	_, _, e := unix.RawSyscall6(unix.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Pointer(b)), 1, 0, 0, 0)
	if e == unix.ENODEV || e == 0 {
		return nil // the group is gone: nothing is left to stop
	}
	return e
}

func (f *freezer) read(fd int) []byte {
	n, _, e := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&f.buf)), uintptr(len(f.buf)), 0, 0, 0)
	if e != 0 {
		return nil
	}
	return f.buf[:n]
}

var frozenMark, usageMark = []byte("frozen 1"), []byte("usage_usec ")

// stopped sleeps: on a core that both share, the fill job needs the core to get
// to its stop. The kernel tells of a change, but not more than once in 10 ms.
func (f *freezer) stopped(until int64) bool {
	for {
		events := f.read(f.eventsFd)
		if events == nil || bytes.Contains(events, frozenMark) {
			return true
		}
		left := until - monotonicNs()
		if left <= 0 {
			return false
		}
		// The kernel tells of a change since the last read.
		p := unix.PollFd{Fd: int32(f.eventsFd), Events: unix.POLLPRI}
		ts := unix.NsecToTimespec(left)
		_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	}
}

func (f *freezer) cpuNs() int64 {
	_, after, ok := bytes.Cut(f.read(f.cpuFd), usageMark)
	if !ok {
		return 0
	}
	var usec int64
	for _, c := range after {
		if c < '0' || c > '9' {
			break
		}
		usec = usec*10 + int64(c-'0')
	}
	return usec * 1000
}

func (f *freezer) close() error {
	return errors.Join(unix.Close(f.freezeFd), unix.Close(f.eventsFd), unix.Close(f.cpuFd))
}

// futex waits on the words of main pages.
type futex struct {
	words  []*atomic.Uint32
	vector []futexWaitv // of several
	lacks  bool         // the kernel waits on one only
}

var _ waiter = (*futex)(nil)

// futexWaitv is the kernel's struct futex_waitv.
type futexWaitv struct {
	value, address uint64
	flags, _       uint32
}

func newFutex(words []*atomic.Uint32) *futex {
	f := &futex{words: words}
	for _, w := range words {
		f.vector = append(f.vector, futexWaitv{address: uint64(uintptr(unsafe.Pointer(w))), flags: futexSizeU32})
	}
	return f
}

const (
	sysFutexWaitv = 449 // on all architectures, from Linux 5.16 on
	futexSizeU32  = 2
	// How often several gates are looked at where the kernel waits on one.
	lookAtAll = time.Millisecond

	futexWakeOp       = 1
	futexWaitBitset   = 9 // its time-out is absolute, of CLOCK_MONOTONIC
	futexBitsetAny    = 0xffffffff
	futexWakeEveryone = 1<<31 - 1
)

func (f *futex) nowNs() int64 { return monotonicNs() }

func (f *futex) wait(values []uint32, until int64) {
	if len(f.words) > 1 {
		f.waitAll(values, until)
		return
	}
	f.waitOne(0, values[0], until)
}

func (f *futex) waitOne(i int, value uint32, until int64) {
	ts := unix.NsecToTimespec(max(until, 0))
	// Not private: the main job is another process. EINTR, EAGAIN and the
	// time-out all mean the same: look again.
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(f.words[i])), futexWaitBitset,
		uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, futexBitsetAny)
}

// waitAll waits on several words. An older kernel waits on one: the first that
// is shut, without which the gate stays shut; while all are open, any may shut.
func (f *futex) waitAll(values []uint32, until int64) {
	if !f.lacks {
		for i := range f.vector {
			f.vector[i].value = uint64(values[i])
		}
		ts := unix.NsecToTimespec(max(until, 0))
		_, _, e := unix.RawSyscall6(sysFutexWaitv, uintptr(unsafe.Pointer(&f.vector[0])), uintptr(len(f.vector)), 0,
			uintptr(unsafe.Pointer(&ts)), unix.CLOCK_MONOTONIC, 0)
		if f.lacks = e == unix.ENOSYS || e == unix.EPERM; !f.lacks {
			return
		}
	}
	for i, v := range values {
		if v&wordOpen == 0 {
			f.waitOne(i, v, until)
			return
		}
	}
	f.waitOne(0, values[0], min(until, f.nowNs()+int64(lookAtAll)))
}

func futexWake(word *atomic.Uint32) {
	_, _, _ = unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, futexWakeEveryone)
}
