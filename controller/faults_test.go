package controller

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// A schedule is a life of Slurm, two nodes and the controller in which calls
// fail, are done late or twice, answers are lost, messages overtake each other,
// the controller dies between any two of its writes, nodes go away and main jobs
// end, and the controller's clock jumps: all by the seed. After each step the
// invariants are held against the world.
const (
	// PIPEFILL_SCHEDULES says otherwise; under the race detector, which takes ten
	// times as long, there are fewer.
	schedules     = 10_000
	scheduleSteps = 30
	// graceS is how long a fill job may run after its main job has left.
	graceS = 3
)

// newFaultWorld is a world on a store that is cleared first.
func newFaultWorld(t *testing.T, st *store.Store, seed uint64, bug string) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 11)), nowS: 1_000_000, calm: 40, jobs: map[int64]*worldJob{}, nodes: map[string]*worldNode{}, store: st, memory: true,
		violated: map[string]string{}, bug: bug, mainless: map[int64]int64{}, jobOf: map[int64]int64{}, slurmFails: 0.1, answersLost: 0.2, callsLate: 0.3, syncsLate: 0.1, endsUnheard: 0.1,
	}
	if bug != "" { // more goes wrong at once: one fault alone is mended in time
		w.calm, w.answersLost, w.syncsLate = 8, 0.5, 0.4
	}
	gangs := bug == "" && seed%2 == 1 || strings.Contains(bug, "gang") // two devices a node, and a job that wants both
	for i := range 2 {
		n := &worldNode{name: fmt.Sprintf("n%d", i), orders: map[int64]pipefill.Assignment{}, records: map[int64]api.NodeAssignment{}, charged: map[int64]int64{}, mains: map[int64]int64{}, second: gangs}
		w.nodes[n.name] = n
		w.startMain(n)
	}
	for i := range 3 {
		id := int64(100 + i)
		once := w.rng.IntN(4) == 0
		w.jobs[id] = &worldJob{workS: 2 + w.rng.IntN(6), once: once, Job: slurm.Job{
			ID: id, ArrayTask: -1, Name: "fill", UID: 1000, User: "ann", Partition: "pipefill", State: "PENDING", Held: true,
			SubmitMs: w.ms(), Requeue: !once, Batch: true, TimeLimitMin: 60, NodeCount: 1,
		}}
	}
	if gangs {
		w.jobs[101].Options = "fill,devices=2"
	}
	w.boot()
	return w
}

// step lets one thing happen.
func (w *world) step() {
	switch w.rng.IntN(12) {
	case 0, 1:
		w.disturb()
	case 2:
		w.killAt = w.writes + 1 + w.rng.IntN(4)
	case 3:
		if w.dead {
			w.boot()
		}
	case 4:
		w.skewMs = 0
		if w.rng.IntN(2) == 0 {
			w.skewMs = int64(w.rng.IntN(1_200_000)) - 600_000 // ten minutes back or forth
		}
	case 5:
		if len(w.lateCalls) > 0 {
			i := w.rng.IntN(len(w.lateCalls))
			do := w.lateCalls[i]
			w.lateCalls = append(w.lateCalls[:i], w.lateCalls[i+1:]...)
			do()
		}
	case 6:
		if len(w.lateSyncs) > 0 {
			i := w.rng.IntN(len(w.lateSyncs))
			_, _ = w.ctl.Sync(w.t.Context(), w.lateSyncs[i]) // its sender has given it up
			w.lateSyncs = append(w.lateSyncs[:i], w.lateSyncs[i+1:]...)
		}
	}
	w.second()
}

// hold checks what is true at every moment.
func (w *world) hold() {
	w.t.Helper()
	devices, jobs := map[string]int64{}, map[int64]int64{}
	for _, a := range w.store.LiveAll() {
		for _, d := range a.Devices() {
			place := a.Node + " " + string(d)
			if other, ok := devices[place]; ok {
				w.violate("booked", "assignments %d and %d have %s", other, a.ID, place)
			}
			devices[place] = a.ID
		}
		if other, ok := jobs[a.Job.JobID]; ok {
			w.violate("twice", "assignments %d and %d are of job %d", other, a.ID, a.Job.JobID)
		}
		jobs[a.Job.JobID] = a.ID
		w.holdGang("in the queue", a.Job.JobID, a.Devices())
	}
	running := map[int64]string{}
	for name, n := range w.nodes {
		busy := map[pipefill.DeviceID]int64{}
		for id, r := range n.records {
			if r.State == pipefill.AssignmentEnded {
				delete(w.mainless, id)
				continue
			}
			for _, d := range devicesOfRecord(r) {
				if busy[d] != 0 {
					w.violate("booked", "assignments %d and %d are both on %s of %s", busy[d], id, d, name)
				}
				busy[d] = id
			}
			w.holdGang("on "+name, r.Job.JobID, devicesOfRecord(r))
			if other, ok := running[r.Job.JobID]; ok {
				w.violate("twice", "job %d is on %s and %s", r.Job.JobID, name, other)
			}
			running[r.Job.JobID] = name
			w.holdMain(n, id)
		}
	}
	scripts := map[string]int64{}
	for id, j := range w.jobs {
		for _, d := range j.onDevices {
			place := j.on + " " + string(d)
			if other := scripts[place]; j.on != "" && other != 0 {
				w.violate("booked", "jobs %d and %d run on %s", id, other, place)
			}
			scripts[place] = id
		}
		w.holdJob(id, j)
	}
}

