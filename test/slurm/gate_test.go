//go:build slurm

package slurmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pipefill/controller/slurm"
)

// stopMost is how long a fill job may run on after its daemon's death.
const stopMost = 200 * time.Millisecond

// TestGate holds fill jobs to the gate: with their daemon dead, when they try
// for others' pages, and when they ignore it. Its bubbles are long enough to do
// something within one.
func TestGate(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	c := newCluster(t, "--trace")
	main := c.slowTrainer(t, 100000, 250, generous)
	c.awaitJob(t, main, "to run", slurm.Job.Running)
	for _, name := range []string{"intruder.py", "runaway.py"} {
		c.must(t, "root", "install", "-m", "755", repository(t)+"/test/slurm/testdata/"+name, c.dir+"/lib/")
	}
	var ranks []string
	await(t, "the main job's ranks", func() bool {
		out, err := c.as(t, "root", "pgrep", "-f", "^/usr/bin/python3 "+c.dir+"/lib/bubbles.py")
		ranks = strings.Fields(out)
		return err == nil && len(ranks) == 2
	})
	fill := func(name, script string, options ...string) (int64, string) {
		t.Helper()
		out := c.output(t, name)
		id := c.sbatch(t, "pf_ann", script, append([]string{"-p", "pipefill", "-o", out, "--open-mode=append"}, options...)...)
		await(t, fmt.Sprintf("job %d (%s) to begin", id, name), func() bool { return strings.Contains(c.read(t, out), "begun") })
		return id, out
	}

	t.Run("pipefilld is killed while a gate is open", func(t *testing.T) {
		id, out := fill("orphan", "echo pid $$; "+busy(1500))
		pid := strings.Fields(c.read(t, out))[1]
		daemon := "pipefilld." + c.job(t, id).Nodes
		// An opening is caught by the fill job's use of the core.
		await(t, "its gate to be open", func() bool {
			before := cpuNs(t, pid)
			return !poll5(func() bool { return cpuNs(t, pid) == before })
		})
		c.kill(t, daemon)
		killed := monotonic(t)
		await(t, "the fill job to stop", func() bool {
			before := cpuNs(t, pid)
			return poll5(func() bool { return cpuNs(t, pid) == before })
		})
		used := cpuNs(t, pid)
		var last opening
		await(t, "the trace of the stop", func() bool {
			for _, list := range c.openings(t, id) {
				last = list[len(list)-1]
			}
			return last.EndNs != 0
		})
		if late := time.Duration(last.EndNs - killed); late > stopMost {
			t.Errorf("it ran on for %s", late)
		} else {
			t.Logf("opening of %s, stopped %s after the kill", time.Duration(last.EndNs-last.BeginNs), late)
		}
		// Some iterations of the main job: its bubbles must not wake it.
		var before []int64
		for _, rank := range ranks {
			before = append(before, cpuNs(t, rank))
		}
		c.checkIterations(t, daemon, killed)
		if now := cpuNs(t, pid); now != used {
			t.Errorf("without a daemon it used %s", time.Duration(now-used))
		}
		for i, rank := range ranks {
			if cpuNs(t, rank) < before[i]+int64(10*time.Millisecond) {
				t.Error("a rank of the main job did not go on")
			}
		}
		c.script(t, "start", daemon)
		c.awaitJob(t, id, "to end", slurm.Job.Ended)
		c.completedOnce(t, id, out)
		c.checkLedger(t, id)
	})

	t.Run("a fill job cannot write or open what is not its own", func(t *testing.T) {
		script := fmt.Sprintf("echo begun; case $SLURMD_NODENAME in n0) o=n1;; *) o=n0;; esac; /usr/bin/python3 %[1]s/lib/intruder.py %[1]s/lib/libpipefill.so %[1]s/run/$o %[2]s",
			c.dir, strings.Join(ranks, " "))
		id, out := fill("intruder", script)
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		text := c.read(t, out)
		if j.State != "COMPLETED" || !strings.Contains(text, "tried ") || strings.Contains(text, "ALLOWED") {
			t.Errorf("%s: %s", j.State, text)
		}
	})

	t.Run("a chunked fill job that ignores its gate is stopped, then ended, and nobody else opens its pages", func(t *testing.T) {
		id, out := fill("runaway", fmt.Sprintf("exec /usr/bin/python3 %[1]s/lib/runaway.py %[1]s/lib/libpipefill.so 60", c.dir), "--pipefill=fill,mode=chunked")
		for _, name := range []string{"pf_ann", "pf_bob", "pf_train"} {
			for _, node := range []string{"n0", "n1"} {
				said, err := c.as(t, name, "env", "PIPEFILL_DIR="+c.dir+"/run/"+node, "/usr/bin/python3", c.dir+"/lib/intruder.py", c.dir+"/lib/libpipefill.so", c.dir, "1")
				if err == nil || !strings.Contains(said, "AssertionError: ('none', [])") {
					t.Errorf("%s on %s: %v: %s", name, node, err, said)
				}
			}
		}
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if j.State == "COMPLETED" || strings.Contains(c.read(t, out), "ended") {
			t.Errorf("%s: %s", j.State, c.read(t, out))
		}
		await(t, "the queue to say why", func() bool {
			row, err := c.controller(t).Job(t.Context(), id)
			return err == nil && row.State == "failed" && strings.Contains(row.Reason, "ran while its gate was shut")
		})
		c.checkRunaway(t, id)
	})
	c.noneDrained(t)
}

// checkIterations holds that 200 ms after the kill the main job of that node
// computed as it did before there was a fill job: one that ran on at the same
// priority would take half of the core.
func (c *cluster) checkIterations(t *testing.T, daemon string, killedNs int64) {
	t.Helper()
	core := map[string]string{"pipefilld.n0": "0", "pipefilld.n1": "1"}[daemon]
	var before, after []int64
	await(t, "three iterations after the kill", func() bool {
		before, after = nil, nil
		for line := range strings.Lines(c.read(t, filepath.Join(c.dir, "times", "it."+core))) {
			var begin, computed int64
			if _, err := fmt.Sscan(line, &begin, &computed); err != nil {
				continue // half a line
			}
			if begin > killedNs+int64(stopMost) {
				after = append(after, computed)
			} else if begin < killedNs-int64(stopMost) {
				before = append(before, computed)
			}
		}
		return len(after) >= 3
	})
	if len(before) < 8 {
		t.Fatalf("only %d iterations before the kill", len(before))
	}
	// The fastest of each: whatever else this machine does has its say in the others.
	if slices.Min(after) > slices.Min(before)*3/2 {
		t.Errorf("computing took %s at best before the kill, and %s from %s after it", time.Duration(slices.Min(before)), time.Duration(slices.Min(after)), stopMost)
	}
	t.Logf("computing took %s at best before the kill, %s after it", time.Duration(slices.Min(before)), time.Duration(slices.Min(after)))
}

// cpuNs is what the first thread of a process has run, by the scheduler.
func cpuNs(t *testing.T, pid string) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/schedstat")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// poll5 tells whether ok holds at six looks 10 ms apart.
func poll5(ok func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 5 {
		if !ok() {
			return false
		}
		<-tick.C
	}
	return ok()
}

func monotonic(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}
