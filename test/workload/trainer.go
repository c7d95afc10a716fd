package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pipefill/controller/slurm"
	"pipefill/test/cluster"
)

// Trainer is the main job: two stages, 1F1B, four micro-batches.
type Trainer struct {
	ID     int64
	Traces string // of the ranks

	cluster *cluster.Cluster
	out     string
	stop    string
}

// TrainerResult is the JSON line that each rank prints at its end.
type TrainerResult struct {
	Rank                 int     `json:"rank"`
	Iterations           int     `json:"iterations"`
	Attached             bool    `json:"attached"`
	WhyNot               string  `json:"why_not"`
	IterationMs          float64 `json:"iteration_ms"`
	BubbleFraction       float64 `json:"bubble_fraction"`
	BubbleFractionTheory float64 `json:"bubble_fraction_theory"`
	LossFirst            float64 `json:"loss_first"`
	LossLast             float64 `json:"loss_last"`
}

// Train submits a main job that goes on until Stop. options are sbatch's; name
// tells this job's files from others'.
func Train(ctx context.Context, c *cluster.Cluster, lib, name string, options ...string) (*Trainer, error) {
	return TrainBatch(ctx, c, lib, name, 10, options...)
}

// TrainBatch is Train with so many sequences a micro-batch: the iterations, and
// their bubbles, are longer by them.
func TrainBatch(ctx context.Context, c *cluster.Cluster, lib, name string, batch int, options ...string) (*Trainer, error) {
	dir, err := c.Folder(name)
	if err != nil {
		return nil, err
	}
	t := &Trainer{cluster: c, Traces: filepath.Join(dir, "trace"), out: filepath.Join(dir, "out"), stop: filepath.Join(dir, "stop")}
	// srun's exports reach the ranks; cores come from the node names, as a main
	// job without --pipefill is told of no devices.
	script := fmt.Sprintf("export PYTHONPATH=%[1]s PIPEFILL_LIBRARY=%[1]s/libpipefill.so\n"+
		"srun --output=%[2]s %[3]s -m pipefill.train --iterations 1000000 --cores 0:1 --batch %[7]d --rendezvous %[4]s/meet --trace %[5]s --stop-file %[6]s",
		lib, t.out, python, dir, t.Traces, t.stop, batch)
	arguments := append([]string{"-p", "main", "-N2", "--ntasks-per-node=1", "-c2", "--mem=1500", "-o", filepath.Join(dir, "batch.out")}, options...)
	if t.ID, err = c.Submit(ctx, cluster.Trainer, script, arguments...); err != nil {
		return nil, err
	}
	return t, nil
}

// Iterations is how many the job has done, to the last ten.
func (t *Trainer) Iterations() int {
	last := 0
	_ = t.lines(func(line string) { // not there yet: none
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "iteration" {
			if n, err := strconv.Atoi(fields[1]); err == nil {
				last = n
			}
		}
	})
	return last
}

func (t *Trainer) lines(each func(string)) (err error) {
	file, err := os.Open(t.out)
	if err != nil {
		return fmt.Errorf("read the main job's output: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		each(scanner.Text())
	}
	return scanner.Err()
}

// AwaitIterations waits until the job has done so many.
func (t *Trainer) AwaitIterations(ctx context.Context, count int) error {
	return Await(ctx, fmt.Sprintf("the main job's iteration %d", count), func() (bool, error) {
		if t.Iterations() >= count {
			return true, nil
		}
		j, err := t.cluster.Slurm.Job(ctx, t.ID)
		if err == nil && j.Ended() {
			err = fmt.Errorf("the main job has ended (%s): %s", j.State, t.tail())
		}
		return false, err
	})
}

func (t *Trainer) tail() string {
	text, err := os.ReadFile(t.out)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1000):])
}

// Stop lets the job end after an iteration and returns what its ranks say, by
// rank.
func (t *Trainer) Stop(ctx context.Context) ([]TrainerResult, error) {
	if err := os.WriteFile(t.stop, nil, 0o644); err != nil {
		return nil, fmt.Errorf("stop the main job: %w", err)
	}
	var last slurm.Job
	err := Await(ctx, "the main job to end", func() (bool, error) {
		var err error
		last, err = t.cluster.Slurm.Job(ctx, t.ID)
		return err == nil && last.Ended(), err
	})
	if err == nil && last.State != "COMPLETED" {
		err = fmt.Errorf("the main job ended as %s: %s", last.State, t.tail())
	}
	if err != nil {
		return nil, err
	}
	results := make([]TrainerResult, 2)
	found := 0
	err = t.lines(func(line string) {
		var r TrainerResult
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &r) == nil && r.Rank >= 0 && r.Rank < len(results) {
			results[r.Rank] = r
			found++
		}
	})
	if err == nil && found != len(results) {
		err = fmt.Errorf("%d of %d ranks told their results: %s", found, len(results), t.tail())
	}
	return results, err
}

// Await polls twice a second until done.
func Await(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