// holdGang checks that a job has as many devices as it asks for.
func (w *world) holdGang(where string, job int64, devices []pipefill.DeviceID) {
	if want := devicesOf(w.jobs[job].Job); len(devices) != want {
		w.violate("gang", "job %d asks for %d devices, and has %v %s", job, want, devices, where)
	}
}

// holdMain checks that an assignment's main job is there. On a node whose daemon
// is dead the supervisor keeps the job stopped.
func (w *world) holdMain(n *worldNode, id int64) {
	if n.hasMain && n.mains[id] == n.main.Job.JobID && n.has(devicesOfRecord(n.records[id])) || n.away > w.nowS {
		delete(w.mainless, id)
		return
	}
	if w.mainless[id] == 0 {
		w.mainless[id] = w.nowS
	}
	if w.nowS-w.mainless[id] > graceS {
		w.violate("main", "assignment %d has run for %d s on %s without its main job", id, w.nowS-w.mainless[id], n.name)
	}
}

// holdJob checks that a job that Slurm may still run is known, and that no more
// usage is counted than there was.
func (w *world) holdJob(id int64, j *worldJob) {
	row := w.store.Open("test", id)
	if row == nil && w.nowS%5 == 0 { // the database is asked
		if job, err := w.store.JobByID(w.t.Context(), "test", id); err != nil && w.nowS > 1_000_100 && !w.dead {
			w.violate("lost", "job %d is not in the queue: %v", id, err)
		} else if err == nil && job.Outcome == pipefill.OutcomeCancelled && j.Pending() {
			w.violate("lost", "job %d waits in Slurm, and has ended here: %s", id, job.Reason)
		}
	}
	if row == nil {
		return
	}
	var charged int64
	for _, n := range w.nodes {
		for assignment, ns := range n.charged {
			if w.jobOf[assignment] == id {
				charged += ns
			}
		}
	}
	if row.DeviceMs > charged/1e6 {
		w.violate("usage", "job %d: %d ms counted, and it ran for %d ms", id, row.DeviceMs, charged/1e6)
	}
}

// live runs one schedule, and every twentieth to its end; with a bug, whose
// world may have none, for longer instead.
func live(t *testing.T, st *store.Store, seed uint64, bug string) (*store.Store, map[string]string) {
	if err := st.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := newFaultWorld(t, st, seed, bug)
	steps := scheduleSteps
	if bug != "" {
		steps = 150
	}
	for range steps {
		w.step()
		w.hold()
		if len(w.violated) > 0 {
			break
		}
	}
	if len(w.violated) == 0 && seed%20 == 0 && bug == "" {
		w.skewMs, w.callsLate, w.syncsLate = 0, 0, 0
		for _, do := range w.lateCalls {
			do()
		}
		w.settle()
		w.check()
	}
	w.store.OnWrite = nil
	return w.store, w.violated
}

func memoryStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Memory(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestFaults_TheInvariantsHold(t *testing.T) {
	count := schedules
	if raceDetector {
		count /= 20
	}
	if text := os.Getenv("PIPEFILL_SCHEDULES"); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	workers := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			st := memoryStore(t)
			for seed := k; seed < count && !t.Failed(); seed += workers {
				var violated map[string]string
				st, violated = live(t, st, uint64(seed), "")
				for invariant, how := range violated {
					t.Errorf("schedule %d: %s: %s", seed, invariant, how)
				}
			}
			_ = st.Close()
		})
	}
	wg.Wait()
	t.Logf("%d schedules of %d steps", count, scheduleSteps)
}

// Each invariant can fail: a bug of its own, in what it is about, is found.
func TestFaults_EachInvariantFindsItsBug(t *testing.T) {
	for bug, invariant := range map[string]string{
		"a listing is cut short and taken whole": "lost",
		"a requeued job runs on":                 "twice",
		"usage is numbered anew":                 "usage",
		"processes outlive their job":            "booked",
		"main jobs' ends go unseen":              "main",
		"a gang's other devices are forgotten":   "gang",
	} {
		t.Run(bug, func(t *testing.T) {
			st := memoryStore(t)
			found := map[string]string{}
			seed := uint64(0)
			for ; seed < 1000 && found[invariant] == ""; seed++ {
				st, found = live(t, st, seed, bug)
			}
			_ = st.Close()
			if found[invariant] == "" {
				t.Fatalf("not found in 1000 schedules: %v", found)
			}
			t.Logf("schedule %d: %s", seed-1, found[invariant])
		})
	}
}
