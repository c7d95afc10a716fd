package executor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"pipefill"
)

const (
	// A beat is stale after 200 ms (beatMaxAge). Every wake-up of this process
	// costs the node's cores some 0.3 ms with what the runtime does around it, so
	// that both are seldom, and fall together.
	beatEvery = 60 * time.Millisecond
	tickEvery = 2 * beatEvery
	// The same with no main job on the node.
	idleEvery = time.Second
	// How often it is checked that the jobs on record still exist in Slurm, and
	// that no process of a fill job is outside of its group.
	absentEvery = 10 * time.Second
	// Looks in a row that must miss a job before it counts as gone: one may
	// fall between two of its processes.
	absentMost = 3
	// A chunked fill job that was caught so often is ended.
	caughtMost = 3
)

// beat tells fill jobs and supervisors that the daemon lives.
func (n *node) beat(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-n.busy:
		}
		every := idleEvery
		if n.beatOnce() {
			every = beatEvery
		}
		timer.Reset(every)
	}
}

// beatOnce tells whether there was anybody to tell.
func (n *node) beatOnce() bool {
	n.beatMu.Lock()
	defer n.beatMu.Unlock()
	now := uint64(n.mono())
	for c := range n.beats {
		c.BeatNs.Store(now)
	}
	return len(n.beats) > 0
}

// watch does all that happens by itself.
func (n *node) watch(ctx context.Context) error {
	timer := time.NewTimer(tickEvery)
	defer timer.Stop()
	looked := n.now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		every := tickEvery
		if n.tick(); n.idle() {
			every = idleEvery
		}
		timer.Reset(every)
		if n.now().Sub(looked) >= absentEvery {
			looked = n.now()
			n.lookForJobs()
			n.dropRecordings()
		}
	}
}

// idle tells whether there is nothing to watch closely.
func (n *node) idle() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.mains) == 0 && len(n.wants) == 0 && !slices.ContainsFunc(n.sortedFills(), func(f *fillJob) bool { return !f.ended() })
}

func (n *node) tick() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.sortedMains() {
		n.tickMain(m)
	}
	n.tickDriver()
	if n.faults["ledger"] != "" {
		if err := n.ledger.probe(); err == nil {
			n.fault("ledger", "")
			n.commandAll()
		}
	}
	for _, f := range n.sortedFills() {
		if !f.ended() && f.super != nil {
			n.tickFill(f)
		}
	}
	n.wants = slices.DeleteFunc(n.wants, func(w *want) bool { return n.now().After(w.until.Add(wantTime)) })
}

func (n *node) tickMain(m *mainJob) {
	busy := false
	for _, d := range m.devices {
		n.drainDevice(m, d)
		n.tickMove(m, d)
		n.steer(m, d)
		busy = busy || d.fill != nil
	}
	if m.ending && !busy {
		n.dropMain(m)
		return
	}
	_ = n.saveMain(m) // the fault says it, and the next tick tries again
}

// drainDevice takes in what the main job did since the last tick.
func (n *node) drainDevice(m *mainJob, d *mainDevice) {
	g := d.governor
	was := g.disabled
	d.drain.events(d.main.at, func(e eventCopy) {
		d.record.event(e)
		if e.flags&eventWork != 0 {
			return
		}
		d.trace.event(m.rec.Job.JobID, e)
		it, ended := d.drain.take(e)
		// An iteration counts where a fill job could have run in all of it.
		if ended && d.fill != nil && d.fill.runningNs != 0 && d.fill.runningNs < e.begin && d.fill.rec.Stopping == "" {
			g.observe(it)
			if !it.control {
				d.drain.totals.FilledIterationNs += int64(it.length)
			}
		}
	})
	d.trace.flush()
	if f := d.fill; f != nil && f.super != nil {
		d.recordChunks()
		late := f.super.at.Overruns.Load()
		if f.rec.Assignment.Mode.MindsGate() && d.device.ID.Kind() == pipefill.KindGPU {
			// What the library counted, by the fill job's own word: lying costs
			// the liar time. On cores the supervisor sees CPU time: there a
			// chunk is also late by the clock when somebody else, or the host of
			// a virtual machine, had its core, which no guard can help.
			late = max(late, min(f.page.at.Overruns.Load(), f.super.at.Openings.Load()))
		}
		g.lateness(f.super.at.Openings.Load(), late)
	}
	if g.disabled != was {
		m.record(d).Disabled, m.dirty = g.disabled, true
		n.log.Warn("filling turned off", "job_id", m.rec.Job.JobID, "device", d.device.ID, "reason", g.disabled)
		n.changed()
	}
}

