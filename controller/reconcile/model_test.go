package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"pgregory.net/rapid"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// model is a cluster in which everything happens in any order: Slurm, the
// nodes, their messages, the decisions, and what comes of each action. Its
// controller is Decide and the rules of the store.
type model struct {
	t      *rapid.T
	nowMs  int64
	bootMs int64 // of the controller
	jobs   map[int64]*modelJob
	nodes  map[string]*modelNode

	// What the controller has.
	rows     []*store.FillJob
	assigned []*store.Assignment // all there ever were
	heard    map[string]Node
	list     map[int64]slurm.Job // Slurm's word, maybe a while ago
	late     []func()            // commands that failed and yet will be done
	calm     bool
}

type modelJob struct {
	slurm.Job
	once      bool // --no-requeue
	fails     bool // by itself
	cancelled bool // by its owner
	work      int
	done      int
	alive     bool // its script runs on Nodes
	starts    int  // attempts that attached
	completed int  // attempts that Slurm calls completed
	ran       bool // to its end, whether Slurm has heard of it or not
}

type modelNode struct {
	name    string
	main    int64 // job number; 0: none
	mains   int64 // so many there were
	away    bool
	orders  map[int64]pipefill.Assignment
	records map[int64]api.NodeAssignment
	mainOf  map[int64]int64 // assignment -> main job
	flight  []modelSync     // syncs on their way, oldest first
	said    int64           // so many syncs were sent
	heard   int64           // the last that arrived
}

type modelSync struct {
	Node
	seq int64
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, nowMs: 1_000_000, bootMs: 1_000_000, jobs: map[int64]*modelJob{}, nodes: map[string]*modelNode{}, heard: map[string]Node{}}
	for _, name := range []string{"n0", "n1"} {
		m.nodes[name] = &modelNode{
			name: name, orders: map[int64]pipefill.Assignment{}, records: map[int64]api.NodeAssignment{}, mainOf: map[int64]int64{},
		}
		m.startMain(m.nodes[name])
	}
	for i := range rapid.Int64Range(1, 3).Draw(t, "jobs") {
		id := 100 + i
		once := rapid.Bool().Draw(t, "once")
		m.jobs[id] = &modelJob{
			once: once, fails: rapid.IntRange(0, 9).Draw(t, "fails") == 0, work: rapid.IntRange(1, 6).Draw(t, "work"),
			Job: slurm.Job{ID: id, UID: 1000, State: "PENDING", Held: true, Requeue: !once, Batch: true, SubmitMs: 1, NodeCount: 1},
		}
	}
	m.read()
	m.mirror() // every job was seen while it waited
	m.list = nil
	return m
}

func (m *model) startMain(n *modelNode) {
	n.mains++
	n.main = 5000 + n.mains
}

// --- Slurm

func (m *model) slurm() {
	for _, id := range slices.Sorted(maps.Keys(m.jobs)) {
		j := m.jobs[id]
		switch {
		case j.Pending() && !j.Held:
			if j.PinnedNode == "" {
				m.t.Fatalf("job %d is free to run anywhere", id)
			}
			j.State, j.Nodes, j.StartMs, j.alive, j.done = "RUNNING", j.PinnedNode, m.nowMs, true, 0
		case j.Running() && !j.alive:
			j.Completing, j.State = true, "COMPLETED"
			if j.Signal != 0 || j.ExitCode != 0 {
				j.State = "FAILED"
			}
		case j.Completing:
			j.Completing, j.EndMs = false, m.nowMs
			if j.State == "COMPLETED" {
				j.completed++
			}
		case j.Running() && m.attached(j) == nil && m.nowMs-j.StartMs > 60_000: // the plugin's status 199
			if j.once {
				j.alive, j.ExitCode = false, 199
			} else {
				m.requeue(j)
			}
		}
	}
}

func (m *model) requeue(j *modelJob) {
	m.kill(j)
	j.State, j.Completing, j.Held, j.PinnedNode, j.Nodes, j.StartMs, j.EndMs, j.Signal, j.ExitCode = "PENDING", false, true, "", "", 0, 0, 0, 0
	j.Restarts++
	j.SubmitMs = m.nowMs
}

// kill ends the script; the node, its daemon or not, sees that it ended.
func (m *model) kill(j *modelJob) {
	if r := m.attached(j); r != nil {
		r.State, r.Outcome, r.ExitCode, r.EndedMs = ended, pipefill.OutcomeFailed, 143, m.nowMs
		m.nodes[j.Nodes].records[r.ID] = *r
	}
	if j.alive {
		j.alive, j.Signal = false, 15
	}
}

func (m *model) cancel(j *modelJob) {
	if !j.Ended() && !j.Completing {
		m.kill(j)
		j.State, j.EndMs = "CANCELLED", m.nowMs
	}
}

