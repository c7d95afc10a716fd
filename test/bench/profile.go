package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const profileUser = "pf_train" // packaging/setup makes it

// profileMains are the main jobs of profile: 2 bubbles an iteration, half of the
// time, all of two minutes.
var profileMains = []struct{ iterations, ms int }{{1500, 20}, {170, 180}}

// profile holds a fill profile against the chunks that run in bubbles later: a
// transformer's inference is measured alone, and runs under pipefill-cli try.
func (b *bench) profile(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "pipefill-profile-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// The main and the fill job's user reads and writes there.
	if err := os.Chmod(dir, 0o777); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	for from, to := range map[string]string{
		filepath.Join(b.root, "engine"):                         "engine",
		filepath.Join(b.root, "test/slurm/testdata/bubbles.py"): "bubbles.py",
		filepath.Join(b.build, "libpipefill.so"):                "libpipefill.so",
	} {
		if err := b.shell(ctx, "cp", "-r", from, filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	python := "/usr/bin/python3 " + filepath.Join(dir, "engine/tests/measure_profile.py")
	profile := filepath.Join(dir, "profile.json")
	if err := b.shell(ctx, "taskset", "-c", "1", "/bin/sh", "-c", python+" profile "+profile); err != nil {
		return err
	}
	library := filepath.Join(dir, "libpipefill.so")
	for _, m := range profileMains {
		log := filepath.Join(dir, fmt.Sprintf("chunks-%d", m.ms))
		err := b.shell(ctx, filepath.Join(b.build, "pipefill-cli"), "try", "--dir", filepath.Join(dir, fmt.Sprintf("run-%d", m.ms)), "--user", profileUser,
			"--device", "cpu:1", "--mode", "chunked", "--options", "budget=50%", "--set", "min_ms=1",
			"--main", fmt.Sprintf("/usr/bin/python3 %s/bubbles.py %s %d %d %d", dir, library, m.iterations, m.ms, m.ms),
			"--fill", fmt.Sprintf("PIPEFILL_LIBRARY=%s %s run %s %s", library, python, profile, log))
		if err == nil {
			err = b.rowsOf(ctx, "/bin/sh", "-c", fmt.Sprintf("%s report %s %d", python, log, m.ms))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shell runs a command that prints nothing to be kept.
func (b *bench) shell(ctx context.Context, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
	}
	return nil
}
