//go:build slurm

package slurmtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pipefill/controller/slurm"
)

// TestSlurmFaults takes parts of Slurm away while fill jobs run and wait: each
// job ends once.
func TestSlurmFaults(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	c := newCluster(t, "--trace")
	// Not requeued when a node is lost: Slurm would put it off for two minutes.
	main := c.trainer(t, 100000, generous, "--no-requeue")
	c.awaitJob(t, main, "to run", slurm.Job.Running)
	outs := map[int64]string{}
	submit := func(t *testing.T, name string, ms int) int64 {
		t.Helper()
		out := c.output(t, name)
		id := c.sbatch(t, "pf_ann", busy(ms), "-p", "pipefill", "-o", out, "--open-mode=append")
		outs[id] = out
		return id
	}
	begun := func(id int64) func() bool {
		return func() bool { return strings.Contains(c.read(t, outs[id]), "begun") }
	}
	complete := func(t *testing.T, ids ...int64) {
		t.Helper()
		await(t, "Slurm to answer again", func() bool { _, err := c.client.Job(t.Context(), ids[0]); return err == nil })
		for _, id := range ids {
			c.awaitJob(t, id, "to end", slurm.Job.Ended)
			c.completedOnce(t, id, outs[id])
		}
		c.checkLedger(t, ids...)
	}

	t.Run("slurmrestd stops and starts", func(t *testing.T) {
		running := submit(t, "rest-running", 800)
		await(t, "the job to begin", begun(running))
		c.script(t, "stop", "slurmrestd")
		waiting := submit(t, "rest-waiting", 100)
		await(t, "the controller to notice", func() bool { return c.faulty(t, "slurm") })
		if c.client.Down(t.Context()) {
			t.Error("slurmrestd is down, and slurmctld is called so")
		}
		c.script(t, "start", "slurmrestd")
		complete(t, running, waiting)
		await(t, "the fault to be over", func() bool { return !c.faulty(t, "slurm") })
	})

	t.Run("the token expires and is renewed", func(t *testing.T) {
		path := c.dir + "/etc/root.jwt"
		good := c.read(t, path)
		running := submit(t, "token-running", 800)
		await(t, "the job to begin", begun(running))
		replace(t, path, expiredToken(t, c.dir+"/etc/jwt.key"))
		waiting := submit(t, "token-waiting", 100)
		await(t, "the controller to notice", func() bool { return c.faulty(t, "slurm") })
		replace(t, path, good)
		complete(t, running, waiting)
	})

	t.Run("slurmctld stops and starts", func(t *testing.T) {
		running, waiting := submit(t, "ctld-running", 800), submit(t, "ctld-waiting", 100)
		await(t, "the job to begin", begun(running))
		if c.client.Down(t.Context()) {
			t.Error("slurmctld answers, and is called down")
		}
		c.script(t, "stop", "slurmctld")
		if !c.client.Down(t.Context()) {
			t.Error("slurmctld is down, and is not called so")
		}
		c.script(t, "start", "slurmctld")
		await(t, "slurmctld to answer again", func() bool { return !c.client.Down(t.Context()) })
		complete(t, running, waiting)
	})

	t.Run("slurmd is killed and starts again", func(t *testing.T) {
		running := submit(t, "slurmd-running", 800)
		await(t, "the job to begin", begun(running))
		node := c.job(t, running).Nodes
		c.kill(t, "slurmd."+node)
		c.script(t, "start", "slurmd."+node)
		complete(t, running)
	})

	t.Run("a node is lost with its jobs running and comes back", func(t *testing.T) {
		first, second := submit(t, "lost-first", 1500), submit(t, "lost-second", 1500)
		await(t, "the first job to begin", begun(first))
		await(t, "the second job to begin", begun(second))
		lost := c.job(t, first).Nodes
		c.kill(t, "slurmd."+lost)
		c.must(t, "root", "scontrol", "update", "NodeName="+lost, "State=DOWN", "Reason=test")
		c.awaitJob(t, main, "to end with its node", slurm.Job.Ended)
		// Its processes live on the node, where nobody of Slurm's ends them.
		for _, id := range []int64{first, second} {
			c.awaitJob(t, id, "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		}
		await(t, "the first attempt's processes to be gone", func() bool {
			return !slices.ContainsFunc(c.groups(t, lost), func(procs string) bool { return procs != "" })
		})
		c.script(t, "start", "slurmd."+lost)
		await(t, "the node to be back", func() bool {
			out, err := c.as(t, "root", "sinfo", "-h", "-n", lost, "-p", "main", "-o", "%T")
			return err == nil && strings.TrimSpace(out) == "idle"
		})
		again := c.trainer(t, 100000, generous)
		c.awaitJob(t, again, "to run", slurm.Job.Running)
		complete(t, first, second)
		c.noneDrained(t)
	})

	// What it has not saved it forgets: jobs' starts and ends, even whole jobs. It
	// is last, since Slurm then gives a number twice and drains nodes over that.
	t.Run("slurmctld is killed and starts again", func(t *testing.T) {
		running := submit(t, "killed-running", 800)
		await(t, "the job to begin", begun(running))
		c.kill(t, "slurmctld")
		c.script(t, "start", "slurmctld")
		// Whether Slurm remembers the job or ends it as a stranger's is its own business.
		await(t, "the controller to know the end", func() bool {
			f, err := c.controller(t).Job(t.Context(), running)
			return err == nil && slices.Contains([]string{"completed", "failed", "lost", "cancelled"}, f.State)
		})
		await(t, "no fill job to be left in Slurm", func() bool {
			out, err := c.as(t, "root", "squeue", "-h", "-p", "pipefill", "-o", "%A")
			return err == nil && out == ""
		})
		for id, out := range outs {
			ended := strings.Count(c.read(t, out), "ended")
			if row := c.charged(t, id); ended > 1 || id != running && ended != 1 || row.Ended() != 1 || row.Completed > int64(ended) {
				t.Errorf("job %d has come to its end %d times, and the report says %+v", id, ended, row)
			}
		}
		c.noneDrained(t)
	})

	t.Run("nothing is charged again later", func(t *testing.T) {
		for id := range outs {
			c.checkLedger(t, id)
		}
	})
}

// faulty tells whether the controller names source as at fault.
func (c *cluster) faulty(t *testing.T, source string) bool {
	t.Helper()
	status, err := c.controller(t).Ping(t.Context())
	return err == nil && slices.ContainsFunc(status.Faults, func(f string) bool { return strings.HasPrefix(f, source+": ") })
}

// groups are the processes in each fill job's group of a node.
func (c *cluster) groups(t *testing.T, node string) []string {
	t.Helper()
	out, err := c.as(t, "root", "sh", "-c", "cat /sys/fs/cgroup/unified/pipefill_*_"+node+"/assignment_*/cgroup.procs")
	if err != nil && !strings.Contains(out, "No such file") {
		t.Fatalf("groups of %s: %v: %s", node, err, out)
	}
	if err != nil {
		return nil
	}
	return strings.Fields(out)
}

// replace writes a file as a renewal does: by renaming.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// expiredToken is a token as scontrol token makes it, good until a minute ago.
func expiredToken(t *testing.T, keyFile string) string {
	t.Helper()
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(-time.Minute).Unix()
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(fmt.Appendf(nil, `{"exp":%d,"iat":%d,"sun":"root"}`, end, end-60))
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(text)) // never fails
	return text + "." + encode(mac.Sum(nil))
}