// do is what Slurm makes of a command. As the client does, it leaves alone what
// has completed.
func (m *model) do(a Action) error {
	j := m.jobs[a.JobID]
	switch a.Kind {
	case Hold, PinRelease:
		if !j.Pending() {
			return fmt.Errorf("job %d is %s", j.ID, j.State)
		}
		j.Held, j.PinnedNode = a.Kind == Hold, a.Node
	case RequeueHold:
		switch {
		case j.Pending():
			j.Held, j.PinnedNode = true, ""
		case j.State == "COMPLETED":
		case j.Completing:
			return fmt.Errorf("job %d is completing", j.ID)
		default:
			m.requeue(j)
		}
	case Cancel:
		m.cancel(j)
	case Extend, Advance, End, EndJob:
		m.t.Fatalf("%s is not for Slurm here", a.Kind)
	}
	return nil
}

// --- nodes

// attached is the node's record of a job's attempt that has not ended.
func (m *model) attached(j *modelJob) *api.NodeAssignment {
	n := m.nodes[j.Nodes]
	if n == nil {
		return nil
	}
	for _, r := range n.records {
		if r.Job.JobID == j.ID && r.Job.Restarts == j.Restarts && r.State != ended {
			return &r
		}
	}
	return nil
}

// node lets one node do what it does by itself.
func (m *model) node(n *modelNode) {
	if n.away {
		return
	}
	for id, r := range n.records {
		if r.State != ended && n.mainOf[id] != n.main {
			r.State, r.Outcome, r.Reason, r.EndedMs = ended, pipefill.OutcomeEvicted, "the main job ended", m.nowMs
			n.records[id] = r
			j := m.jobs[r.Job.JobID]
			j.alive, j.Signal = false, 15
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.jobs)) {
		j := m.jobs[id]
		if !j.alive || j.Nodes != n.name {
			continue
		}
		if r := m.attached(j); r != nil {
			m.run(n, j, *r)
		} else if m.nowMs-j.StartMs <= 10_000 {
			m.attach(n, j)
		}
	}
}

func (m *model) run(n *modelNode, j *modelJob, r api.NodeAssignment) {
	r.State = runs
	j.done++
	if j.done >= j.work {
		j.alive = false
		r.State, r.Outcome, r.EndedMs = ended, pipefill.OutcomeCompleted, m.nowMs
		j.ran = !j.fails
		if j.fails {
			j.ExitCode, r.ExitCode, r.Outcome = 3, 3, pipefill.OutcomeFailed
		}
	}
	n.records[r.ID] = r
}

func (m *model) attach(n *modelNode, j *modelJob) {
	for _, r := range n.records {
		if r.State != ended {
			return // the device is not free yet
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.orders)) {
		a := n.orders[id]
		if a.Job.JobID == j.ID && a.Job.Restarts == j.Restarts && a.MainJob.JobID == n.main {
			n.mainOf[id] = n.main
			n.records[id] = api.NodeAssignment{ID: id, Job: a.Job, Device: a.Device, State: attach}
			delete(n.orders, id)
			j.starts++
			if j.once && j.starts > 1 {
				m.t.Fatalf("job %d, --no-requeue, starts again", j.ID)
			}
			return
		}
	}
}

// say puts a node's state on the wire.
func (m *model) say(n *modelNode) {
	if n.away {
		return
	}
	said := Node{Assignments: map[int64]api.NodeAssignment{}}
	if n.main != 0 {
		said.Mains = []api.MainDevice{{Job: pipefill.JobKey{JobID: n.main}, Device: "cpu:0", Enabled: true}}
	}
	maps.Copy(said.Assignments, n.records)
	for id, a := range n.orders {
		said.Assignments[id] = api.NodeAssignment{ID: id, Job: a.Job, Device: a.Device, State: a.State}
	}
	n.said++
	n.flight = append(n.flight, modelSync{said, n.said})
}

// hear delivers a sync: any of those on their way, which may come again. The
// answer reaches the node if it is still waiting for it.
func (m *model) hear(n *modelNode, i int, again, answered bool) {
	said := n.flight[i]
	newest := i == len(n.flight)-1
	if !again {
		n.flight = slices.Delete(n.flight, i, i+1)
	}
	if said.seq < n.heard {
		return // it was given up, and is not heard
	}
	n.heard, said.SeenMs = said.seq, m.nowMs
	m.heard[n.name] = said.Node
	if !answered || !newest || n.away {
		return
	}
	clear(n.orders)
	live := map[int64]bool{}
	for _, a := range m.live() {
		live[a.ID] = true
		if _, known := n.records[a.ID]; a.Node == n.name && !known && (a.State == reserve || a.State == release) {
			n.orders[a.ID] = a.Assignment
		}
	}
	for id, r := range n.records {
		switch {
		case !live[id] && r.State == ended:
			if said.Assignments[id].State == ended {
				delete(n.records, id)
			}
		case !live[id]:
			r.State, r.Outcome, r.EndedMs = ended, pipefill.OutcomeCancelled, m.nowMs
			n.records[id] = r
		}
	}
}

// --- the controller

