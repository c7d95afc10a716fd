//go:build slurm

package slurmtest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pipefill/controller/slurm"
	"pipefill/test/faultpoint"
)

// victim is a daemon that is killed at moment after moment.
type victim struct {
	name    string
	moments []string // still to come; the first is armed
}

// around lists the moments before and after each write.
func around(writes ...string) []string {
	var moments []string
	for _, w := range writes {
		moments = append(moments, "before "+w, "after "+w)
	}
	return moments
}

// TestCrash kills all daemons before and after each durable write of an
// assignment, and then at random moments, while fill jobs come and go: of each
// one attempt completes, and it is charged what ran.
func TestCrash(t *testing.T) {
	needBuilt(t, "faultpoint/pipefilld", "faultpoint/pipefillctld", "libpipefill.so", "spank_pipefill.so")
	build, err := filepath.Abs("../../build/faultpoint")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PIPEFILL_BUILD", build)
	// The controller is to see a job between attached and running, and not be in
	// step with jobs that come whenever it has seen the last ones' end.
	c := newCluster(t, "--trace", "--ctld=poll_ms: 100")
	main := c.trainer(t, 1000000, generous)
	c.awaitJob(t, main, "to run", slurm.Job.Running)
	// A rank that begins without its daemon stays unfilled: it is waited for once.
	await(t, "both ranks to have attached", func() bool {
		slots, err := c.controller(t).Slots(t.Context())
		return err == nil && len(slots) == 2
	})
	f := &flow{c: c, outs: map[int64]string{}}

	t.Run("around every write", func(t *testing.T) {
		victims := []*victim{
			{"pipefillctld", around("reserve", "advance assignment to released", "advance assignment to attached", "advance assignment to running",
				"end assignment", "take usage")},
			// A step that has attached and got no answer holds its slot until the
			// controller has sent it back: one node loses that time, not both.
			{"pipefilld.n0", around("attached", "charge", "ended")},
			{"pipefilld.n1", around("running", "stopping", "forget assignment")},
		}
		for _, v := range victims {
			c.rearm(t, v)
		}
		left := func() (all []string) {
			for _, v := range victims {
				for _, m := range v.moments {
					all = append(all, v.name+" "+m)
				}
			}
			return all
		}
		// Longer than patience: a job that was lost on its way starts again after 15 s.
		begin, deadline := time.Now(), time.Now().Add(3*patience)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for len(left()) > 0 {
			<-tick.C
			if time.Now().After(deadline) {
				t.Fatalf("not killed within %s: %s", 3*patience, strings.Join(left(), "; "))
			}
			f.feed(t, 4)
			for _, v := range victims {
				if len(v.moments) > 0 && !c.alive(t, v.name) {
					t.Logf("%4.1f s: %s was killed %s", time.Since(begin).Seconds(), v.name, v.moments[0])
					v.moments = v.moments[1:]
					c.rearm(t, v)
				}
			}
		}
	})

	t.Run("at random moments", func(t *testing.T) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 12 {
			f.feed(t, 4)
			name := []string{"pipefillctld", "pipefilld.n0", "pipefilld.n1"}[rng.IntN(3)]
			<-time.After(time.Duration(rng.IntN(900)) * time.Millisecond)
			c.kill(t, name)
			c.script(t, "start", name)
		}
	})

	t.Run("each completes once and is charged what it ran", func(t *testing.T) {
		// Slurm forgets a job half a minute after its end; the controller does not.
		for _, id := range slices.Sorted(maps.Keys(f.outs)) {
			await(t, fmt.Sprintf("the controller to say how job %d ended", id), func() bool {
				j, err := c.controller(t).Job(t.Context(), id)
				return err == nil && slices.Contains([]string{"completed", "failed", "cancelled", "evicted", "lost"}, j.State)
			})
			if j, text := c.fillJob(t, id), c.read(t, f.outs[id]); j.State != "completed" || strings.Count(text, "ended") != 1 {
				t.Errorf("job %d is %s (%s): %q", id, j.State, j.Reason, text)
			}
			if row := c.charged(t, id); row.Completed != 1 || row.Ended() != 1 {
				t.Errorf("job %d: the report says %+v", id, row)
			}
			c.checkLedger(t, id)
		}
		t.Logf("%d fill jobs", len(f.outs))
		if !c.job(t, main).Running() {
			t.Error("the main job has ended")
		}
		c.noneDrained(t)
	})
}

// flow keeps fill jobs coming.
type flow struct {
	c    *cluster
	outs map[int64]string
}

// feed submits jobs until so many have not come to their end.
func (f *flow) feed(t *testing.T, want int) {
	t.Helper()
	open := 0
	for _, out := range f.outs {
		if !strings.Contains(f.c.read(t, out), "ended") {
			open++
		}
	}
	for ; open < want; open++ {
		out := f.c.output(t, fmt.Sprintf("flow.%d", len(f.outs)))
		f.outs[f.c.sbatch(t, "pf_ann", busy(100+100*(len(f.outs)%4)), "-p", "pipefill", "--mem=100", "-o", out, "--open-mode=append")] = out
	}
}

// rearm starts a daemon that is to die at its next moment, or one that is not
// where none is left.
func (c *cluster) rearm(t *testing.T, v *victim) {
	t.Helper()
	moment := ""
	if len(v.moments) > 0 {
		moment = v.moments[0]
	}
	t.Setenv(faultpoint.Variable, moment)
	if c.alive(t, v.name) {
		c.script(t, "stop", v.name)
	}
	c.script(t, "start", v.name)
}

// kill ends a daemon as a crash would, and returns when it is dead.
func (c *cluster) kill(t *testing.T, name string) {
	t.Helper()
	c.must(t, "root", "kill", "-9", strings.TrimSpace(c.read(t, filepath.Join(c.dir, "pid", name))))
	await(t, name+" to be dead", func() bool { return !c.alive(t, name) })
}

// alive tells whether a daemon runs: a zombie does not.
func (c *cluster) alive(t *testing.T, name string) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strings.TrimSpace(c.read(t, filepath.Join(c.dir, "pid", name))) + "/status")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(status), "\nState:\t")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}
