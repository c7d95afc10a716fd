package lease

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the kernel's clock that no one sets and that goes on in sleep.
func boottime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // it is there since Linux 2.6.39
	}
	return time.Duration(now.Nano())
}

// thisProcess names this process so that no other has the name.
func thisProcess() (holder, error) {
	host, err := os.Hostname()
	if err != nil {
		return holder{}, fmt.Errorf("host name: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return holder{}, fmt.Errorf("boot id: %w", err)
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return holder{}, fmt.Errorf("pid namespace: %w", err)
	}
	started, err := startOf(os.Getpid())
	return holder{Host: host, Boot: strings.TrimSpace(string(boot)), Namespace: namespace, PID: os.Getpid(), Started: started}, err
}

// startOf is when a process started; "" where there is none, or it has ended and
// nobody has waited for it.
func startOf(pid int) (string, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if os.Getpid() == pid {
			return "", fmt.Errorf("own process: %w", err)
		}
		return "", nil
	}
	// The name, in brackets, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const state, start = 0, 19
	if len(fields) <= start || fields[state] == "Z" || fields[state] == "X" {
		return "", nil
	}
	return fields[start], nil
}

type life int

const (
	unknown life = iota // of another kernel, or not to be seen
	alive
	dead
)

// alive looks a holder up among the processes of this kernel.
func (h holder) alive() life {
	if h.PID == 0 {
		return dead // it has released the lease
	}
	self, err := thisProcess()
	if err != nil || h.Boot != self.Boot {
		return unknown
	}
	if h.Namespace != self.Namespace {
		return unknown
	}
	if started, err := startOf(h.PID); err != nil || started != h.Started {
		return dead
	}
	return alive
}