func (m *model) live() []store.Assignment {
	var live []store.Assignment
	for _, a := range m.assigned {
		if a.State != ended {
			live = append(live, *a)
		}
	}
	return live
}

func (m *model) open() []store.FillJob {
	var open []store.FillJob
	for _, r := range m.rows {
		if r.Outcome == "" {
			open = append(open, *r)
		}
	}
	return open
}

// mirror takes in Slurm's list, by the rules of store.SeeJobs.
func (m *model) mirror() {
	for _, id := range slices.Sorted(maps.Keys(m.list)) {
		j := m.list[id]
		i := slices.IndexFunc(m.rows, func(r *store.FillJob) bool { return r.JobID == id })
		switch {
		case i >= 0 && m.rows[i].Outcome == "":
			m.rows[i].SubmitMs, m.rows[i].Restarts = j.SubmitMs, j.Restarts
		case i < 0 && !j.Ended():
			m.rows = append(m.rows, &store.FillJob{
				ID: id * 10, JobID: id, SubmitMs: j.SubmitMs, Restarts: j.Restarts, UID: j.UID, Requeue: j.Requeue,
			})
		}
	}
}

func (m *model) read() {
	m.list = map[int64]slurm.Job{}
	for id, j := range m.jobs {
		m.list[id] = j.Job
	}
}

// look is a round on the list that was read, with any action lost, failing
// after it was done, or done later.
func (m *model) look() {
	m.mirror()
	view := View{NowMs: m.nowMs, NodeLostMs: lostMs, Live: m.live(), Jobs: m.open(), Slurm: m.list, Nodes: maps.Clone(m.heard), Vacate: map[string]bool{}}
	for name := range m.nodes {
		if _, ok := view.Nodes[name]; !ok {
			view.Nodes[name] = Node{SeenMs: m.bootMs}
		}
	}
	failed := map[int64]bool{}
	for _, a := range Decide(view) {
		if !failed[a.JobID] {
			failed[a.JobID] = !m.act(a)
		}
	}
	m.schedule(view)
	m.list = nil
}

func (m *model) act(a Action) bool {
	fate := 0
	if !m.calm {
		fate = rapid.IntRange(0, 9).Draw(m.t, "fate")
	}
	switch a.Kind {
	case Advance, End, EndJob:
		if fate == 1 {
			return false // killed before the write
		}
		m.write(a)
		return fate != 2 // or after it
	case PinRelease, Hold, RequeueHold, Cancel, Extend:
	}
	switch fate {
	case 1:
		return false
	case 2:
		_ = m.do(a) // it was done, but the answer was lost
		return false
	case 3:
		m.late = append(m.late, func() { _ = m.do(a) }) // a command may fail when it comes
		return false
	}
	return m.do(a) == nil
}

// write follows the rules of store.Advance, End and EndJob.
func (m *model) write(a Action) {
	row := m.rows[slices.IndexFunc(m.rows, func(r *store.FillJob) bool { return r.JobID == a.JobID })]
	outcome := a.Outcome
	if a.Kind != EndJob {
		x := m.assigned[a.Assignment-1]
		if x.State == ended || !x.State.CanFollow(a.State) && a.Kind == Advance {
			m.t.Fatalf("%+v of an assignment that is %s", a, x.State)
		}
		if a.Kind == Advance {
			x.State, x.ReleasedMs = a.State, m.nowMs
			return
		}
		if a.JobOutcome == "" {
			row.Front = true
			if x.State == reserve || x.State == release {
				row.Attempts--
			}
		}
		x.State, x.Outcome, outcome = ended, a.Outcome, a.JobOutcome
	}
	if row.Outcome == "" {
		row.Outcome, row.Reason = outcome, a.Reason
	}
}

// schedule gives waiting jobs the free slots.
func (m *model) schedule(view View) {
	for _, name := range slices.Sorted(maps.Keys(view.Nodes)) {
		n := view.Nodes[name]
		if view.lost(name) || len(n.Mains) == 0 {
			continue
		}
		for _, row := range m.rows {
			taken := slices.ContainsFunc(m.live(), func(a store.Assignment) bool { return a.Node == name || a.FillJobID == row.ID })
			job, known := m.list[row.JobID]
			if taken || row.Outcome != "" || !known || !job.Pending() || job.Restarts != row.Restarts || row.Attempts > 0 && !row.Requeue {
				continue
			}
			row.Attempts++
			row.Front = false
			m.assigned = append(m.assigned, &store.Assignment{
				Assignment: pipefill.Assignment{
					ID: int64(len(m.assigned) + 1), UID: row.UID, Node: name, Device: "cpu:0", MainJob: n.Mains[0].Job, State: reserve,
					Job: pipefill.JobKey{JobID: row.JobID, SubmitMs: row.SubmitMs, Restarts: row.Restarts},
				},
				FillJobID: row.ID, Requeue: row.Requeue, ReservedMs: m.nowMs,
			})
		}
	}
}
