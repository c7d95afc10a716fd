package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipefill/api"
	"pipefill/controller/slurm"
	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

// fillJob is one fill job of the demo and what is expected of it.
type fillJob struct {
	id      int64
	user    string
	what    string
	program *workload.Program // nil: it does not complete
	digest  string            // the file
	expect  string            // the job's state at the end
	state   string
	reason  string // of pipefill, for one that does not start
}

// submit sends the fill jobs of two users.
func (d *demo) submit(ctx context.Context) error {
	users := []string{cluster.Ann, cluster.Bob}
	plan := []int{0, 2, 1, 2, 0} // numeric, chunked, numeric-small, chunked, numeric
	for i, which := range plan {
		p := d.Programs[which]
		j := &fillJob{user: users[i%2], what: p.Name, program: p, expect: "COMPLETED", digest: filepath.Join(d.Work, fmt.Sprintf("digest.%d", i))}
		if err := d.sbatch(ctx, j, p.Command(d.Lib, p.Steps, j.digest), p.Options...); err != nil {
			return err
		}
	}
	fails := &fillJob{user: cluster.Bob, what: "fails by itself", expect: "FAILED"}
	if err := d.sbatch(ctx, fails, "/usr/bin/python3 "+d.Lib+"/fill_fails.py"); err != nil {
		return err
	}
	greedy := &fillJob{user: cluster.Ann, what: "asks for 900 GiB of device memory", expect: "PENDING"}
	return d.sbatch(ctx, greedy, "true", "--pipefill=fill,mem=900GiB")
}

func (d *demo) sbatch(ctx context.Context, j *fillJob, script string, options ...string) error {
	out := filepath.Join(d.Work, fmt.Sprintf("out.%d", len(d.jobs)))
	arguments := append([]string{"-p", "pipefill", "--mem=300", "--time=10", "-o", out, "-J", strings.ReplaceAll(j.what, " ", "-")}, options...)
	var err error
	if j.id, err = d.Cluster.Submit(ctx, j.user, script, arguments...); err != nil {
		return err
	}
	d.jobs = append(d.jobs, j)
	d.Say("fill job %d of %s: %s", j.id, j.user, j.what)
	return nil
}

// follow prints progress until every fill job is as it will stay.
func (d *demo) follow(ctx context.Context) error {
	client, err := d.Cluster.Controller()
	if err != nil {
		return err
	}
	told := d.Now()
	return workload.Await(ctx, "the fill jobs", func() (bool, error) {
		queue, err := client.Jobs(ctx, api.JobFilter{})
		if err != nil {
			return false, err
		}
		left, err := d.look(ctx, queue)
		if d.Now().Sub(told) >= 5*time.Second || left == 0 {
			told = d.Now()
			d.progress(queue)
		}
		return left == 0, err
	})
}

// look brings the jobs' states up to date and counts those still to change.
func (d *demo) look(ctx context.Context, queue []api.FillJob) (left int, err error) {
	if main, err := d.Cluster.Slurm.Job(ctx, d.trainer.ID); err != nil || main.Ended() {
		return 0, errors.Join(err, fmt.Errorf("the main job is gone (%s)", main.State))
	}
	for _, j := range d.jobs {
		if ended(j.state) {
			continue
		}
		job, err := d.Cluster.Slurm.Job(ctx, j.id)
		if err != nil {
			return 0, err
		}
		j.state = job.State
		if i := slices.IndexFunc(queue, func(q api.FillJob) bool { return q.JobID == j.id }); i >= 0 {
			j.reason = queue[i].Reason
		}
		if !ended(j.state) && (j.expect != "PENDING" || !strings.Contains(j.reason, "bytes of device memory")) {
			left++
		}
	}
	return left, nil
}

func ended(state string) bool { return state != "" && slurm.Job{State: state}.Ended() }

// progress prints one line: where the training is, and the fill jobs by state.
func (d *demo) progress(queue []api.FillJob) {
	count := map[string]int{}
	var deviceMs int64
	for _, q := range queue {
		count[q.State]++
		deviceMs += q.DeviceMs
	}
	var states []string
	for _, state := range slices.Sorted(maps.Keys(count)) {
		states = append(states, fmt.Sprintf("%d %s", count[state], state))
	}
	d.Say("training at iteration %d; fill jobs: %s; %.1f device-seconds charged",
		d.trainer.Iterations(), strings.Join(states, ", "), float64(deviceMs)/1e3)
}

// useful is the time that the completed jobs take on an idle device.
func (d *demo) useful() (seconds float64, counts measure.FillJobCounts) {
	for _, j := range d.jobs {
		counts.Submitted++
		switch j.state {
		case "COMPLETED":
			counts.Completed++
			if j.program != nil {
				seconds += j.program.IdleSeconds()
			}
		case "FAILED":
			counts.Failed++
		}
	}
	return seconds, counts
}

// judge compares states and digests with what was expected.
func (d *demo) judge(report measure.Report) error {
	var errs []error
	for _, j := range d.jobs {
		if j.state != j.expect {
			errs = append(errs, fmt.Errorf("fill job %d (%s) is %s, not %s; see %s/logs", j.id, j.what, j.state, j.expect, d.out))
		}
	}
	if m := report.Main; m.LossLast > 0.7*m.LossFirst {
		errs = append(errs, fmt.Errorf("the loss fell from %.3f to %.3f only", m.LossFirst, m.LossLast))
	}
	return errors.Join(errs...)
}

// checkDigests compares what the fill jobs wrote with what a run outside did;
// before the cluster's folder goes.
func (d *demo) checkDigests() error {
	var errs []error
	for _, j := range d.jobs {
		if j.program == nil || j.state != "COMPLETED" {
			continue
		}
		digest, err := workload.ReadDigest(j.digest)
		if err == nil && digest != j.program.Digest {
			err = fmt.Errorf("fill job %d (%s) computed %s, outside it was %s", j.id, j.what, digest, j.program.Digest)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keepLists writes down what the jobs were and what their programs take
// outside, for whoever recomputes the report.
func (d *demo) keepLists() error {
	type job struct {
		ID      int64  `json:"id"`
		User    string `json:"user"`
		What    string `json:"what"`
		Program string `json:"program"` // "": not one with a digest
		State   string `json:"state"`
	}
	jobs := []job{}
	for _, j := range d.jobs {
		program := ""
		if j.program != nil {
			program = j.program.Name
		}
		jobs = append(jobs, job{j.id, j.user, j.what, program, j.state})
	}
	outside := map[string][]float64{}
	for _, p := range d.Programs {
		outside[p.Name] = p.Seconds
	}
	var errs []error
	for name, list := range map[string]any{"jobs.json": jobs, "outside.json": outside} {
		data, err := json.Marshal(list)
		if err == nil {
			err = os.WriteFile(filepath.Join(d.out, "traces", name), append(data, '\n'), 0o644)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keepOutputs copies what the jobs printed to the logs.
func (d *demo) keepOutputs() error {
	paths, err := filepath.Glob(filepath.Join(d.Work, "out.*"))
	if err != nil {
		return fmt.Errorf("keep outputs: %w", err)
	}
	for _, path := range append(paths, filepath.Join(filepath.Dir(d.Work), "train", "out")) {
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(d.out, "logs", filepath.Base(path)), text, 0o644)
		}
		if err != nil {
			return fmt.Errorf("keep outputs: %w", err)
		}
	}
	return nil
}
