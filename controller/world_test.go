package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/schedule"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// world is Slurm and two nodes in simulated time, which tell the truth late,
// fail, forget answers and die; the controller and its database are real.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	dir  string
	nowS int64

	jobs  map[int64]*worldJob
	nodes map[string]*worldNode
	ends  map[int64]int64 // of main jobs, ms

	ctl    *Controller
	store  *store.Store
	dead   bool // the controller was killed: nothing it does happens
	writes int
	killAt int // so many halves of writes from now; 0: never

	down        bool    // there is no slurmctld
	slurmFails  float64 // chance that a call fails, half of them after it did its work
	answersLost float64

	// Of faults_test.go.
	memory      bool              // the database is in memory
	violated    map[string]string // invariant -> how; nil: a violation fails the test
	bug         string            // seeded into the world or what it stands for
	skewMs      int64             // the controller's clock against all others
	lateCalls   []func()          // commands that failed, and are done after all
	lateSyncs   []api.NodeSync    // messages on their way
	callsLate   float64
	syncsLate   float64
	endsUnheard float64         // chance that Slurm loses a node before it hears of a job's end
	calm        int             // one disturbance in a quarter as many steps
	jobOf       map[int64]int64 // assignment -> job that attached by it
	mainless    map[int64]int64 // assignment -> since when it runs without a main job, s
}

// builtin are the policies, compiled once: a world starts many controllers.
var builtin = sync.OnceValue(schedule.Builtin)

// violate notes that what must always be true is not.
func (w *world) violate(invariant, format string, args ...any) {
	w.t.Helper()
	if w.violated == nil {
		w.t.Errorf(invariant+": "+format, args...)
		return
	}
	w.violated[invariant] = fmt.Sprintf(format, args...)
}

type worldJob struct {
	slurm.Job
	workS     int    // device seconds it takes
	once      bool   // --no-requeue
	doneS     int    // in this attempt
	started   int    // attempts that ran
	completed int    // attempts that ran to their end
	on        string // the node where its script runs; ""
	onDevices []pipefill.DeviceID
	unheard   bool // has ended, and Slurm does not know
	requeued  int  // times that it was requeued after an end that Slurm had not heard of
}

type worldNode struct {
	name    string
	main    api.MainDevice
	hasMain bool
	second  bool  // the main job has a second device here
	gone    bool  // which has left
	away    int64 // until when its daemon is dead
	orders  map[int64]pipefill.Assignment
	records map[int64]api.NodeAssignment // durable
	seen    int64
	usage   []pipefill.Usage
	seq     int64
	syncs   int64
	charged map[int64]int64 // assignment -> ns, all that the ledger ever held
	wants   *worldJob
	mains   map[int64]int64 // assignment -> main job
	plans   []api.Plan      // in the order in which they came
}

var (
	errKilled = errors.New("killed")
	errSlurm  = pipefill.Errorf(pipefill.CodeUnavailable, "slurmrestd does not answer")
)

func newWorld(t *testing.T, seed uint64, jobs int) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 7)), dir: t.TempDir(), nowS: 1_000_000, calm: 40, jobs: map[int64]*worldJob{}, nodes: map[string]*worldNode{}, jobOf: map[int64]int64{}}
	for i := range 2 {
		name := fmt.Sprintf("n%d", i)
		n := &worldNode{name: name, orders: map[int64]pipefill.Assignment{}, records: map[int64]api.NodeAssignment{}, charged: map[int64]int64{}, mains: map[int64]int64{}}
		w.nodes[name] = n
		w.startMain(n)
	}
	for i := range jobs {
		id := int64(100 + i)
		once := w.rng.IntN(4) == 0
		w.jobs[id] = &worldJob{workS: 3 + w.rng.IntN(20), once: once, Job: slurm.Job{
			ID: id, ArrayTask: -1, Name: "fill", UID: 1000, User: "ann", Partition: "pipefill", State: "PENDING", Held: true,
			SubmitMs: w.ms(), Requeue: !once, Batch: true, TimeLimitMin: 60, NodeCount: 1,
		}}
	}
	w.boot()
	t.Cleanup(func() { _ = w.store.Close() })
	return w
}

