//go:build slurm

package slurmtest

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pipefill/controller/slurm"
)

// TestEscape tries what owners do to start a held fill job, with
// packaging/etc/job_submit.lua and the reconciler's Hold.
func TestEscape(t *testing.T) {
	c := newCluster(t, "--no-daemons", "--no-plugin")

	for name, command := range map[string]string{
		"release":           "scontrol release %d",
		"hold":              "scontrol hold %d",
		"priority":          "scontrol update JobId=%d Priority=100",
		"nice":              "scontrol update JobId=%d Nice=10",
		"another partition": "scontrol update JobId=%d Partition=main",
		"both partitions":   "scontrol update JobId=%d Partition=main,pipefill",
		"a GPU":             "scontrol update JobId=%d TresPerNode=gres:gpu:1",
		"two nodes":         "scontrol update JobId=%d NumNodes=2",
	} {
		t.Run("refuses its owner "+name, func(t *testing.T) {
			id := c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill")
			args := strings.Fields(fmt.Sprintf(command, id))
			out, err := c.as(t, "pf_ann", args...)
			if err == nil {
				t.Errorf("%s worked: %s", strings.Join(args, " "), out)
			}
			if j := c.job(t, id); !j.Held || j.Partition != "pipefill" || j.RequestedGPUs != "" {
				t.Errorf("after %s: %+v", strings.Join(args, " "), j)
			}
		})
	}

	t.Run("refuses its owner by REST", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill")
		for _, body := range []string{`{"hold":false}`, `{"priority":50}`, `{"nice":1}`, `{"partition":"main"}`} {
			out := c.rest(t, "pf_ann", fmt.Sprintf("job/%d", id), body)
			if !strings.Contains(out, `"error"`) && !strings.Contains(out, "failed") {
				t.Errorf("%s was not refused: %s", body, out)
			}
			if j := c.job(t, id); !j.Held || j.Partition != "pipefill" {
				t.Errorf("after %s: %+v", body, j)
			}
		}
	})

	t.Run("refuses to move a job into the fill partition", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "sleep 300", "-p", "main", "--hold")
		for _, p := range []string{"pipefill", "main,pipefill"} {
			if out, err := c.as(t, "pf_ann", "scontrol", "update", fmt.Sprintf("JobId=%d", id), "Partition="+p); err == nil {
				t.Errorf("moved to %s: %s", p, out)
			}
		}
	})

	t.Run("leaves the main partition alone", func(t *testing.T) {
		id := c.sbatch(t, "pf_train", "true", "-p", "main", "--hold", "--no-requeue", "--gres=gpu:1")
		c.must(t, "pf_train", "scontrol", "update", fmt.Sprintf("JobId=%d", id), "Nice=5")
		c.must(t, "pf_train", "scontrol", "release", fmt.Sprint(id))
		c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if j := c.job(t, id); j.State != "COMPLETED" || j.AdminComment != "" {
			t.Errorf("%+v", j)
		}
	})

	t.Run("holds again what an operator released", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill", "--begin=now+1hour")
		c.must(t, "root", "scontrol", "release", fmt.Sprint(id))
		if c.job(t, id).Held {
			t.Fatal("root's release did nothing")
		}
		if err := c.client.Hold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if j := c.job(t, id); !j.Held || j.Reason != "JobHeldAdmin" {
			t.Errorf("%+v", j)
		}
	})

	t.Run("finds a requeue by the owner, which no plugin sees", func(t *testing.T) {
		id := c.sbatch(t, "pf_ann", "sleep 300", "-p", "pipefill")
		if err := c.client.PinRelease(t.Context(), id, "n0"); err != nil {
			t.Fatal(err)
		}
		c.awaitJob(t, id, "to run", slurm.Job.Running)
		c.must(t, "pf_ann", "scontrol", "requeue", fmt.Sprint(id))
		j := c.awaitJob(t, id, "to be pending", slurm.Job.Pending)
		if j.Held || j.PinnedNode != "n0" {
			t.Errorf("after an owner's requeue: %+v", j)
		}
		if err := c.client.Hold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if j := c.job(t, id); !j.Held || j.PinnedNode != "" {
			t.Errorf("held again: %+v", j)
		}
	})
}