func (n *node) tickFill(f *fillJob) {
	a := f.rec.Assignment
	if f.rec.Stopping != "" {
		n.advance(f)
		return
	}
	if !f.rec.Supervisor.alive() {
		n.log.Warn("supervisor died", "assignment", a.ID)
		if err := n.replaceSupervisor(f); err != nil {
			n.fault(fmt.Sprintf("fill-%d", a.ID), fmt.Sprintf("fill job %d has no supervisor and stays stopped: %v", a.Job.JobID, err))
			return
		}
		n.fault(fmt.Sprintf("fill-%d", a.ID), "")
		n.command(f)
	}
	if n.now().Sub(f.chargedAt) >= chargeEvery && n.faults["ledger"] == "" {
		if err := n.charge(f); err != nil {
			n.log.Error("usage not written", "assignment", a.ID, "err", err)
		}
	}
	if f.super.at.Caught.Load() >= caughtMost {
		n.evict(f, pipefill.OutcomeFailed, "it ran while its gate was shut, again and again: use mode=signal, or ask before each chunk", false)
		return
	}
	limit := a.DeviceTimeMs * int64(time.Millisecond)
	if limit > 0 && f.super.at.used(n.mono()).DeviceNs >= limit {
		n.log.Info("fill job used its device time up", "fill_job_id", a.Job.JobID, "assignment", a.ID)
		n.evict(f, pipefill.OutcomeFailed, fmt.Sprintf("its device time of %s (--time) is used up", time.Duration(limit)), false)
	}
}

// lookForJobs ends what Slurm no longer has: its leave came while the daemon
// was away, or never.
func (n *node) lookForJobs() {
	jobs, err := jobsHere(n.groups.name)
	if err != nil {
		n.log.Warn("jobs of this machine not listed", "err", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, m := range n.mains {
		if _, here := jobs[id]; here || m.hasOpener() {
			m.absent = 0
		} else if m.absent++; m.absent >= absentMost {
			n.endMain(m, "the main job vanished")
		}
		n.leaveAbandoned(m)
	}
	for _, f := range n.fills {
		if f.ended() || f.rec.Stopping != "" {
			continue
		}
		strays, here := jobs[f.rec.Assignment.Job.JobID]
		n.gather(f, strays)
		pids, err := f.group.pids()
		if here || err != nil || len(pids) > 0 {
			f.absent = 0
		} else if f.absent++; f.absent >= absentMost {
			n.finish(f, pipefill.OutcomeLost, "the fill job vanished without a word from Slurm", -1)
		}
	}
}

// gather moves processes of a fill job into its group that no plugin told of:
// pam_slurm_adopt puts a login of its user into the job's extern step.
func (n *node) gather(f *fillJob, strays []int) {
	for _, pid := range strays {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		// The number may be another process by now.
		job, fill, err := parsePeer(string(data), n.groups.name, f.rec.Assignment.UID)
		if err != nil || job != f.rec.Assignment.Job.JobID || fill != 0 {
			continue
		}
		if err := f.group.add(pid); err != nil {
			n.log.Warn("process of fill job not moved into its group", "fill_job_id", job, "pid", pid, "err", err)
			continue
		}
		n.log.Info("process of fill job found outside of its group", "fill_job_id", job, "pid", pid)
	}
}

// leaveAbandoned takes fill jobs off devices that no process of the main job
// announces any more.
func (n *node) leaveAbandoned(m *mainJob) {
	for _, d := range m.devices {
		if d.fill != nil && m.abandoned(d, n.mono()) {
			n.evict(d.fill, pipefill.OutcomeEvicted, fmt.Sprintf("the main job's process on %s ended", d.device.ID), false)
		}
	}
}

// abandoned tells whether the process that announced a device's bubbles has ended
// while its main job goes on. A child of it may still announce.
func (m *mainJob) abandoned(d *mainDevice, nowNs int64) bool {
	openers := m.record(d).Openers
	return len(openers) > 0 && nowNs-int64(d.main.at.BeatNs.Load()) > int64(absentEvery) && !slices.ContainsFunc(openers, process.alive)
}

func (m *mainJob) hasOpener() bool {
	for _, d := range m.rec.Devices {
		if slices.ContainsFunc(d.Openers, process.alive) {
			return true
		}
	}
	return false
}

// eventTrace is events-<device>.jsonl (docs/traces.md); nil writes nothing.
type eventTrace struct {
	file *os.File
	out  *bufio.Writer
}

func newEventTrace(dir string, id pipefill.DeviceID) *eventTrace {
	f, err := openTrace(dir, "events-"+string(id)+".jsonl")
	if err != nil {
		return nil // checked when the daemon starts; a trace is never worth a main job
	}
	return &eventTrace{f, bufio.NewWriter(f)}
}

func (t *eventTrace) event(job int64, e eventCopy) {
	if t == nil {
		return
	}
	if e.flags&eventIteration != 0 {
		_, _ = fmt.Fprintf(t.out, `{"job": %d, "iteration": %d, "begin_ns": %d, "end_ns": %d, "flags": %d}`+"\n", job, e.iteration, e.begin, e.end, e.flags)
		return
	}
	_, _ = fmt.Fprintf(t.out, `{"job": %d, "iteration": %d, "index": %d, "kind": %q, "begin_ns": %d, "end_ns": %d, "deadline_ns": %d, "flags": %d}`+"\n",
		job, e.iteration, e.index, pipefill.BubbleKind(e.kind), e.begin, e.end, e.deadline, e.flags)
}

func (t *eventTrace) flush() {
	if t != nil {
		_ = t.out.Flush()
	}
}

func (t *eventTrace) close() {
	if t != nil {
		t.flush()
		_ = t.file.Close()
	}
}
