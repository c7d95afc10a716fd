package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
)

var errKilled = errors.New("killed")

// mortal is the disk of a daemon that dies before or after one of its writes.
type mortal struct {
	mu    sync.Mutex
	steps int
	at    int           // the step at which it dies; 0: never
	died  chan struct{} // closed then
}

func (m *mortal) step() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps++
	if m.at > 0 && m.steps == m.at {
		close(m.died)
	}
	if m.at > 0 && m.steps >= m.at {
		return errKilled
	}
	return nil
}

func (m *mortal) around(write func() error) error {
	if err := m.step(); err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	return m.step()
}

func (m *mortal) replace(path string, data []byte) error {
	return m.around(func() error { return disk{}.replace(path, data) })
}

func (m *mortal) put(path string, data []byte) error {
	return m.around(func() error { return disk{}.put(path, data) })
}

func (m *mortal) add(f *os.File, data []byte) error {
	return m.around(func() error { return disk{}.add(f, data) })
}

func (m *mortal) remove(path string) error {
	return m.around(func() error { return disk{}.remove(path) })
}

// startMortal is start with a disk that dies; killed waits for what kill -9
// leaves: closed sockets and a free lock.
func (s *site) startMortal(t *testing.T, m *mortal) (killed func()) {
	t.Helper()
	d, err := newDaemon(s.cfg, slog.New(slog.NewTextHandler(testWriter{t}, nil)), s.fakeController, m)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.serve(ctx) }()
	var once sync.Once
	end := func() {
		once.Do(func() {
			cancel()
			t.Logf("killed: %v", <-done) // of the disk that died
			for _, server := range d.sockets {
				_ = server.listener.Close()
			}
			_ = d.lock.Close()
			s.forgetWhatTheDeadDid(t)
		})
	}
	t.Cleanup(end)
	return func() { <-m.died; end() }
}

// forgetWhatTheDeadDid waits for the supervisor of a fill job that the daemon
// took back after its disk had died, as a killed one could not have.
func (s *site) forgetWhatTheDeadDid(t *testing.T) {
	var r fillRecord
	if err := readRecord(filepath.Join(s.cfg.StateDir, "assignment-7.json"), &r); err != nil {
		return
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified/" + s.cfg.groups + "/assignment_7"); err != nil {
		within(t, 5*time.Second, "its supervisor to end", func() bool { return !r.Supervisor.alive() })
	}
}

// try asks the plugin's question; "" where nobody answers.
func (s *site) try(t *testing.T, verb string, keys ...string) string {
	t.Helper()
	text, _, err := tryAsk(filepath.Join(s.cfg.RunDir, "attach.sock"), "pipefill 1 "+verb+"\ncluster=test\nuid=0\n"+strings.Join(keys, "\n")+"\n")
	if err != nil || strings.HasPrefix(text, "error") {
		return ""
	}
	return text
}

// TestDaemon_KilledAroundEveryWrite kills the daemon before and after each of
// its durable writes, one at a time: the fill job still completes once, and is
// charged what it ran.
func TestDaemon_KilledAroundEveryWrite(t *testing.T) {
	for at := 1; ; at++ {
		steps := 0
		t.Run(fmt.Sprintf("at step %d", at), func(t *testing.T) { steps = killedAt(t, at) })
		if t.Failed() {
			return
		}
		if steps < at {
			if at < 12 {
				t.Errorf("only %d steps to be killed at", at)
			}
			return
		}
	}
}

// killedAt runs a fill job with the daemon killed at a step, and returns how
// many steps its disk saw.
func killedAt(t *testing.T, at int) int {
	s := newSite(t)
	s.stop() // the good daemon comes back when the mortal one is dead
	m := &mortal{at: at, died: make(chan struct{})}
	killed := s.startMortal(t, m)
	var back sync.Once
	alive := func() { // brings the next daemon up once this one is dead
		select {
		case <-m.died:
			back.Do(func() { killed(); s.start(t) })
		default:
		}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		within(t, 20*time.Second, what, func() bool { alive(); return ok() })
	}
	// What a daemon says once its disk is dead nobody would have heard.
	replaced := false
	try := func(verb string, keys ...string) string {
		text := s.try(t, verb, keys...)
		select {
		case <-m.died:
			if !replaced {
				replaced = true
				return ""
			}
		default:
		}
		return text
	}
	until("the main job to attach", func() bool { return strings.HasPrefix(try("main", mainKeys, "tasks=1", "options="), "ok") })
	var main *page[mainPage]
	until("its page", func() bool {
		if try("main", mainKeys, "tasks=1", "options=") == "" {
			return false
		}
		text, files, err := s.askAsMain(t, 100)
		if err != nil || !strings.HasPrefix(text, "ok") || len(files) != 2 {
			return false
		}
		_ = files[1].Close()
		main, err = mapPage[mainPage](files[0])
		return err == nil
	})
	t.Cleanup(main.close)
	stop := bubbles(t, main.at)
	s.assign(7)
	until("the fill job to attach", func() bool {
		return strings.HasPrefix(try("fill", fillKeys, "pid=1", "partition=pipefill", "options="), "ok")
	})
	sc := s.script(t, 200, "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exit 0")
	until("its task to be taken", func() bool {
		return try("task", fillKeys, fmt.Sprintf("pid=%d", sc.cmd.Process.Pid)) == "ok\n"
	})
	sc.goOn(t)
	ended := make(chan error, 1)
	go func() { ended <- sc.cmd.Wait() }()
	over := false
	until("the script to end", func() bool {
		select {
		case err := <-ended:
			over = true
			if err != nil {
				t.Errorf("the script: %v", err)
			}
		default:
		}
		return over
	})
	until("its end to be taken", func() bool { return try("leave", fillKeys, "status=0") == "ok\n" })
	until("its end to be told", func() bool { return s.assignment().State == pipefill.AssignmentEnded })
	if a := s.assignment(); a.Outcome != pipefill.OutcomeCompleted {
		t.Errorf("outcome %s (%s)", a.Outcome, a.Reason)
	}
	ran := sc.cmd.ProcessState.UserTime() + sc.cmd.ProcessState.SystemTime()
	until("its usage to be told", func() bool { return s.used().CPUNs >= int64(ran)*8/10 })
	// On this core it ran when its gate was open: CPU time is device time.
	if used := s.used(); used.DeviceNs < int64(ran)*7/10 || used.Openings == 0 {
		t.Errorf("charged %d us of device time in %d openings, ran %d us", used.DeviceNs/1000, used.Openings, ran.Microseconds())
	}
	if used := s.used(); used.CPUNs > int64(ran)*11/10+2e6 {
		t.Errorf("charged %d us of CPU time, ran %d us", used.CPUNs/1000, ran.Microseconds())
	}
	s.order(func(o *api.NodeOrders) { o.Assignments, o.Forget = nil, []int64{7} })
	until("it to be forgotten", func() bool { return s.assignment().ID == 0 })
	stop()
	// Killed after its answer, the daemon has to find out by itself, which it
	// does where no process has the pages mapped, as this one has.
	until("the slot to vanish", func() bool { try("leave", mainKeys, "status=0"); return len(s.sync().Mains) == 0 })
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}
