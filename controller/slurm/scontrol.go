package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"pipefill"
)

// scontrol runs Slurm's own tool for what slurmrestd cannot do: pin a job to a
// node, write the administrator's comment, requeue. A call takes 10-20 ms.
type scontrol struct {
	name    string // scontrol, or sacctmgr
	path    string
	conf    string
	timeout time.Duration
	observe func(call string, took time.Duration, err error)
}

func (s scontrol) run(ctx context.Context, args ...string) error {
	_, err := s.ask(ctx, args...)
	return err
}

// ask is run, for what scontrol says, also where it fails.
func (s scontrol) ask(ctx context.Context, args ...string) (said string, err error) {
	begin := time.Now() //nolint:forbidigo // how long a call takes, and no decision
	said, err = s.start(ctx, args...)
	s.observe(s.name+" "+verbOf(args), time.Since(begin), err)
	return said, err
}

// start gives scontrol its arguments as they are; no shell sees them.
func (s scontrol) start(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.path, args...) //nolint:gosec // the arguments are checked by act.go, and no shell sees them
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SLURM_TIME_FORMAT=standard")
	if s.conf != "" {
		cmd.Env = append(cmd.Env, "SLURM_CONF="+s.conf)
	}
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if err == nil {
		return said.String(), nil
	}
	if ctx.Err() != nil {
		return "", pipefill.Errorf(pipefill.CodeUnavailable, "%s %s: no answer in %s: %w; is slurmctld running?", s.name, verbOf(args), s.timeout, ctx.Err())
	}
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		return "", pipefill.Errorf(pipefill.CodeUnavailable, "%s cannot be run: %w; install Slurm's client programs", s.name, err)
	}
	return said.String(), refusedBy(s.name+" "+verbOf(args), said.String())
}

// verbOf is the first argument that is no option.
func verbOf(args []string) string {
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			return arg
		}
	}
	return ""
}

func refusedBy(verb, said string) error {
	said = strings.Join(strings.Fields(said), " ")
	code := pipefill.CodeUnavailable
	for _, known := range [...]struct {
		text string
		code pipefill.Code
	}{
		{"Invalid job id", pipefill.CodeNotFound},
		{"ccess/permission denied", pipefill.CodeDenied},
		{"User not found", pipefill.CodeDenied},
		{"already completing or completed", pipefill.CodeConflict},
		{"already finished", pipefill.CodeConflict},
		{"no longer pending", pipefill.CodeConflict},
		{"is pending execution", pipefill.CodeConflict},
		{"presently disabled", pipefill.CodeConflict},
		{"Transition to job state", pipefill.CodeConflict},
		{"Invalid node name", pipefill.CodeInvalid},
		{"not available", pipefill.CodeConflict},
	} {
		if strings.Contains(said, known.text) {
			code = known.code
			break
		}
	}
	return &pipefill.Error{Code: code, Message: fmt.Sprintf("%s: %.300s", verb, said)}
}
