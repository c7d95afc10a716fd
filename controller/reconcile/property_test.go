package reconcile

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/store"
)

// steps are the things that can happen, one at a time.
func (m *model) steps() map[string]func(*rapid.T) {
	steps := map[string]func(*rapid.T){
		"":      func(*rapid.T) { m.hold() },
		"slurm": func(*rapid.T) { m.slurm() },
		"read":  func(*rapid.T) { m.read() },
		"look": func(t *rapid.T) {
			if m.list == nil {
				t.Skip("each round asks Slurm first")
			}
			m.look()
		},
		"second":  func(*rapid.T) { m.second() },
		"seconds": func(t *rapid.T) { m.nowMs += 1000 * rapid.Int64Range(1, 30).Draw(t, "seconds") },
		"person":  func(*rapid.T) { m.person() },
		"restart": func(*rapid.T) { m.restart() },
		"late": func(t *rapid.T) {
			if len(m.late) == 0 {
				t.Skip("nothing is late")
			}
			do := m.late[0]
			m.late = m.late[1:]
			do()
		},
	}
	for name, n := range m.nodes {
		steps[name+" works"] = func(*rapid.T) { m.node(n) }
		steps[name+" says"] = func(*rapid.T) { m.say(n) }
		steps[name+" in trouble"] = func(*rapid.T) { m.trouble(n) }
		steps[name+" is heard"] = func(t *rapid.T) {
			if len(n.flight) == 0 {
				t.Skip("nothing was said")
			}
			i := rapid.IntRange(0, len(n.flight)-1).Draw(t, "sync")
			m.hear(n, i, rapid.Bool().Draw(t, "again"), rapid.Bool().Draw(t, "answered"))
		}
		steps[name+" is not heard"] = func(*rapid.T) { n.flight = nil }
	}
	return steps
}

// restart is another controller with the same database.
func (m *model) restart() {
	clear(m.heard)
	m.list = nil
	m.bootMs = m.nowMs
	for _, n := range m.nodes {
		n.flight = nil // their connections went with it
	}
}

// trouble is what happens to nodes.
func (m *model) trouble(n *modelNode) {
	switch rapid.IntRange(0, 2).Draw(m.t, "trouble") {
	case 0:
		n.main = 0
	case 1:
		m.startMain(n)
	case 2:
		n.away = !n.away
	}
}

// person is what owners do.
func (m *model) person() {
	j := m.jobs[rapid.SampledFrom(slices.Sorted(maps.Keys(m.jobs))).Draw(m.t, "job")]
	switch rapid.IntRange(0, 5).Draw(m.t, "person") {
	case 0:
		j.cancelled = j.cancelled || !j.Ended()
		m.cancel(j)
	case 1:
		if j.Running() && !j.once {
			m.requeue(j)
		}
	}
}

// second is a second in which nothing is lost.
func (m *model) second() {
	m.nowMs += 1000
	m.slurm()
	for _, name := range []string{"n0", "n1"} {
		n := m.nodes[name]
		m.node(n)
		m.say(n)
		if len(n.flight) > 0 {
			m.hear(n, len(n.flight)-1, false, true)
		}
	}
	m.read()
	m.look()
}

// hold checks what is true at every moment.
func (m *model) hold() {
	devices, jobs := map[string]int64{}, map[int64]int64{}
	for _, a := range m.live() {
		if other, ok := devices[a.Node]; ok {
			m.t.Fatalf("assignments %d and %d have the device of %s", other, a.ID, a.Node)
		}
		if other, ok := jobs[a.Job.JobID]; ok {
			m.t.Fatalf("assignments %d and %d are of job %d", other, a.ID, a.Job.JobID)
		}
		devices[a.Node], jobs[a.Job.JobID] = a.ID, a.ID
	}
	running := map[int64]string{}
	for name, n := range m.nodes {
		busy := int64(0)
		for id, r := range n.records {
			if r.State == ended {
				continue
			}
			if busy != 0 {
				m.t.Fatalf("assignments %d and %d are both on %s", busy, id, name)
			}
			if other, ok := running[r.Job.JobID]; ok {
				m.t.Fatalf("job %d is on %s and %s", r.Job.JobID, name, other)
			}
			busy, running[r.Job.JobID] = id, name
		}
	}
}

// over tells whether there is nothing left to happen.
func (m *model) over() bool {
	for _, row := range m.open() {
		// A --no-requeue job that lost its one start stays held, for its owner.
		if row.Attempts == 0 || row.Requeue || !m.jobs[row.JobID].Pending() {
			return false
		}
	}
	return len(m.rows) == len(m.jobs) && len(m.live()) == 0
}

// settle lets the world go on without trouble until all has ended.
func (m *model) settle() {
	m.calm = true
	for _, do := range m.late {
		do()
	}
	for _, n := range m.nodes {
		n.away, n.flight = false, nil
		if n.main == 0 {
			m.startMain(n)
		}
	}
	for range 1000 {
		if m.over() {
			return
		}
		m.second()
		m.hold()
	}
	for _, j := range m.jobs {
		m.t.Logf("job %+v", *j)
	}
	for _, a := range m.assigned {
		m.t.Logf("assignment %+v", *a)
	}
	m.t.Fatal("not over after 1000 s")
}

// judge holds the end against what ran.
func (m *model) judge() {
	for id, j := range m.jobs {
		row := m.rows[slices.IndexFunc(m.rows, func(r *store.FillJob) bool { return r.JobID == id })]
		counted := 0
		for _, a := range m.assigned {
			if a.Job.JobID == id && a.Outcome == pipefill.OutcomeCompleted {
				counted++
			}
		}
		done := row.Outcome == pipefill.OutcomeCompleted
		switch {
		case counted > 1 || j.completed > 1:
			m.t.Errorf("job %d: %d attempts count as completed, %d completed", id, counted, j.completed)
		case done != (counted == 1) || j.completed == 1 && !done || done && !j.ran:
			m.t.Errorf("job %d: the queue says %q (%s), %d attempts count, %d completed", id, row.Outcome, row.Reason, counted, j.completed)
		case !done && !j.once && !j.cancelled && (!j.fails || row.Outcome != pipefill.OutcomeFailed):
			m.t.Errorf("job %d ended as %q (%s) without cause", id, row.Outcome, row.Reason)
		}
	}
}

// Whatever is repeated, lost or late, at the end exactly one attempt of each job
// counts as completed, no --no-requeue job has started twice, and at no time did
// two assignments have one device or one job.
func TestDecide_ExactlyOneAttemptCounts(t *testing.T) {
	for i := range 15 { // of 100 lives each, of some 100 steps; -rapid.checks and -rapid.steps say otherwise
		t.Run(strconv.Itoa(i), rapid.MakeCheck(func(t *rapid.T) {
			m := newModel(t)
			for range 3 {
				t.Repeat(m.steps())
			}
			m.settle()
			m.judge()
		}))
	}
}
