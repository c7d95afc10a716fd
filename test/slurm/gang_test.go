//go:build slurm

package slurmtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pipefill/api"
	"pipefill/controller/slurm"
)

// TestGang runs fill jobs of two devices beside a main job that has both, one rank
// each, on one node.
func TestGang(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	c := newCluster(t, "--trace")
	for name, from := range map[string]string{"libpipefill.so": "build", "peers.py": "test/slurm/testdata", "chunks.py": "test/slurm/testdata"} {
		c.must(t, "root", "install", "-m", "755", filepath.Join(repository(t), from, name), c.dir+"/lib/")
	}
	c.bothCores(t, "n0")
	main := c.peers(t)
	// Both bubbles are learned, and coincide.
	fill := func(name, script string, options ...string) (int64, string) {
		t.Helper()
		out := c.output(t, name)
		return c.sbatch(t, "pf_ann", script, append([]string{"-p", "pipefill", "-o", out, "--open-mode=append"}, options...)...), out
	}

	t.Run("in mode signal it runs while both gates are open", func(t *testing.T) {
		// Two processes, which have both cores.
		id, out := fill("signal", busy(300)+" & "+busy(300)+" & wait; echo on $PIPEFILL_DEVICES", "--pipefill=fill,devices=2")
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if text := c.read(t, out); j.State != "COMPLETED" || strings.Count(text, "ended") != 2 || !strings.Contains(text, "on cpu:0 cpu:1\n") {
			t.Fatalf("%s: %s", j.State, text)
		}
		var ran []opening
		for _, list := range c.openings(t, id) {
			ran = append(ran, list...)
		}
		least := c.within(t, "n0", ran)
		_, most := c.traced(t, id)
		charged := func() bool {
			row := c.charged(t, id)
			return row.DeviceNs >= 2*least-1e6 && row.DeviceNs <= 2*most+1e6 && row.Completed == 1
		}
		if !poll(charged) {
			t.Errorf("it ran for %d to %d ns on each of two devices and is charged %+v", least, most, c.charged(t, id))
		}
	})

	t.Run("in mode chunked its chunks are within both bubbles", func(t *testing.T) {
		file := c.output(t, "chunks")
		id, out := fill("chunked", fmt.Sprintf("exec /usr/bin/python3 %[1]s/lib/chunks.py %[1]s/lib/libpipefill.so 100 %[2]s", c.dir, file), "--pipefill=fill,devices=2,mode=chunked")
		j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
		if text := c.read(t, out); j.State != "COMPLETED" || !strings.Contains(text, "begun on cpu:0 cpu:1\n") {
			t.Fatalf("%s: %s", j.State, text)
		}
		var chunks []opening
		for line := range strings.Lines(c.read(t, file)) {
			var o opening
			if _, err := fmt.Sscan(line, &o.BeginNs, &o.EndNs); err != nil {
				t.Fatal(err)
			}
			chunks = append(chunks, o)
		}
		if len(chunks) != 100 {
			t.Fatalf("%d chunks", len(chunks))
		}
		c.within(t, "n0", chunks)
	})

	t.Run("one that no node can hold says so", func(t *testing.T) {
		id, _ := fill("three", "true", "--pipefill=fill,devices=3")
		await(t, "the queue to say why", func() bool {
			row, err := c.controller(t).Job(t.Context(), id)
			return err == nil && row.State == "queued" && row.Devices == 3 && strings.Contains(row.Reason, "no main job has more than 2 on one node")
		})
		if err := c.client.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
	})

	t.Run("a rank that is killed ends it on both, and it goes back to the queue", func(t *testing.T) {
		id, out := fill("again", "echo begun; sleep 600", "--pipefill=fill,devices=2")
		await(t, "it to begin", func() bool { return strings.Contains(c.read(t, out), "begun") })
		pids := strings.Fields(c.must(t, "root", "pgrep", "-f", "^/usr/bin/python3 "+c.dir+"/lib/peers.py"))
		if len(pids) != 2 {
			t.Fatalf("ranks %v", pids)
		}
		c.must(t, "root", "kill", "-9", pids[1])
		c.awaitJob(t, id, "to be held again", func(j slurm.Job) bool { return j.Pending() && j.Held })
		c.awaitJob(t, main, "to end", slurm.Job.Ended)
		slots, err := c.controller(t).Slots(t.Context())
		if err != nil || slices.ContainsFunc(slots, func(s api.Slot) bool { return s.FillJob != 0 }) {
			t.Errorf("%+v, %v", slots, err)
		}
		if err := c.client.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
	})
	c.noneDrained(t)
}