func (w *world) ms() int64 { return w.nowS * 1000 }

// boot starts the controller on the database as it is.
func (w *world) boot() {
	log := slog.New(slog.DiscardHandler)
	var st *store.Store
	var err error
	switch {
	case w.memory:
		st, err = w.store.Again(w.t.Context())
	case w.store != nil:
		if err := w.store.Close(); err != nil {
			w.t.Fatal(err)
		}
		fallthrough
	default:
		st, err = store.Open(w.t.Context(), w.dir, log)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	st.OnWrite = w.onWrite
	w.store, w.dead = st, false
	cfg := defaultConfig()
	cfg.Cluster, cfg.policies = "test", builtin()
	w.ctl = New(cfg, st, w, log, func() time.Time { return time.UnixMilli(w.ms() + w.skewMs) })
	w.ctl.dispatcher.inline = true
	w.ctl.dispatcher.rate.SetLimit(rate.Inf)
}

func (w *world) onWrite(doing string, _ bool) error {
	if doing == "see jobs" || doing == "see main jobs" {
		return w.alive() // the mirror: nothing that could be lost
	}
	w.writes++
	if w.killAt > 0 && w.writes == w.killAt {
		w.dead = true
	}
	return w.alive()
}

func (w *world) alive() error {
	if w.dead {
		return errKilled
	}
	return nil
}

// call is what every question to Slurm goes through; it tells whether the work
// is done, and what the caller is told.
func (w *world) call() (works bool, err error) {
	if w.dead {
		return false, errKilled
	}
	if w.rng.Float64() < w.slurmFails {
		return w.rng.IntN(2) == 0, errSlurm
	}
	return true, nil
}

func (w *world) List(context.Context, []string, time.Time) (slurm.Listing, error) {
	works, err := w.call()
	if w.down {
		works, err = false, errSlurm
	}
	if !works || err != nil {
		return slurm.Listing{}, errors.Join(err, w.alive())
	}
	var l slurm.Listing
	for _, id := range slices.Sorted(maps.Keys(w.jobs)) {
		if w.bug == "a listing is cut short and taken whole" && w.rng.IntN(20) == 0 {
			break
		}
		l.Jobs = append(l.Jobs, w.jobs[id].Job)
	}
	l.Ends = maps.Clone(w.ends)
	return l, nil
}

func (w *world) Down(context.Context) bool { return w.down && !w.dead }

func (w *world) States(context.Context) (map[string]string, bool, error) {
	return nil, false, w.alive()
}

func (w *world) Read(_ context.Context, id int64) (slurm.Listing, error) {
	works, err := w.call()
	switch {
	case !works || err != nil:
		return slurm.Listing{}, errors.Join(err, w.alive())
	case w.jobs[id] == nil || w.bug == "a listing is cut short and taken whole":
		return slurm.Listing{}, pipefill.Errorf(pipefill.CodeNotFound, "no job %d", id)
	}
	return slurm.Listing{Jobs: []slurm.Job{w.jobs[id].Job}}, nil
}

func (w *world) Partitions(context.Context) ([]slurm.Partition, error) { return nil, w.alive() }

func (w *world) Split(context.Context, slurm.Array, int) error { return w.alive() }

func (w *world) Nodes(context.Context) ([]slurm.Node, error) { return nil, w.alive() }

func (w *world) change(id int64, allowed func(*worldJob) bool, do func(*worldJob)) error {
	works, err := w.call()
	j := w.jobs[id]
	if j == nil && err == nil {
		return pipefill.Errorf(pipefill.CodeNotFound, "no job %d", id)
	}
	if err != nil && !w.dead && w.rng.Float64() < w.callsLate {
		w.lateCalls = append(w.lateCalls, func() {
			if allowed(j) {
				do(j)
			}
		})
		return err
	}
	if works && !allowed(j) {
		return pipefill.Errorf(pipefill.CodeConflict, "job %d is %s", id, j.State)
	}
	if works {
		do(j)
	}
	return err
}

func (w *world) Hold(_ context.Context, id int64) error {
	return w.change(id, func(j *worldJob) bool { return j.Pending() }, func(j *worldJob) { j.Held, j.PinnedNode = true, "" })
}

func (w *world) PinRelease(_ context.Context, id int64, node string) error {
	return w.change(id, func(j *worldJob) bool { return j.Pending() || j.Running() && j.Nodes == node }, func(j *worldJob) {
		if j.Pending() {
			j.Held, j.PinnedNode, j.EligibleMs = false, node, 0
		}
	})
}

func (w *world) RequeueHold(_ context.Context, id int64) error {
	// As the client does: it gives a job the right to be requeued first.
	return w.change(id, func(*worldJob) bool { return true }, func(j *worldJob) {
		switch {
		case j.Pending():
			j.Held, j.PinnedNode = true, ""
		case j.State != "COMPLETED": // that one the client leaves alone
			w.requeue(j)
		}
	})
}

func (w *world) Cancel(_ context.Context, id int64) error {
	if w.jobs[id] == nil {
		return w.alive()
	}
	return w.change(id, func(*worldJob) bool { return true }, func(j *worldJob) {
		if !j.Ended() {
			w.leaveNode(j, pipefill.OutcomeFailed, "ended by signal 15")
			j.State, j.Held, j.EndMs = "CANCELLED", false, w.ms()
		}
	})
}

func (w *world) Annotate(_ context.Context, id int64, field slurm.Field, ran string) error {
	return w.change(id, func(*worldJob) bool { return true }, func(j *worldJob) {
		if field == slurm.FieldAdminComment {
			j.AdminComment = ran
		} else {
			j.Comment = ran
		}
	})
}

func (w *world) SetTimeLimit(context.Context, int64, int64) error { return w.alive() }

// requeue sends a job back, held, as another attempt.
func (w *world) requeue(j *worldJob) {
	w.leaveNode(j, pipefill.OutcomeFailed, "ended by signal 15")
	if j.unheard {
		j.requeued++
	}
	j.State, j.Held, j.PinnedNode, j.Nodes, j.doneS, j.unheard = "PENDING", true, "", "", 0, false
	j.Restarts++
}

// loseEnd is Slurm's of a node that it has lost before it heard that a job had
// ended there: the job is requeued as it was, pinned and not held.
func (w *world) loseEnd(j *worldJob) {
	if j.once {
		j.State, j.EndMs, j.unheard = "NODE_FAIL", w.ms(), false
		return
	}
	pin := j.PinnedNode
	w.requeue(j)
	j.Held, j.PinnedNode, j.EligibleMs = false, pin, w.ms()+121_000
}

// leaveNode tells the node, daemon or not, that the job's script is over: what
// it does not hear it finds out.
func (w *world) leaveNode(j *worldJob, outcome pipefill.Outcome, reason string) {
	n := w.nodes[j.Nodes]
	if n == nil {
		return
	}
	if n.wants == j {
		n.wants = nil
	}
	if w.bug == "a requeued job runs on" && outcome != pipefill.OutcomeCompleted {
		return
	}
	if w.bug != "processes outlive their job" {
		j.on = ""
	}
	if r, ok := n.live(j); ok {
		r.State, r.Outcome, r.Reason, r.EndedMs = pipefill.AssignmentEnded, outcome, reason, w.ms()
		n.records[r.ID] = r
	}
}

// live is the node's record of a job's attempt.
func (n *worldNode) live(j *worldJob) (api.NodeAssignment, bool) {
	for _, r := range n.records {
		if r.Job.JobID == j.ID && r.Job.Restarts == j.Restarts && r.State != pipefill.AssignmentEnded {
			return r, true
		}
	}
	return api.NodeAssignment{}, false
}

func (w *world) startMain(n *worldNode) {
	n.hasMain = true
	n.main = api.MainDevice{Job: pipefill.JobKey{Cluster: "test", JobID: 5000 + w.nowS%1000*10 + int64(len(n.name))}, Device: "cpu:0", Enabled: true}
}

// evict ends the fill jobs of a main job that is gone; the daemon does it.
func (w *world) evict(n *worldNode) {
	if w.bug == "main jobs' ends go unseen" {
		return
	}
	for id, r := range n.records {
		if r.State == pipefill.AssignmentEnded || n.hasMain && n.mains[id] == n.main.Job.JobID && n.has(devicesOfRecord(r)) {
			continue
		}
		r.State, r.Outcome, r.Reason, r.EndedMs = pipefill.AssignmentEnded, pipefill.OutcomeEvicted, "the main job ended", w.ms()
		n.records[id] = r
		j := w.jobs[r.Job.JobID]
		j.on = ""
		if j.Running() && j.Restarts == r.Job.Restarts {
			j.State, j.Signal, j.EndMs = "FAILED", 15, w.ms() // its script was told to end
		}
	}
}

// start lets Slurm start a job that was released.
func (w *world) start(j *worldJob) bool {
	if !j.Pending() || j.Held || j.PinnedNode == "" || j.EligibleMs > w.ms() {
		return false
	}
	j.State, j.Nodes, j.StartMs, j.doneS = "RUNNING", j.PinnedNode, w.ms(), 0
	return true
}

// second lets everything happen that happens by itself.
func (w *world) second() {
	w.nowS++
	for _, id := range slices.Sorted(maps.Keys(w.jobs)) {
		j := w.jobs[id]
		switch {
		case w.start(j):
		case j.Pending() && !j.Held && j.PinnedNode == "":
			w.violate("pinned", "job %d is free to run anywhere", id)
		}
		if j.Running() {
			w.run(j)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		if n := w.nodes[name]; n.away <= w.nowS {
			w.evict(n)
			w.sync(n)
		}
	}
	w.ctl.Look(w.t.Context())
}

// run is a second of a job that Slurm has started.
func (w *world) run(j *worldJob) {
	if j.unheard {
		if w.rng.IntN(8) == 0 {
			w.loseEnd(j)
		}
		return
	}
	n := w.nodes[j.Nodes]
	r, attached := n.live(j)
	if !attached {
		w.attach(n, j)
		return
	}
	if n.away > w.nowS {
		return // its supervisor keeps it stopped
	}
	r.State = pipefill.AssignmentRunning
	n.records[r.ID] = r
	j.doneS++
	n.seq++
	ns := int64(len(devicesOfRecord(r))) * 1e9
	n.usage = append(n.usage, pipefill.Usage{Ledger: n.name, Seq: n.seq, AssignmentID: r.ID, FromMs: w.ms() - 1000, ToMs: w.ms(), DeviceNs: ns})
	n.charged[r.ID] += ns
	if j.doneS >= j.workS {
		j.completed++
		w.leaveNode(j, pipefill.OutcomeCompleted, "")
		if w.endsUnheard > 0 && w.rng.Float64() < w.endsUnheard {
			j.unheard = true
			return
		}
		j.State, j.EndMs = "COMPLETED", w.ms()
	}
}

// attach is the plugin's question.
func (w *world) attach(n *worldNode, j *worldJob) {
	if w.ms()-j.StartMs > 60_000 { // status 199: requeued and held, where it may be
		if !j.once {
			w.requeue(j)
			return
		}
		j.State, j.ExitCode, j.EndMs = "FAILED", 199, w.ms()
		return
	}
	if n.away > w.nowS || w.ms()-j.StartMs > 10_000 {
		return
	}
	busy := map[pipefill.DeviceID]bool{}
	for _, r := range n.records {
		for _, d := range devicesOfRecord(r) {
			busy[d] = busy[d] || r.State != pipefill.AssignmentEnded
		}
	}
	for id, a := range n.orders {
		free := n.has(a.Devices()) && !slices.ContainsFunc(a.Devices(), func(d pipefill.DeviceID) bool { return busy[d] })
		if a.Job.JobID == j.ID && a.Job.Restarts == j.Restarts && n.hasMain && a.MainJob.JobID == n.main.Job.JobID && free {
			n.mains[id] = a.MainJob.JobID
			n.records[id] = api.NodeAssignment{ID: id, Job: a.Job, Device: a.Device, Others: a.Others, State: pipefill.AssignmentAttached}
			delete(n.orders, id)
			j.started++
			j.on, j.onDevices = n.name, a.Devices()
			w.jobOf[id] = j.ID
			return
		}
	}
	n.wants = j
}

// sync is a node's message, if the network lets it through.
func (w *world) sync(n *worldNode) {
	state := api.NodeSync{Node: n.name, OrdersSeen: n.seen, Usage: slices.Clone(n.usage), TakesPlans: true, TakesGangs: true}
	if n.hasMain {
		state.Mains = []api.MainDevice{n.main}
		if n.second && !n.gone {
			second := n.main
			second.Device = "cpu:1"
			state.Mains = append(state.Mains, second)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.records)) {
		state.Assignments = append(state.Assignments, n.records[id])
	}
	for _, a := range n.orders {
		state.Assignments = append(state.Assignments, api.NodeAssignment{ID: a.ID, Job: a.Job, Device: a.Device, Others: a.Others, State: a.State})
	}
	if n.wants != nil {
		key := pipefill.JobKey{Cluster: "test", JobID: n.wants.ID, Restarts: n.wants.Restarts}
		state.WantsJob, n.wants = &key, nil
	}
	n.syncs++
	state.Run, state.Seq = 1, n.syncs
	if w.rng.Float64() < w.syncsLate {
		w.lateSyncs = append(w.lateSyncs, state)
		return
	}
	for range 1 + w.rng.IntN(2) { // a message may come twice
		orders, err := w.ctl.Sync(w.t.Context(), state)
		if err != nil || w.dead || w.rng.Float64() < w.answersLost {
			if w.bug == "usage is numbered anew" {
				for i := range n.usage {
					n.seq++
					n.usage[i].Seq = n.seq
				}
			}
			continue
		}
		if w.bug == "a gang's other devices are forgotten" {
			orders.Assignments = slices.Clone(orders.Assignments)
			for i := range orders.Assignments {
				orders.Assignments[i].Others = ""
			}
		}
		n.obey(orders)
	}
}

// has tells whether the main job has all of some devices here.
func (n *worldNode) has(devices []pipefill.DeviceID) bool {
	return !slices.Contains(devices, "cpu:1") || n.second && !n.gone
}

func devicesOfRecord(r api.NodeAssignment) []pipefill.DeviceID {
	return pipefill.Assignment{Device: r.Device, Others: r.Others}.Devices()
}

func (n *worldNode) obey(o api.NodeOrders) {
	n.usage = slices.DeleteFunc(n.usage, func(u pipefill.Usage) bool { return u.Seq <= o.UsageAck[u.Ledger] })
	for _, id := range o.Forget {
		if n.records[id].State == pipefill.AssignmentEnded {
			delete(n.records, id)
		}
	}
	n.seen = o.Serial
	for _, p := range o.Plans {
		if r, known := n.records[p.Assignment]; known && r.Plan != p.ID { // a message may come twice
			r.Plan = p.ID
			n.records[p.Assignment] = r
			n.plans = append(n.plans, p)
		}
	}
	clear(n.orders)
	listed := map[int64]bool{}
	for _, a := range o.Assignments {
		listed[a.ID] = true
		if _, known := n.records[a.ID]; !known && (a.State == pipefill.AssignmentReserved || a.State == pipefill.AssignmentReleased) {
			n.orders[a.ID] = a
		}
	}
	for id, r := range n.records {
		if !listed[id] && r.State != pipefill.AssignmentEnded {
			r.State, r.Outcome, r.Reason = pipefill.AssignmentEnded, pipefill.OutcomeCancelled, "cancelled by the controller"
			n.records[id] = r
		}
	}
}

// disturb lets one thing go wrong, now and then.
func (w *world) disturb() {
	n := w.nodes[fmt.Sprintf("n%d", w.rng.IntN(2))]
	switch w.rng.IntN(w.calm) {
	case 0:
		if n.hasMain {
			n.hasMain = false
		} else {
			w.startMain(n)
		}
	case 1:
		n.away = w.nowS + int64(w.rng.IntN(90))
	case 2:
		w.killAt = w.writes + 1 + w.rng.IntN(6)
	case 3:
		w.dead = true
	case 4:
		n.gone = n.second && !n.gone
	}
}

// settle lets the world go on, undisturbed, until every job has ended.
func (w *world) settle() {
	w.slurmFails, w.answersLost, w.killAt, w.endsUnheard = 0, 0, 0, 0
	if w.dead {
		w.boot()
	}
	for _, n := range w.nodes {
		if n.gone = false; !n.hasMain {
			w.startMain(n)
		}
	}
	for range 3000 {
		open, err := w.store.OpenJobs(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		// A --no-requeue job that lost its one start stays held, for its owner.
		waiting := slices.DeleteFunc(open, func(j store.FillJob) bool { return j.Attempts > 0 && !j.Requeue && w.jobs[j.JobID].Pending() })
		if len(waiting) == 0 && w.quiet() && w.seen() && w.nowS > 1_000_001 {
			return
		}
		w.second()
	}
	for _, j := range w.jobs {
		w.t.Logf("job %+v", *j)
	}
	w.violate("lost", "the jobs have not ended after 3000 s")
}

// quiet tells whether the nodes have nothing left to tell.
func (w *world) quiet() bool {
	for _, n := range w.nodes {
		if len(n.usage) > 0 || n.away > w.nowS {
			return false
		}
	}
	for _, j := range w.jobs {
		if j.Running() {
			return false
		}
	}
	return true
}

// seen tells whether the controller has heard of all jobs: it may not have lived, or
// Slurm not answered, until now.
func (w *world) seen() bool {
	for id, j := range w.jobs {
		if _, err := w.store.JobByID(w.t.Context(), "test", id); pipefill.ErrorCode(err) == pipefill.CodeNotFound && !j.Ended() {
			return false
		}
	}
	return true
}

// check holds the end against what must be true of it.
func (w *world) check() {
	w.t.Helper()
	for id, j := range w.jobs {
		row, err := w.store.JobByID(w.t.Context(), "test", id)
		if pipefill.ErrorCode(err) == pipefill.CodeNotFound {
			w.violate("lost", "job %d was never seen, Slurm says %s", id, j.State)
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		attempts, err := w.store.AttemptsOf(w.t.Context(), row.ID)
		if err != nil {
			w.t.Fatal(err)
		}
		counted := 0
		for _, a := range attempts {
			if a.Outcome == pipefill.OutcomeCompleted {
				counted++
			}
		}
		switch {
		case counted > 1 || j.completed > 1+j.requeued:
			w.violate("twice", "job %d: %d attempts count as completed, %d ran to the end", id, counted, j.completed)
		case (j.completed > 0) != (row.Outcome == pipefill.OutcomeCompleted) && j.State != "NODE_FAIL" && (!j.once || !j.unheard):
			w.violate("lost", "job %d: ran to the end %d times, the queue says %q (%s)", id, j.completed, row.Outcome, row.Reason)
		case !j.once && j.completed == 0:
			w.violate("lost", "job %d: ended as %q (%s), Slurm says %s", id, row.Outcome, row.Reason, j.State)
		case j.once && j.started > 1:
			w.violate("twice", "job %d: --no-requeue, started %d times", id, j.started)
		}
		var charged int64
		for _, a := range attempts {
			charged += w.nodes[a.Node].charged[a.ID]
		}
		if row.DeviceMs != charged/1e6 {
			w.violate("usage", "job %d: %d ms counted, %d ms ran", id, row.DeviceMs, charged/1e6)
		}
	}
}

// The model answers as a real Slurm did (test/slurm/transcript_test.go).
func TestWorld_AnswersAsSlurmDid(t *testing.T) {
	text, err := os.ReadFile("testdata/transcript.slurm-22.05.8.json")
	if err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		Job, Do, State, Pinned string
		Code                   pipefill.Code
		Held                   bool
		Restarts               int
	}
	var said []outcome
	if err := json.Unmarshal(text, &said); err != nil || len(said) < 20 {
		t.Fatal(len(said), err)
	}
	w := newWorld(t, 1, 4)
	ids := map[string]int64{"long": 100, "short": 101, "once": 102, "waits": 103, "unknown": 9999}
	for i, want := range said {
		id := ids[want.Job]
		do, node, _ := strings.Cut(want.Do, " ")
		err := map[string]func() error{
			"submit":  func() error { return nil },
			"hold":    func() error { return w.Hold(t.Context(), id) },
			"requeue": func() error { return w.RequeueHold(t.Context(), id) },
			"cancel":  func() error { return w.Cancel(t.Context(), id) },
			"pin":     func() error { return w.PinRelease(t.Context(), id, node) },
			"read":    func() error { _, err := w.Read(t.Context(), id); return err },
		}[do]()
		got := outcome{Job: want.Job, Do: want.Do, Code: pipefill.ErrorCode(err)}
		if j := w.jobs[id]; j != nil {
			if w.start(j) && want.Job == "short" { // its script is over at once
				j.State = "COMPLETED"
			}
			got.State, got.Held, got.Pinned, got.Restarts = j.State, j.Held, j.PinnedNode, j.Restarts
		}
		if got != want {
			t.Errorf("step %d: the model says %+v, Slurm said %+v", i, got, want)
		}
	}
}

func TestWorld_ALifeWithoutFaults(t *testing.T) {
	w := newWorld(t, 1, 6)
	w.settle()
	w.check()
	for _, j := range w.jobs {
		if j.completed != 1 || j.started != 1 || j.Restarts != 0 {
			t.Errorf("job %d: started %d times, completed %d, %d restarts", j.ID, j.started, j.completed, j.Restarts)
		}
	}
}

// A slot knows by when Slurm ends its main job, and hears of another limit.
func TestWorld_MainJobsEnds(t *testing.T) {
	w := newWorld(t, 1, 1)
	main := w.nodes["n0"].main.Job.JobID
	for _, endMs := range []int64{w.ms() + 3_600_000, w.ms() + 7_200_000, 0} {
		w.ends = map[int64]int64{main: endMs, 7: 1}
		for range 3 {
			w.second()
		}
		seen := 0
		for _, s := range w.ctl.knownSlots() {
			if s.Main.JobID == main {
				if seen++; s.MainEndMs != endMs {
					t.Errorf("%s ends at %d, want %d", s.Node, s.MainEndMs, endMs)
				}
			}
		}
		if seen == 0 {
			t.Error("no slots")
		}
	}
}

// What cannot be read as a deadline the queue says, and the job waits all the same.
func TestQueue_SaysWhatItIgnores(t *testing.T) {
	w := newWorld(t, 1, 2)
	for _, n := range w.nodes {
		n.hasMain = false
	}
	w.jobs[100].Options = "fill,deadline=soon"
	w.jobs[101].Options = "fill,deadline=now+2hours"
	w.second()
	rows, err := w.ctl.Queue(t.Context(), "")
	if err != nil || len(rows) != 2 {
		t.Fatal(rows, err)
	}
	for _, row := range rows {
		bad := strings.Contains(row.Reason, "it has no deadline: deadline=soon: write a time as sbatch --deadline takes it")
		if row.State != "queued" || bad != (row.JobID == 100) || (row.DeadlineMs == 0) != bad {
			t.Errorf("%+v", row)
		}
	}
}

// The controller is killed before and after each durable write of an
// assignment or usage, one at a time.
func TestWorld_KilledAroundEveryWrite(t *testing.T) {
	for at := 1; ; at++ {
		w := newWorld(t, 2, 2)
		w.killAt = at
		for range 200 {
			w.second()
			if w.dead {
				break
			}
		}
		killed := w.dead
		w.settle()
		w.check()
		if !killed {
			if at < 15 {
				t.Errorf("only %d places to be killed at", at)
			}
			return
		}
		if t.Failed() {
			t.Fatalf("killed at place %d", at)
		}
	}
}

// Everything goes wrong, at random: at the end exactly one attempt of each job
// counts, and the usage is what ran.
func TestWorld_ExactlyOneAttemptCounts(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, 8)
			w.slurmFails, w.answersLost, w.endsUnheard = 0.1, 0.2, 0.2
			for range 400 {
				w.disturb()
				if w.dead && w.rng.IntN(5) == 0 {
					w.boot()
				}
				w.second()
			}
			w.settle()
			w.check()
		})
	}
}
