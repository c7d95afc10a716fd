//go:build slurm

package slurmtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pipefill/api"
	"pipefill/controller/slurm"
)

// needBuilt skips where make has not built the programs, naming the first that lacks.
func needBuilt(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Stat(filepath.Join("../../build", name)); err != nil {
			t.Skipf("run make first: %v", err)
		}
	}
}

// generous is for tests that are not about the main job's slow-down: on a busy
// machine the governor would hardly let a fill job run.
const generous = "--pipefill=budget=20%"

// trainer submits a main job on both nodes that announces bubbles: two of 25 ms
// in each iteration of 70 ms.
func (c *cluster) trainer(t *testing.T, iterations int, options ...string) int64 {
	t.Helper()
	return c.slowTrainer(t, iterations, 25, options...)
}

// slowTrainer is trainer with bubbles of another length. Where they are long it
// computes for longer, and writes what that took to times/it.<core>.
func (c *cluster) slowTrainer(t *testing.T, iterations, bubbleMs int, options ...string) int64 {
	t.Helper()
	for _, file := range []string{"../../build/libpipefill.so", "testdata/bubbles.py"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.dir, "lib", filepath.Base(file)), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	times := filepath.Join(c.dir, "times")
	if err := os.MkdirAll(times, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(times, 0o777); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("srun /usr/bin/python3 %[1]s/lib/bubbles.py %[1]s/lib/libpipefill.so %[2]d 10 %[3]d", c.dir, iterations, bubbleMs)
	if bubbleMs >= 250 {
		script = fmt.Sprintf("srun /usr/bin/python3 %[1]s/lib/bubbles.py %[1]s/lib/libpipefill.so %[2]d 50 %[3]d %[4]s/it", c.dir, iterations, bubbleMs, times)
	}
	out := c.output(t, "train")
	return c.sbatch(t, "pf_train", script, append([]string{"-p", "main", "-N2", "--ntasks-per-node=1", "-c2", "--mem=1000", "-o", out}, options...)...)
}

// output is a file that every user's jobs may write.
func (c *cluster) output(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(c.dir, "log", name+".out")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *cluster) read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// script runs test/cluster/cluster with the cluster's directory.
func (c *cluster) script(t *testing.T, command string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../cluster/cluster", append([]string{command, c.dir}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cluster %s: %v: %s", command, err, out)
	}
}

