package try

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
)

const (
	pollEvery = 20 * time.Millisecond
	sayEvery  = 5 * time.Second
	// What a main job gets between SIGTERM and SIGKILL.
	mainGrace = 10 * time.Second
	// What fill jobs get to be gone after the main job: the daemon's grace of
	// two seconds, and room.
	fillsGone = 20 * time.Second
)

func (cfg Config) logFile() string { return cfg.Dir + "/pipefilld.log" }

// runMain runs the main job to its end and starts fill jobs meanwhile.
func (r *run) runMain(ctx context.Context) (exit int, err error) {
	var devices []string
	for _, d := range r.Devices {
		devices = append(devices, string(d))
	}
	environ := with(r.Environ, "PIPEFILL_DIR="+r.runDir(), "PIPEFILL_ROLE=main", "PIPEFILL_DEVICES="+strings.Join(devices, " "))
	if r.Python != "" {
		environ = with(environ, "PYTHONPATH="+lead(r.Python, environ))
	}
	h, err := hold(r.Main, r.User, environ)
	if err != nil {
		return 0, err
	}
	h.cmd.Stdout, h.cmd.Stderr = r.Stdout, r.Stderr
	if err := h.start(); err != nil {
		return 0, err
	}
	status, answer, err := r.ask("main", jobKey(mainJob), "tasks=1", "pid="+fmt.Sprint(h.cmd.Process.Pid), "options="+r.Options)
	if err == nil && (status != "ok" || answer["devices"] != strings.Join(devices, " ")) {
		err = pipefill.Errorf(pipefill.CodeUnavailable, "pipefilld gave the main job %q: see %s", answer["devices"], r.logFile())
	}
	if err != nil {
		h.refuse()
		_, _ = h.wait()
		return 0, err
	}
	if err := h.let(); err != nil {
		return 0, err
	}
	ended := make(chan unix.WaitStatus, 1)
	go func() {
		status, err := h.wait()
		if err != nil {
			r.Say("main job: %v", err)
		}
		ended <- status
	}()
	wait := r.watch(ctx, h, ended)
	h.end(syscall.SIGKILL) // what it left running, as Slurm would
	r.finish()
	_, _, err = r.ask("leave", jobKey(mainJob), fmt.Sprintf("status=%d", int(wait)))
	return exitCode(wait), err
}

func lead(dir string, environ []string) string {
	for _, pair := range environ {
		if have, ok := strings.CutPrefix(pair, "PYTHONPATH="); ok && have != "" {
			return dir + ":" + have
		}
	}
	return dir
}

// watch starts fill jobs as they are assigned, until the main job has ended.
func (r *run) watch(ctx context.Context, h *held, ended <-chan unix.WaitStatus) unix.WaitStatus {
	say := time.NewTicker(sayEvery)
	defer say.Stop()
	var kill, limit <-chan time.Time
	if r.Limit > 0 {
		limit = time.After(r.Limit)
	}
	begin := r.Now()
	stop := func() {
		h.end(syscall.SIGTERM)
		kill = time.After(mainGrace)
	}
	cancelled := ctx.Done()
	for {
		select {
		case status := <-ended:
			return status
		case id := <-r.ready:
			r.group.Go(func() { r.runFill(id) })
		case <-say.C:
			r.Say("%4.0f s: %s", r.Now().Sub(begin).Seconds(), r.status())
		case <-limit:
			limit = nil
			r.Say("the time is up: the main job is told to end")
			stop()
		case <-cancelled:
			cancelled = nil
			stop()
		case <-kill:
			h.end(syscall.SIGKILL)
		}
	}
}

// runFill takes a fill job from its step's start to its end, as slurmstepd
// with the plugin would.
func (r *run) runFill(id int64) {
	if err := r.stepFill(id); err != nil {
		r.failed(id, err)
	}
}

