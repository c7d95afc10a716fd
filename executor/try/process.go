package try

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
)

// held runs a command that waits before its first step, until it is let go:
// the daemon must have its process in the right group by then.
type held struct {
	cmd  *exec.Cmd
	gate *os.File
}

// waits is what the shell does first: descriptor 3 says go, its end says no.
const waits = `read -r _ <&3 || exit 1; exec 3<&-; exec /bin/sh -c "$1"`

// hold starts a command as the user, waiting.
func hold(command string, user User, environ []string) (*held, error) {
	in, gate, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	// Its life is the daemon's and the context's of Run, which ends it itself.
	cmd := exec.Command("/bin/sh", "-c", waits, "pipefill-try", command) //nolint:noctx,gosec // see above; the command is the caller's own
	cmd.Env, cmd.ExtraFiles = environ, []*os.File{in}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 && user.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user.UID, Gid: user.GID, Groups: user.Groups}
	}
	return &held{cmd, gate}, nil
}

func (h *held) start() error {
	err := h.cmd.Start()
	_ = h.cmd.ExtraFiles[0].Close()
	if err != nil {
		_ = h.gate.Close()
		return fmt.Errorf("start %q: %w", h.cmd.Args[len(h.cmd.Args)-1], err)
	}
	return nil
}

// let lets it go; without it, refuse.
func (h *held) let() error {
	_, err := h.gate.WriteString("go\n")
	if err := errors.Join(err, h.gate.Close()); err != nil {
		return fmt.Errorf("let process go: %w", err)
	}
	return nil
}

func (h *held) refuse() { _ = h.gate.Close() }

// wait returns the wait status.
func (h *held) wait() (unix.WaitStatus, error) {
	err := h.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("wait: %w", err)
	}
	status, ok := h.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return 0, errors.New("no wait status")
	}
	return unix.WaitStatus(status), nil
}

// end sends a signal to it and to all that it started and left in its group.
func (h *held) end(sig syscall.Signal) { _ = syscall.Kill(-h.cmd.Process.Pid, sig) }

func exitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// with sets NAME=VALUE pairs in an environment.
func with(environ []string, pairs ...string) []string {
	out := slices.Clone(environ)
	for _, pair := range pairs {
		name, _, _ := strings.Cut(pair, "=")
		out = slices.DeleteFunc(out, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		out = append(out, pair)
	}
	return out
}

// startDaemon starts the stand-in for pipefillctld and pipefilld, and returns
// once the daemon has called.
func (r *run) startDaemon(ctx context.Context) (stop func(), err error) {
	if err := r.prepare(); err != nil {
		return nil, err
	}
	stopServer, err := r.serve(ctx)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(r.logFile(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		stopServer()
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(r.Daemon, "--config", r.configFile()) //nolint:noctx,gosec // stopped below, after its jobs; the program is the caller's
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for the main job
	if err := cmd.Start(); err != nil {
		stopServer()
		return nil, fmt.Errorf("start pipefilld: %w", err)
	}
	died := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(died)
	}()
	stop = func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		<-died
		stopServer()
	}
	for !r.sawNode() {
		select {
		case <-died:
			stopServer()
			return nil, pipefill.Errorf(pipefill.CodeUnavailable, "pipefilld did not start: %s", r.lastOfLog())
		case <-ctx.Done():
			stop()
			return nil, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
	return stop, nil
}

// lastOfLog is the daemon's last word.
func (r *run) lastOfLog() string {
	data, err := os.ReadFile(r.logFile())
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if err != nil || lines[len(lines)-1] == "" {
		return "see " + r.logFile()
	}
	return strings.TrimPrefix(lines[len(lines)-1], "pipefilld: ")
}
