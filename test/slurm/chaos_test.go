//go:build slurm

package slurmtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pipefill/api"
	"pipefill/controller/slurm"
)

// chaosRounds is how many rounds there are; PIPEFILL_ROUNDS says otherwise, and
// PIPEFILL_SEED repeats a run's choices.
const chaosRounds = 5

// TestChaos kills daemons at random moments with fill jobs running and waiting,
// and holds the invariants of the model (controller/faults_test.go) against the
// real thing: no job lost, none run twice at once, its usage counted once, no
// slot with two jobs, no fill job without its main job.
func TestChaos(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	rounds, seed := number(t, "PIPEFILL_ROUNDS", chaosRounds), number(t, "PIPEFILL_SEED", int(time.Now().UnixNano()%1e9))
	t.Logf("PIPEFILL_SEED=%d PIPEFILL_ROUNDS=%d", seed, rounds)
	c := &chaos{cluster: newCluster(t, "--trace", "--node=floor_ms: 0"), rng: rand.New(rand.NewPCG(uint64(seed), 1)), outs: map[int64]string{}}
	for round := range rounds {
		c.round(t, round)
		if t.Failed() {
			t.Fatalf("in round %d of PIPEFILL_SEED=%d", round, seed)
		}
	}
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

type chaos struct {
	*cluster
	rng  *rand.Rand
	main int64
	outs map[int64]string
}

// pause waits for a random time.
func (c *chaos) pause(most time.Duration) {
	<-time.After(time.Duration(c.rng.Int64N(int64(most))))
}

func (c *chaos) round(t *testing.T, round int) {
	t.Helper()
	if c.main == 0 || !c.runs(t, c.main) {
		c.main = c.trainer(t, 100000, generous, "--no-requeue")
		c.awaitJob(t, c.main, "to run", slurm.Job.Running)
	}
	victims := []string{"pipefillctld", "pipefilld.n0", "pipefilld.n1", "slurmctld", "slurmd.n0", "slurmd.n1", "slurmrestd"}
	c.rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	victims = victims[:1+c.rng.IntN(2)]
	forgets := slices.Contains(victims, "slurmctld")
	var ids []int64
	for i := range 3 {
		out := c.output(t, fmt.Sprintf("chaos%d.%d", round, i))
		lock := filepath.Join(c.dir, "log", fmt.Sprintf("chaos%d.%d.lock", round, i))
		if err := os.WriteFile(lock, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(lock, 0o666); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("exec 9>>%s; flock -n 9 || echo TWICE; %s", lock, busy(300+c.rng.IntN(700)))
		id := c.sbatch(t, "pf_ann", script, "-p", "pipefill", "-o", out, "--open-mode=append")
		ids, c.outs[id] = append(ids, id), out
	}
	if forgets {
		// A slurmctld that is killed forgets what it has not saved, whole jobs too.
		<-time.After(6 * time.Second)
	}
	c.pause(2 * time.Second)
	t.Logf("round %d: jobs %v, killed: %s", round, ids, strings.Join(victims, ", "))
	for _, v := range victims {
		c.kill(t, v)
		c.pause(time.Second)
	}
	for _, v := range victims {
		c.script(t, "start", v)
		c.pause(500 * time.Millisecond)
	}
	await(t, "Slurm to answer again", func() bool { _, err := c.client.Ping(t.Context()); return err == nil })
	for _, id := range ids {
		c.settled(t, id, forgets)
	}
	c.resume(t)
	if round%3 == 2 {
		c.withoutMain(t)
	}
}

func (c *chaos) runs(t *testing.T, id int64) bool {
	t.Helper()
	j, err := c.client.Job(t.Context(), id)
	return err == nil && j.Running()
}

// settled waits for a job's end, and holds what its script, the controller and
// the ledger say against each other.
func (c *chaos) settled(t *testing.T, id int64, forgets bool) {
	t.Helper()
	var last api.FillJob
	done := func() bool {
		c.slotsOnce(t)
		job, err := c.controller(t).Job(t.Context(), id)
		if err == nil {
			last = job
		}
		return err == nil && slices.Contains([]string{"completed", "failed", "lost", "cancelled", "evicted"}, job.State)
	}
	ok := false
	for range 3 { // a busy machine takes long
		ok = ok || poll(done)
	}
	text := c.read(t, c.outs[id])
	ended := strings.Count(text, "ended")
	switch {
	case !ok:
		t.Errorf("job %d has not ended after %s: %+v", id, 3*patience, last)
	case strings.Contains(text, "TWICE"):
		t.Errorf("job %d ran twice at once: %q", id, text)
	case ended > 1:
		t.Errorf("job %d came to its end %d times: %q", id, ended, text)
	case (last.State == "completed") != (ended == 1) && !forgets:
		t.Errorf("job %d is %s (%s), and came to its end %d times", id, last.State, last.Reason, ended)
	case last.State == "completed" && ended != 1, last.State != "completed" && !forgets:
		t.Errorf("job %d is %s: %s", id, last.State, last.Reason)
	}
	if ended == 1 {
		c.checkLedger(t, id)
	}
}

// slotsOnce holds that no slot has two jobs, and no job two slots.
func (c *chaos) slotsOnce(t *testing.T) {
	t.Helper()
	slots, err := c.controller(t).Slots(t.Context())
	if err != nil {
		return // it is starting
	}
	jobs, places := map[int64]string{}, map[string]int64{}
	for _, s := range slots {
		place := s.Node + " " + string(s.Main.Device)
		if s.FillJob == 0 {
			continue
		}
		if jobs[s.FillJob] != "" || places[place] != 0 {
			t.Errorf("job %d is on %s and on %s", s.FillJob, place, jobs[s.FillJob])
		}
		jobs[s.FillJob], places[place] = place, s.FillJob
	}
}

// withoutMain ends the main job under running fill jobs: they are gone soon.
func (c *chaos) withoutMain(t *testing.T) {
	t.Helper()
	out := c.output(t, fmt.Sprintf("evicted%d", c.main))
	id := c.sbatch(t, "pf_ann", "echo begun; sleep 600", "-p", "pipefill", "-o", out, "--open-mode=append")
	await(t, "a fill job to begin", func() bool { return strings.Contains(c.read(t, out), "begun") })
	if err := c.client.Cancel(t.Context(), c.main); err != nil {
		t.Fatal(err)
	}
	c.awaitJob(t, c.main, "to end", func(j slurm.Job) bool { return j.State == "CANCELLED" })
	end := time.Now().Add(10 * time.Second) // the grace time, Slurm's own and a slow machine
	for time.Now().Before(end) && c.left(t) {
		<-time.After(100 * time.Millisecond)
	}
	if c.left(t) {
		t.Error("a fill job's processes are there without a main job")
	}
	if err := c.client.Cancel(t.Context(), id); err != nil {
		t.Error(err)
	}
	c.main = 0
}

func (c *chaos) left(t *testing.T) bool {
	t.Helper()
	return slices.ContainsFunc([]string{"n0", "n1"}, func(n string) bool {
		return slices.ContainsFunc(c.groups(t, n), func(procs string) bool { return procs != "" })
	})
}

// resume puts nodes back that Slurm took out of service: it does where a
// slurmctld that forgot a job gives its number again. Nothing else may.
func (c *chaos) resume(t *testing.T) {
	t.Helper()
	out := c.must(t, "root", "sinfo", "-h", "-N", "-p", "main", "-o", "%N %T %E")
	for line := range strings.Lines(out) {
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) < 3 || !strings.Contains(fields[1], "drain") && !strings.Contains(fields[1], "down") {
			continue
		}
		t.Logf("node %s was %s: %s", fields[0], fields[1], fields[2])
		c.must(t, "root", "scontrol", "update", "NodeName="+fields[0], "State=RESUME")
	}
}
