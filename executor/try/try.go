// Package try runs a main job and fill jobs on this machine under a real
// pipefilld, without Slurm: it tells the daemon what the SPANK plugin and
// pipefillctld would. For a first look, a workstation, and for measuring.
//
// It starts processes and decides nothing about gates, bubbles or usage: that
// is the daemon's.
package try

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/measure"
)

// Config is what is run.
type Config struct {
	Main    string              // a shell command
	Fills   []string            // shell commands, assigned in this order
	Devices []pipefill.DeviceID // what the main job's ranks compute on, in their order
	Mode    pipefill.Mode       // of all fill jobs
	Profile *plan.Profile       // of all fill jobs, which follow its plan; nil: none
	Options string              // of the main job's --pipefill
	Lines   []string            // of pipefilld.yaml, as "guard_ms: 0"
	Daemon  string              // the program pipefilld
	Dir     string              // an empty folder of root's, for sockets, state, traces and the fill jobs' output
	User    User
	Environ []string // of main and fill jobs
	Python  string   // folder of the hooks' sitecustomize.py; "" hooks nothing
	Limit   time.Duration
	Alone   int // runs of each completed fill command alone, afterwards; for the useful share

	Stdout, Stderr io.Writer // the main job's
	Say            func(format string, args ...any)
	Now            func() time.Time
}

// User is whom main and fill jobs run as.
type User struct {
	Name     string
	UID, GID uint32
	Groups   []uint32
}

// Fill is how a fill job fared.
type Fill struct {
	Job      int64             `json:"job_id"`
	Command  string            `json:"command"`
	Device   pipefill.DeviceID `json:"device"` // "" while it waits
	State    string            `json:"state"`  // waiting, an assignment's state, or an outcome
	Reason   string            `json:"reason"`
	ExitCode int               `json:"exit_code"`
	DeviceNs int64             `json:"device_ns"` // charged
	CPUNs    int64             `json:"cpu_ns"`
	Output   string            `json:"output"` // a file
}

// Result is a run.
type Result struct {
	measure.Report
	Fills    []Fill `json:"fills"`
	MainExit int    `json:"main_exit"`
	// Announced tells that bubbles are those announced: the main job wrote no
	// trace of its own (docs/traces.md).
	Announced bool `json:"announced"`
}

// cluster, node and the partition's name are what the daemon is told.
const (
	cluster   = "try"
	node      = "try"
	partition = "try"
	mainJob   = 1
)

// run is one run under way.
type run struct {
	Config
	*controller
	group sync.WaitGroup // fill jobs
}

// Run runs the main job to its end, with fill jobs in its bubbles. A main job
// that fails is no error: see Result.MainExit. Cancelling ctx ends the main job.
func Run(ctx context.Context, cfg Config) (Result, error) {
	r := &run{Config: cfg, controller: newController(cfg)}
	stopDaemon, err := r.startDaemon(ctx)
	if err != nil {
		return Result{}, err
	}
	mainExit, err := r.runMain(ctx)
	if err == nil {
		err = r.drain()
	}
	stopDaemon()
	if err != nil {
		return Result{}, err
	}
	r.group.Wait()
	result := Result{Fills: r.fills(), MainExit: mainExit}
	useful := r.alone(ctx, result.Fills)
	result.Report, result.Announced, err = figures(cfg, result.Fills, useful)
	return result, err
}

// figures computes the report: from the ranks' own traces where they wrote any
// into Dir, else from what they announced.
func figures(cfg Config, fills []Fill, usefulSeconds float64) (measure.Report, bool, error) {
	counts := measure.FillJobCounts{Submitted: len(fills)}
	for _, f := range fills {
		switch pipefill.Outcome(f.State) {
		case pipefill.OutcomeCompleted:
			counts.Completed++
		case pipefill.OutcomeFailed, pipefill.OutcomeLost:
			counts.Failed++
		case pipefill.OutcomeCancelled, pipefill.OutcomeEvicted:
		}
	}
	var devices []string
	for _, d := range cfg.Devices {
		devices = append(devices, string(d))
	}
	announced := false
	traces, err := measure.ReadTraces(cfg.traceDir())
	if err != nil {
		announced = true
		traces, err = measure.ReadAnnounced(cfg.traceDir(), devices)
	}
	if err != nil {
		return measure.Report{FillJobs: counts}, announced, err
	}
	report, err := measure.Compute(traces, usefulSeconds, counts)
	return report, announced, err
}

func (cfg Config) traceDir() string { return filepath.Join(cfg.Dir, "trace") }
func (cfg Config) runDir() string   { return filepath.Join(cfg.Dir, "run") }
func (cfg Config) output(job int64) string {
	return filepath.Join(cfg.Dir, fmt.Sprintf("fill-%d.out", job))
}

// prepare makes the folder's contents: what users must enter is theirs to
// enter, and the traces' folder everybody's to write, as the ranks may.
func (cfg Config) prepare() error {
	for path, mode := range map[string]os.FileMode{cfg.Dir: 0o755, cfg.runDir(): 0o755, cfg.traceDir(): 0o777 | os.ModeSticky} {
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode)); err != nil { //nolint:gosec // entered by the jobs' user
			return fmt.Errorf("make folder: %w", err)
		}
	}
	lines := []string{
		"node: " + node, "cluster: " + cluster, "run_dir: " + cfg.runDir(), "state_dir: " + filepath.Join(cfg.Dir, "state"),
		"controller: unix:" + cfg.controllerSocket(), "trace_dir: " + cfg.traceDir(), "devices:",
	}
	for _, d := range cfg.Devices {
		lines = append(lines, fmt.Sprintf("  - device: %q", string(d)))
	}
	text := strings.Join(append(lines, cfg.Lines...), "\n") + "\n"
	if err := os.WriteFile(cfg.configFile(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func (cfg Config) controllerSocket() string { return filepath.Join(cfg.Dir, "controller.sock") }
func (cfg Config) configFile() string       { return filepath.Join(cfg.Dir, "pipefilld.yaml") }