// controller is the client that pipefill-cli uses, as root.
func (c *cluster) controller(t *testing.T) *api.Client {
	t.Helper()
	client, err := api.NewClient("unix:"+c.dir+"/run/pipefillctld.sock", nil)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestMainJob runs main jobs with all of pipefill, and with parts of it dead.
func TestMainJob(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld")
	c := newCluster(t, "--trace")

	t.Run("its bubbles reach the daemon of each node", func(t *testing.T) {
		id := c.trainer(t, 40, "--pipefill=budget=1%")
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		out := c.read(t, c.dir+"/log/train.out")
		if j.State != "COMPLETED" || strings.Count(out, "done") != 2 || !strings.Contains(out, "opened cpu:0") {
			t.Errorf("%s: %s", j.State, out)
		}
		for node, device := range map[string]string{"n0": "cpu:0", "n1": "cpu:1"} {
			events, err := os.ReadFile(filepath.Join(c.dir, "trace", node, "events-"+device+".jsonl"))
			if err != nil || bytes.Count(events, []byte("\n")) < 70 {
				t.Errorf("%s: %d of 80 bubbles, %v", node, bytes.Count(events, []byte("\n")), err)
			}
		}
	})

	t.Run("without --pipefill it is left alone", func(t *testing.T) {
		id := c.trainer(t, 2)
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if out := c.read(t, c.dir+"/log/train.out"); j.State != "COMPLETED" || !strings.Contains(out, "unfilled") {
			t.Errorf("%s: %s", j.State, out)
		}
	})

	t.Run("without a value of --pipefill, and steps that inherit it", func(t *testing.T) {
		id := c.trainer(t, 2, "--pipefill")
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if out := c.read(t, c.dir+"/log/train.out"); j.State != "COMPLETED" || strings.Count(out, "opened") != 2 {
			t.Errorf("%s: %s", j.State, out)
		}
	})

	t.Run("a main job through slurmrestd brings its options in its environment", func(t *testing.T) {
		for name, options := range map[string]string{"opened": "budget=5%", "unfilled": "bugdet=5%"} {
			out := c.output(t, "rest-"+name)
			script := fmt.Sprintf("#!/bin/sh\n/usr/bin/python3 %[1]s/lib/bubbles.py %[1]s/lib/libpipefill.so 2 10 25\n", c.dir)
			body, err := json.Marshal(map[string]any{"script": script, "job": map[string]any{
				"partition": "main", "tasks": 1, "environment": map[string]string{"PATH": "/usr/bin:/bin", "PIPEFILL_OPTIONS": options},
				"current_working_directory": "/tmp", "standard_output": out, "name": "rest-" + name,
			}})
			if err != nil {
				t.Fatal(err)
			}
			said := c.rest(t, "pf_train", "job/submit", string(body))
			await(t, "its output: slurmrestd said "+said, func() bool { return strings.Contains(c.read(t, out), "done") })
			if text := c.read(t, out); !strings.Contains(text, name) {
				t.Errorf("with PIPEFILL_OPTIONS=%s: %s", options, text)
			}
		}
	})

	t.Run("any job runs on a node that never reached its controller", func(t *testing.T) {
		c.script(t, "stop", "pipefillctld", "pipefilld.n0", "pipefilld.n1")
		for _, node := range []string{"n0", "n1"} {
			if err := os.RemoveAll(c.dir + "/var/" + node); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(c.dir+"/var/"+node, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		c.script(t, "start", "pipefilld.n0", "pipefilld.n1")
		id := c.trainer(t, 2)
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if out := c.read(t, c.dir+"/log/train.out"); j.State != "COMPLETED" || strings.Count(out, "done") != 2 {
			t.Errorf("%s: %s", j.State, out)
		}
	})

	t.Run("it runs with the daemons dead", func(t *testing.T) {
		c.script(t, "stop", "pipefilld.n0", "pipefilld.n1")
		id := c.trainer(t, 2, "--pipefill=budget=1%")
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if out := c.read(t, c.dir+"/log/train.out"); j.State != "COMPLETED" || strings.Count(out, "done") != 2 {
			t.Errorf("%s: %s", j.State, out)
		}
	})
}

// TestFill runs fill jobs beside a main job with all of pipefill.
func TestFill(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld", "pipefill-cli")
	c := newCluster(t, "--trace", "--node=recording: 1MiB")
	c.must(t, "root", "install", "-m", "755", repository(t)+"/build/pipefill-cli", c.dir+"/lib/")

	// Half a second of CPU time, in a language that every machine has.
	const work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo worked on $SLURMD_NODENAME as $(id -un), device $PIPEFILL_DEVICE"

	t.Run("a fill job waits while there is no main job", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", work, "-p", "pipefill")
		await(t, "the controller to list the job", func() bool {
			jobs, err := c.controller(t).Jobs(t.Context(), api.JobFilter{User: "pf_ann"})
			return err == nil && slices.ContainsFunc(jobs, func(j api.FillJob) bool { return j.JobID == id && j.State == "queued" })
		})
		if j := c.job(t, id); !j.Held {
			t.Errorf("%+v", j)
		}
		if err := c.client.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
	})

	main := c.trainer(t, 100000, "--pipefill=budget=1%")
	c.awaitJob(t, main, "to run", slurm.Job.Running)

	t.Run("fill jobs of two users complete beside a main job", func(t *testing.T) {
		outs, ids := map[int64]string{}, []int64{}
		for i, user := range []string{"pf_ann", "pf_bob", "pf_ann", "pf_bob"} {
			out := c.output(t, fmt.Sprintf("fill%d", i))
			id := c.sbatch(t, user, work, "-p", "pipefill", "-o", out)
			outs[id], ids = out, append(ids, id)
		}
		for _, id := range ids {
			j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
			out := c.read(t, outs[id])
			if j.State != "COMPLETED" || strings.Count(out, "worked on") != 1 || !strings.Contains(out, "as "+j.User) {
				t.Errorf("%s: %s", j.State, out)
			}
			device := map[string]string{"n0": "cpu:0", "n1": "cpu:1"}[j.Nodes]
			if !strings.Contains(out, "device "+device) {
				t.Errorf("on %s: %s", j.Nodes, out)
			}
		}
		if !c.job(t, main).Running() {
			t.Error("the main job has ended")
		}
	})

	t.Run("the main job's owner traces it, from both nodes, and nobody else does", func(t *testing.T) {
		c.isTraced(t, main)
	})

	t.Run("a fill job goes back to the queue when the main job ends", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "sleep 600", "-p", "pipefill")
		c.awaitJob(t, id, "to run", slurm.Job.Running)
		if err := c.client.Cancel(t.Context(), main); err != nil {
			t.Fatal(err)
		}
		c.awaitJob(t, id, "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		again := c.trainer(t, 100000, "--pipefill=budget=1%")
		c.awaitJob(t, again, "to run", slurm.Job.Running)
		j := c.awaitJob(t, id, "to run again", slurm.Job.Running)
		if j.Restarts < 1 {
			t.Errorf("%+v", j)
		}
		if err := c.client.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
		c.awaitJob(t, id, "to end", slurm.Job.Ended)
	})
}

// isTraced asks for a main job's timeline as its owner, as another user, and of
// a job that is none.
func (c *cluster) isTraced(t *testing.T, main int64) {
	t.Helper()
	trace := func(user string, id int64) (string, error) {
		return c.as(t, user, c.dir+"/lib/pipefill-cli", "trace", "--last", "0", strconv.FormatInt(id, 10))
	}
	out, err := trace("pf_train", main)
	var document struct {
		Events []struct {
			Name string         `json:"name"`
			Pid  int            `json:"pid"`
			Tid  int            `json:"tid"`
			Args map[string]any `json:"args"`
		} `json:"traceEvents"`
	}
	if err != nil || json.Unmarshal([]byte(out), &document) != nil {
		t.Fatalf("%v: %.500s", err, out)
	}
	count := map[string]int{}
	for _, e := range document.Events {
		name, _, _ := strings.Cut(e.Name, " ")
		count[fmt.Sprintf("%s of %d", name, e.Pid)]++
		if e.Name == "process_name" {
			count[fmt.Sprint(e.Args["name"])]++
		}
	}
	for _, what := range []string{"n0/cpu:0", "n1/cpu:1", "iteration of 1", "iteration of 2", "compute of 1", "compute of 2", "open of 1", "open of 2", "job of 1", "job of 2"} {
		if count[what] == 0 {
			t.Errorf("no %s: %v", what, count)
		}
	}
	for user, want := range map[string]string{"pf_bob": "another user's", "pf_ann": "another user's"} {
		if out, err := trace(user, main); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v %.200s", user, err, out)
		}
	}
	if out, err := trace("root", main); err != nil || !json.Valid([]byte(out)) {
		t.Errorf("root: %v %.200s", err, out)
	}
	if out, err := trace("pf_train", 4711); err == nil || !strings.Contains(out, "no node has a recording") {
		t.Errorf("of no main job: %v %.200s", err, out)
	}
}