func (r *run) stepFill(id int64) error {
	options := "options=fill,mode=" + string(r.Mode)
	status, answer, err := r.ask("fill", jobKey(id), "partition="+partition, options)
	if err != nil {
		return err
	}
	if status != "ok" {
		return pipefill.Errorf(pipefill.CodeConflict, "pipefilld has no assignment for it (%s)", status)
	}
	environ := with(r.Environ, "PIPEFILL_DIR="+r.runDir(), "PIPEFILL_ROLE=fill", "PIPEFILL_DEVICE="+answer["device"], "PIPEFILL_MODE="+answer["mode"])
	if uuid, gpu := strings.CutPrefix(answer["device"], "gpu:"); gpu {
		environ = with(environ, "CUDA_VISIBLE_DEVICES="+uuid)
		if r.Python != "" {
			environ = with(environ, "PYTHONPATH="+lead(r.Python, environ))
		}
	}
	if library := answer["preload"]; library != "" {
		environ = with(environ, "LD_PRELOAD="+library)
	}
	if answer["mem_bytes"] != "0" {
		environ = with(environ, "PIPEFILL_MEM_BYTES="+answer["mem_bytes"])
	}
	r.mu.Lock()
	job := r.job(id).Fill
	r.mu.Unlock()
	h, err := hold(job.Command, r.User, environ)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(job.Output, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644) //nolint:gosec // for its user to read
	if err != nil {
		return fmt.Errorf("open output: %w", err)
	}
	defer func() { _ = out.Close() }()
	h.cmd.Stdout, h.cmd.Stderr = out, out
	if err := h.start(); err != nil {
		return err
	}
	if status, _, err := r.ask("task", jobKey(id), "pid="+fmt.Sprint(h.cmd.Process.Pid)); err != nil || status != "ok" {
		h.refuse()
		_, _ = h.wait()
		return fmt.Errorf("pipefilld did not take the process (%s): %w", status, err)
	}
	if err := h.let(); err != nil {
		return err
	}
	wait, err := h.wait()
	if err != nil {
		return err
	}
	_, _, err = r.ask("leave", jobKey(id), fmt.Sprintf("status=%d", int(wait)))
	return err
}

// drain waits until the daemon has no job any more and all usage is in.
func (r *run) drain() error {
	until := r.Now().Add(fillsGone)
	for !r.settled() {
		if r.Now().After(until) {
			return pipefill.Errorf(pipefill.CodeInternal, "fill jobs are not gone after %s: see %s", fillsGone, r.logFile())
		}
		<-time.After(pollEvery)
	}
	return nil
}

// alone is what the completed fill commands take on their idle device, in
// seconds: the median of some runs each.
func (r *run) alone(ctx context.Context, fills []Fill) float64 {
	sum := 0.0
	for _, f := range fills {
		if f.State != string(pipefill.OutcomeCompleted) || r.Alone == 0 {
			continue
		}
		var took []float64
		for range r.Alone {
			if s, err := r.once(ctx, f); err != nil {
				r.Say("%q alone: %v", f.Command, err)
			} else {
				took = append(took, s)
			}
		}
		if len(took) > 0 {
			slices.Sort(took)
			sum += took[len(took)/2]
			r.Say("%q takes %.2f s alone", f.Command, took[len(took)/2])
		}
	}
	return sum
}

// once runs a fill command alone on its device.
func (r *run) once(ctx context.Context, f Fill) (seconds float64, err error) {
	environ := r.Environ
	if uuid, gpu := strings.CutPrefix(string(f.Device), "gpu:"); gpu {
		environ = with(environ, "CUDA_VISIBLE_DEVICES="+uuid)
	}
	h, err := hold(f.Command, r.User, environ)
	if err != nil {
		return 0, err
	}
	if err := h.start(); err != nil {
		return 0, err
	}
	if cores, err := f.Device.Cores(); err == nil {
		var set unix.CPUSet
		for _, c := range cores {
			set.Set(c)
		}
		if err := unix.SchedSetaffinity(h.cmd.Process.Pid, &set); err != nil {
			h.refuse()
			_, _ = h.wait()
			return 0, fmt.Errorf("pin to %s: %w", f.Device, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { h.end(syscall.SIGKILL) })
	defer stop()
	begin := r.Now()
	if err := h.let(); err != nil {
		return 0, err
	}
	status, err := h.wait()
	if err == nil && exitCode(status) != 0 {
		err = fmt.Errorf("exit status %d", exitCode(status))
	}
	return r.Now().Sub(begin).Seconds(), err
}
