package lease

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pipefill"
)

// short are for tests, in the proportions of the usual.
var short = times{beat: 100 * time.Millisecond, fence: 600 * time.Millisecond, takeover: time.Second}

// TestMain lets this program be a controller too: PIPEFILL_LEASE names the
// folder. It says when it holds the lease and when it has lost it, and writes a
// line to the file acts whenever it may act.
func TestMain(m *testing.M) {
	dir := os.Getenv("PIPEFILL_LEASE")
	if dir == "" {
		os.Exit(m.Run())
	}
	log := slog.New(slog.DiscardHandler)
	l, err := take(context.Background(), dir, os.Getenv("PIPEFILL_STANDBY") != "", short, log)
	if err != nil {
		fmt.Println("refused:", err)
		os.Exit(4)
	}
	fmt.Println("holds", l.Generation())
	lost := make(chan error, 1)
	go func() { lost <- l.Keep(context.Background()) }()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case err := <-lost:
			fmt.Println("lost:", err)
			os.Exit(0)
		case <-tick.C:
		}
		if l.Held() == nil {
			line := fmt.Sprintf("%d %d\n", l.Generation(), time.Now().UnixNano())
			file, err := os.OpenFile(filepath.Join(dir, "acts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err == nil {
				_, _ = file.WriteString(line)
				_ = file.Close()
			}
		}
	}
}

type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	said chan string
}

// start starts a controller; away puts it where its processes cannot be seen
// from here, as on another host.
func start(t *testing.T, dir string, standby, away bool) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "PIPEFILL_LEASE="+dir)
	if standby {
		cmd.Env = append(cmd.Env, "PIPEFILL_STANDBY=1")
	}
	if away {
		if os.Geteuid() != 0 {
			t.Skip("needs root, to make a process namespace")
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t, cmd, make(chan string, 10)}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.said <- lines.Text()
		}
		close(p.said)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// says waits for a line.
func (p *process) says(want string) {
	p.t.Helper()
	select {
	case line := <-p.said:
		if !strings.HasPrefix(line, want) {
			p.t.Fatalf("it says %q, want %q", line, want)
		}
	case <-time.After(30 * time.Second):
		p.t.Fatalf("it does not say %q", want)
	}
}

func (p *process) silent(d time.Duration) {
	p.t.Helper()
	select {
	case line := <-p.said:
		p.t.Fatalf("it says %q", line)
	case <-time.After(d):
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// checkActs holds that no generation acted after a later one had.
func checkActs(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "acts"))
	if err != nil {
		t.Fatal(err)
	}
	latest, at, generations := int64(0), int64(0), map[int64]int{}
	for line := range strings.Lines(string(text)) {
		var generation, ns int64
		if _, err := fmt.Sscan(line, &generation, &ns); err != nil {
			t.Fatal(err)
		}
		if generation < latest || ns < at && generation != latest {
			t.Errorf("generation %d acts after %d", generation, latest)
		}
		latest, at = generation, ns
		generations[generation]++
	}
	if len(generations) < 2 {
		t.Errorf("who acted: %v", generations)
	}
}

func TestLease_ASecondIsRefusedWhileTheFirstLives(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, false, false)
	first.says("holds 1")
	second := start(t, dir, false, false)
	second.says(fmt.Sprintf("refused: %s is used by another pipefillctld, process %d on ", dir, first.cmd.Process.Pid))
	first.silent(2 * short.beat) // long enough to act
	first.kill()
	third := start(t, dir, false, false)
	third.says("holds 2") // at once: there is no such process any more
	third.silent(2 * short.beat)
	checkActs(t, dir)
}

func TestLease_AStandbyFollowsTheKilled(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, true, false)
	first.says("holds 1")
	standby := []*process{start(t, dir, true, false), start(t, dir, true, false)}
	standby[0].silent(2 * short.takeover)
	standby[1].silent(time.Millisecond)
	first.kill()
	next := 0
	select {
	case line := <-standby[0].said:
		if line != "holds 2" {
			t.Fatal(line)
		}
	case line := <-standby[1].said:
		next = 1
		if line != "holds 2" {
			t.Fatal(line)
		}
	}
	standby[1-next].silent(2 * short.takeover) // only one of them
	standby[next].kill()
	standby[1-next].says("holds 3")
	checkActs(t, dir)
}

// Of another host only the heartbeat can be seen. One that stops for a while and
// goes on must have done nothing since the other began.
func TestLease_OneThatFreezesIsFenced(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, true, true)
	first.says("holds 1")
	refused := start(t, dir, false, false)
	refused.says("refused: ")
	standby := start(t, dir, true, false)
	standby.silent(2 * short.takeover)
	first.signal(syscall.SIGSTOP)
	standby.says("holds 2")
	first.signal(syscall.SIGCONT)
	first.says("lost: ")
	standby.silent(short.takeover)
	checkActs(t, dir)
}

// A holder that cannot write its heartbeat stops by itself, before another
// begins.
func TestLease_WithoutTheDirectoryItStops(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := take(t.Context(), dir, false, short, slog.New(slog.DiscardHandler))
	if err != nil || l.Held() != nil {
		t.Fatal(err, l.Held())
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := l.Keep(t.Context()); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("%v", err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if l.Held() == nil || l.renew() == nil {
		t.Error("it acts again")
	}
}

func TestLease_Release(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	for generation := range int64(3) {
		l, err := take(t.Context(), dir, false, short, log)
		if err != nil || l.Generation() != generation+1 {
			t.Fatal(err)
		}
		if err := l.Release(); err != nil || l.Held() == nil {
			t.Fatalf("released: %v", err)
		}
	}
	left, err := filepath.Glob(dir + "/*")
	if err != nil || len(left) != 1 {
		t.Errorf("left %q, %v", left, err)
	}
}

func TestLease_ADamagedRecordIsNotTakenForNone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, leaseFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := take(t.Context(), dir, true, short, slog.New(slog.DiscardHandler)); pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Errorf("%v", err)
	}
}