// TestSubmit tries what a fill partition refuses or rewrites at submission.
func TestSubmit(t *testing.T) {
	c := newCluster(t, "--no-daemons", "--no-plugin")

	for name, x := range map[string]struct {
		args []string
		says string
	}{
		"both kinds of partition": {[]string{"sbatch", "-p", "main,pipefill", "--wrap", "true"}, "not for both"},
		"srun":                    {[]string{"srun", "-p", "pipefill", "true"}, "batch jobs only"},
		"salloc":                  {[]string{"salloc", "-p", "pipefill", "true"}, "batch jobs only"},
		"two nodes":               {[]string{"sbatch", "-p", "pipefill", "-N2", "--wrap", "true"}, "one node"},
		"a heterogeneous job":     {[]string{"sbatch", "-p", "pipefill", "-n1", ":", "-p", "main", "-n1", "--wrap", "true"}, "heterogeneous"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			out, err := c.as(t, "pf_ann", x.args...)
			if err == nil || !strings.Contains(out, x.says) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}

	t.Run("tells the user that the job waits", func(t *testing.T) {
		out := c.must(t, "pf_ann", "sbatch", "-p", "pipefill", "-o", "/dev/null", "--wrap", "true")
		if !strings.Contains(out, "held until a bubble is free") {
			t.Errorf("sbatch said %q", out)
		}
	})

	for _, option := range []string{"--gres=gpu:1", "--gpus=2", "--gpus-per-node=1", "--gpus-per-task=1", "--gpus=1 --ntasks-per-gpu=1", "--ntasks-per-gpu=1", "--gpus=1 --cpus-per-gpu=1", "--gres=gpu:1 --mem-per-gpu=100"} {
		t.Run("records and takes away "+option, func(t *testing.T) {
			out := c.dir + "/log/gpu.out"
			c.must(t, "root", "install", "-m", "666", "/dev/null", out)
			id := c.sbatch(t, "pf_ann", "srun true && echo srun ok; (: <"+c.dir+"/dev/gpu0) 2>&1", append(strings.Fields(option), "-p", "pipefill", "-n1", "-o", out)...)
			j := c.job(t, id)
			if !strings.Contains(j.RequestedGPUs, "gpu") || !strings.Contains(j.AdminComment, "pipefill:gpus=") {
				t.Errorf("not recorded: %+v", j)
			}
			if err := c.client.PinRelease(t.Context(), id, "n0"); err != nil {
				t.Fatal(err)
			}
			c.awaitJob(t, id, "to end", slurm.Job.Ended)
			text := c.must(t, "root", "cat", out)
			// What --ntasks-per-gpu and its kind leave in the environment only the plugin removes.
			if !strings.Contains(text, "srun ok") && !strings.Contains(option, "-per-gpu") {
				t.Errorf("an srun inside fails: %s\n%s", text, c.must(t, "root", "scontrol", "show", "job", fmt.Sprint(id)))
			}
			if !strings.Contains(text, "Operation not permitted") {
				t.Errorf("the GPU can be opened without a grant:\n%s", text)
			}
		})
	}

	t.Run("a job through slurmrestd brings its options in its environment", func(t *testing.T) {
		out := c.rest(t, "pf_ann", "job/submit",
			`{"script":"#!/bin/sh\ntrue\n","job":{"partition":"pipefill","environment":{"PATH":"/bin","PIPEFILL_OPTIONS":"fill,mode=chunked"},"current_working_directory":"/tmp"}}`)
		l, err := c.client.List(t.Context(), []string{"pipefill"}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(l.Jobs, func(j slurm.Job) bool { return j.Held && j.Options == "fill,mode=chunked" }) {
			t.Errorf("no job has them: %+v\nsubmit said %s", l.Jobs, out)
		}
	})
	t.Run("a user cannot forge the note", func(t *testing.T) {
		out := c.rest(t, "pf_ann", "job/submit",
			`{"script":"#!/bin/sh\ntrue\n","job":{"partition":"pipefill","admin_comment":"pipefill:pin=n0","environment":{"PATH":"/bin"},"current_working_directory":"/tmp"}}`)
		l, err := c.client.List(t.Context(), []string{"pipefill"}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range l.Jobs {
			if j.PinnedNode != "" && !j.Ended() && j.Held {
				t.Errorf("%+v, submit said %s", j, out)
			}
		}
	})
}

// rest posts to slurmrestd as a user with a token of their own.
func (c *cluster) rest(t *testing.T, name, path, body string) string {
	t.Helper()
	token, err := exec.CommandContext(t.Context(), "../cluster/cluster", "token", c.dir, name).Output()
	if err != nil {
		t.Fatalf("token: %v", err)
	}
	return restCall(t, c.dir+"/rest/slurmrestd.sock", name, strings.TrimSpace(string(token)), "POST", "/slurm/v0.0.38/"+path, body)
}
