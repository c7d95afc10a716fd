package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The main job of profile: 2 bubbles an iteration, half of the time.
const (
	profileIterations = "1500"
	profileComputeMs  = "20"
	profileBubbleMs   = "20"
	profileUser       = "pf_train" // packaging/setup makes it
)

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
	profile, log := filepath.Join(dir, "profile.json"), filepath.Join(dir, "chunks")
	if err := b.shell(ctx, "taskset", "-c", "1", "/bin/sh", "-c", python+" profile "+profile); err != nil {
		return err
	}
	library := filepath.Join(dir, "libpipefill.so")
	err = b.shell(ctx, filepath.Join(b.build, "pipefill-cli"), "try", "--dir", filepath.Join(dir, "run"), "--user", profileUser, "--device", "cpu:1",
		"--mode", "chunked", "--options", "budget=50%", "--set", "min_ms=1",
		"--main", fmt.Sprintf("/usr/bin/python3 %s/bubbles.py %s %s %s %s", dir, library, profileIterations, profileComputeMs, profileBubbleMs),
		"--fill", fmt.Sprintf("PIPEFILL_LIBRARY=%s %s run %s %s", library, python, profile, log))
	if err != nil {
		return err
	}
	return b.rowsOf(ctx, "/bin/sh", "-c", python+" report "+log)
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