// bothCores gives a node's daemon both cores as devices.
func (c *cluster) bothCores(t *testing.T, node string) {
	t.Helper()
	path := c.dir + "/etc/pipefilld." + node + ".yaml"
	text := strings.Replace(c.read(t, path), "  - device: \"cpu:0\"\n", "  - device: \"cpu:0\"\n  - device: \"cpu:1\"\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.script(t, "stop", "pipefilld."+node)
	c.script(t, "start", "pipefilld."+node)
}

// peers starts the main job and waits until its bubbles are known.
func (c *cluster) peers(t *testing.T) int64 {
	t.Helper()
	out := c.output(t, "peers")
	script := fmt.Sprintf("srun --kill-on-bad-exit=1 /usr/bin/python3 %[1]s/lib/peers.py %[1]s/lib/libpipefill.so 100000", c.dir)
	id := c.sbatch(t, "pf_train", script, "-p", "main", "-w", "n0", "-N1", "--ntasks=2", "-c1", "--mem=1000", "-o", out, generous)
	await(t, "both bubbles to be learned", func() bool {
		slots, err := c.controller(t).Slots(t.Context())
		learned := 0
		for _, s := range slots {
			if len(s.Main.Cycle.Bubbles) > 0 {
				learned++
			}
		}
		return err == nil && learned == 2
	})
	return id
}

// within holds what ran against the time in which all devices of a node were in a
// bubble: it begins there, and what is beyond its end is little. It returns how
// much was before the end and the deadline of each bubble.
func (c *cluster) within(t *testing.T, node string, ran []opening) (leastNs int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.dir, "trace", node, "events-*.jsonl"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	lists := make([][]bubble, len(files))
	last := ran[len(ran)-1].EndNs
	await(t, "the trace of the last bubbles", func() bool {
		for i, path := range files {
			lists[i] = offered(t, path)
		}
		return !slices.ContainsFunc(lists, func(l []bubble) bool { return len(l) == 0 || l[len(l)-1].EndNs < last })
	})
	var open, outside, early time.Duration
	for _, o := range ran {
		begin, end, deadline := int64(0), o.EndNs, o.EndNs
		for _, list := range lists {
			i, _ := slices.BinarySearchFunc(list, o.BeginNs+1, func(b bubble, at int64) int { return cmp.Compare(b.BeginNs, at) })
			if i == 0 || list[i-1].EndNs < o.BeginNs {
				begin, end, deadline = o.EndNs, o.BeginNs, o.BeginNs // in no bubble at all
				break
			}
			begin, end, deadline = max(begin, list[i-1].BeginNs), min(end, list[i-1].EndNs), min(deadline, list[i-1].DeadlineNs)
		}
		leastNs += max(0, min(end, deadline)-o.BeginNs)
		open += time.Duration(o.EndNs - o.BeginNs)
		outside += time.Duration(max(0, o.EndNs-end))
		early += time.Duration(max(0, min(begin, o.EndNs)-o.BeginNs))
	}
	t.Logf("%d times, %s in all, %s past the end of a bubble, %s before both had begun", len(ran), open, outside, early)
	// A core that somebody else has keeps the supervisor from stopping it in time.
	if len(ran) == 0 || early > 0 || outside > open/20 {
		t.Errorf("of %d times, %s in all, %s are outside of both bubbles and %s before both", len(ran), open, outside, early)
	}
	return leastNs
}

// offered reads the bubbles of one device that were offered, in order.
func offered(t *testing.T, path string) []bubble {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []bubble
	for line := range strings.Lines(string(text)) {
		var b bubble
		if json.Unmarshal([]byte(line), &b) == nil && b.DeadlineNs > 0 { // the last may be half a line
			list = append(list, b)
		}
	}
	return list
}
