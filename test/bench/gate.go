package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// gate runs the two programs that time the gate itself; each prints rows.
func (b *bench) gate(ctx context.Context) error {
	commands := [][]string{
		{filepath.Join(b.build, "bench_gate")},
		{"/usr/bin/python3", filepath.Join(b.root, "engine/tests/bench_bubble.py"), filepath.Join(b.build, "libpipefill.so")},
	}
	for _, command := range commands {
		if err := b.rowsOf(ctx, command...); err != nil {
			return err
		}
	}
	return nil
}

// engines runs the hooks on real engines, in build/engines, and prints docs/engines.md's tables beside.
func (b *bench) engines(ctx context.Context) error {
	prepare := exec.CommandContext(ctx, filepath.Join(b.root, "packaging/engines"))
	prepare.Stdout, prepare.Stderr = os.Stderr, os.Stderr
	if err := prepare.Run(); err != nil {
		return fmt.Errorf("packaging/engines: %w", err)
	}
	return b.rowsOf(ctx, "/usr/bin/python3", filepath.Join(b.root, "engine/tests/engines/report.py"), "--json",
		"--plot", filepath.Join(b.build, "engines.svg"))
}

// rowsOf runs a command that prints rows, and adds them.
func (b *bench) rowsOf(ctx context.Context, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
	}
	var rows []row
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var r row
		if err := decoder.Decode(&r); err != nil {
			return fmt.Errorf("%s: %w", command[0], err)
		}
		if r.Target != nil && r.Met == nil {
			r.aim(*r.Target, r.Value <= *r.Target)
		}
		rows = append(rows, r)
	}
	return b.add(rows...)
}
