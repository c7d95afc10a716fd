package executor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
)

// controller is what the daemon needs of pipefillctld.
type controller interface {
	Sync(ctx context.Context, state api.NodeSync) (api.NodeOrders, error)
	SendRecording(ctx context.Context, r api.Recording) error
}

var _ controller = (*api.Client)(nil)

const (
	// How long the controller may hold an answer: also how often it gets a
	// fresh bubble cycle.
	syncWait = 5 * time.Second
	// Room for the answer itself.
	syncSlack = 10 * time.Second
	// Retries after failures: from the first to the last, doubling.
	syncRetryFirst = 200 * time.Millisecond
	syncRetryLast  = 5 * time.Second
	// Usage records in one message.
	syncUsageMost = 2000
	// What the controller gets for an answer before news cut it short: a node
	// that changes all the time must still get its orders.
	syncHold = 100 * time.Millisecond
)

// syncLoop keeps the node's state equal to the controller's orders.
func (n *node) syncLoop(ctx context.Context, c controller) error {
	retry := syncRetryFirst
	for ctx.Err() == nil {
		err := n.syncOnce(ctx, c)
		if err == nil {
			retry = syncRetryFirst
			continue
		}
		n.notHeard(ctx, err)
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, syncRetryLast)
	}
	return nil
}

// notHeard notes why the controller did not take a sync. It may be another one
// next time, which must be sent all.
func (n *node) notHeard(ctx context.Context, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.takesKept = false
	known := n.faults["controller"] != ""
	if pipefill.ErrorCode(err) == pipefill.CodeInvalid {
		n.faults["controller"] = fmt.Sprintf(
			"pipefillctld does not understand this pipefilld, of release %s; where it is the older, upgrade and restart it first: %v", pipefill.Version(), err)
		if !known {
			n.log.WarnContext(ctx, "controller does not understand this pipefilld; where it is the older, upgrade and restart it first", "err", err)
		}
		return
	}
	n.faults["controller"] = fmt.Sprintf("controller not reached: %v", err)
	if !known {
		n.log.WarnContext(ctx, "controller not reached", "err", err)
	}
}

// syncOnce sends the state once. A change on the node cuts the controller's
// wait short: the message can be repeated, so the first is given up.
func (n *node) syncOnce(ctx context.Context, c controller) error {
	select {
	case <-n.poke: // whatever changed until here is in the message
	default:
	}
	state := n.snapshot()
	call, cancel := context.WithTimeout(ctx, syncWait+syncSlack)
	defer cancel()
	answered, watched := make(chan struct{}), make(chan struct{})
	cut := false // read once watched is closed
	go func() {
		defer close(watched)
		if n.awaitPoke(call, answered) {
			cut = true
			cancel()
		}
	}()
	orders, err := c.Sync(call, state)
	close(answered)
	<-watched
	if err != nil && cut {
		return nil
	}
	if err != nil {
		return err
	}
	n.wasTold(&state, &orders)
	if orders.Whole {
		return nil // it orders nothing
	}
	n.obey(orders)
	n.answer(ctx, c, orders.Recordings)
	return nil
}

// awaitPoke tells whether something changed that the controller, which has had
// its time to answer, must hear before it does. The poke stays for the next
// message.
func (n *node) awaitPoke(ctx context.Context, answered <-chan struct{}) bool {
	held := time.After(syncHold)
	select {
	case <-ctx.Done():
		return false
	case <-answered:
		return false
	case <-n.poke:
		n.changed()
	}
	select {
	case <-ctx.Done():
		return false
	case <-answered:
		return false
	case <-held:
		return true
	}
}

// answer sends recordings that were asked for, each once at a time: what is not
// sent is asked for again.
func (n *node) answer(ctx context.Context, c controller, asks []api.RecordingAsk) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ask := range asks {
		if n.asked[ask.ID] {
			continue
		}
		n.asked[ask.ID] = true
		go func() {
			ctx, cancel := context.WithTimeout(ctx, syncSlack)
			defer cancel()
			if err := c.SendRecording(ctx, n.answerRecording(ask)); err != nil {
				n.log.WarnContext(ctx, "recording not sent", "job_id", ask.Job.JobID, "err", err)
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.asked, ask.ID)
		}()
	}
}

// snapshot is the node's whole state.
func (n *node) snapshot() api.NodeSync {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == 0 {
		n.run = n.now().UnixNano()
	}
	n.syncs++
	s := api.NodeSync{
		Node: n.cfg.Node, Version: pipefill.Version(), Run: n.run, Seq: n.syncs, WaitMs: syncWait.Milliseconds(), OrdersSeen: n.record.OrdersSeen,
		TakesPlans: true, TakesGangs: true, Devices: []api.NodeDevice{}, Mains: []api.MainDevice{}, Assignments: []api.NodeAssignment{},
		Usage: n.ledger.unsent(syncUsageMost), Faults: []string{},
	}
	for _, d := range n.devices {
		s.Devices = append(s.Devices, api.NodeDevice{Device: d.ID, TotalBytes: d.TotalBytes})
	}
	for _, m := range n.sortedMains() {
		if !m.ending {
			s.Mains = append(s.Mains, n.mainDevices(m)...)
		}
	}
	for _, a := range n.orders {
		s.Assignments = append(s.Assignments, api.NodeAssignment{ID: a.ID, Job: a.Job, Device: a.Device, Others: a.Others, State: a.State})
	}
	for _, f := range n.sortedFills() {
		a := f.rec.Assignment
		s.Assignments = append(s.Assignments, api.NodeAssignment{
			ID: a.ID, Job: a.Job, Device: a.Device, Others: a.Others, State: a.State, Outcome: a.Outcome, Reason: a.Reason,
			ExitCode: f.rec.ExitCode, EndedMs: f.rec.EndedMs, Plan: f.planID(), At: f.planPosition(),
		})
	}
	for _, w := range n.wants {
		if !w.refused && n.now().Before(w.until) {
			s.WantsJob, s.WantsUID = &w.job, w.uid
			break
		}
	}
	for key, text := range n.faults {
		if key != "controller" { // it knows by now
			s.Faults = append(s.Faults, text)
		}
	}
	slices.Sort(s.Faults)
	s.Recordings = n.recordings()
	n.leaveOut(&s)
	return s
}

// noFilling is why nothing may be filled on this node, "" if it may.
func (n *node) noFilling() string {
	if n.groups.slurmOnV2() {
		return "Slurm tracks processes by cgroup v2 here (CgroupPlugin), which fill jobs cannot leave: see install.md"
	}
	return ""
}

func (n *node) terms(m *mainJob, d *mainDevice) terms {
	return terms{share: d.governor.share, guard: d.governor.guard, least: milliseconds(n.cfg.MinMs), reserve: m.reserve(d)}
}

func (n *node) mainDevices(m *mainJob) []api.MainDevice {
	var all []api.MainDevice
	no := n.noFilling()
	for i, d := range m.devices {
		g := d.governor
		md := api.MainDevice{
			Job: m.rec.Job, UID: m.rec.UID, Device: d.device.ID, Stage: i, Options: m.rec.Options, StartedMs: m.rec.StartedMs, Budget: m.options.budget,
			Launches: n.cfg.LaunchLib != "" && d.device.ID.Kind() == pipefill.KindGPU, Enabled: true, Cycle: n.cycle(m, d), Fence: n.fenceOf(d), Movable: n.movable(m, d), Totals: d.drain.totals, Slow: n.health[d.device.ID].Slow,
		}
		switch {
		case m.options.off:
			md.Enabled, md.Reason = false, "turned off by its owner (--pipefill=off)"
		case no != "":
			md.Enabled, md.Reason = false, no
		case n.faults["grants"] != "" && d.device.Node != nil:
			md.Enabled, md.Reason = false, n.faults["grants"]
		case n.health[d.device.ID].Shut != "":
			md.Enabled, md.Reason = false, n.health[d.device.ID].Shut
		case g.disabled != "":
			md.Enabled, md.Reason = false, g.disabled
		case len(m.rec.Devices[i].Openers) == 0:
			md.Enabled, md.Reason = false, "its program has not opened the device: it is to import an engine that pipefill knows, or to call pf_open (engines.md)"
		case m.abandoned(d, n.mono()):
			md.Enabled, md.Reason = false, "the process that announced its bubbles has ended"
		case n.meter != nil && d.device.Node != nil && n.memoryOf(m, d).high == 0:
			md.Enabled, md.Reason = false, "the most memory that its program holds is not known yet"
		case n.memoryOf(m, d).full():
			md.Enabled, md.Reason = false, fmt.Sprintf("the main job has held %s of the GPU's %s, and its reserve= is %s: no memory is left to fill jobs",
				mib(n.memoryOf(m, d).high), mib(d.device.TotalBytes), mib(m.reserve(d)))
		}
		md.Totals.FilledNs = d.usedHere.DeviceNs
		if d.fill != nil && d.fill.super != nil {
			md.Totals.FilledNs += d.fill.super.at.used(n.mono()).DeviceNs
		}
		md.Totals.FilledMeanNs, md.Totals.ControlMeanNs = g.filled.mean, g.control.mean
		md.Totals.OverheadLo, md.Totals.OverheadHi = g.interval()
		all = append(all, md)
	}
	return all
}

// obey makes the node's state equal to the orders.
func (n *node) obey(o api.NodeOrders) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.faults, "controller")
	if o.Cluster != "" && o.Cluster != n.cfg.Cluster {
		n.fault("cluster", fmt.Sprintf("the controller is of cluster %q, this node of %q: its orders are ignored", o.Cluster, n.cfg.Cluster))
		return
	}
	n.fault("cluster", "")
	if err := n.ledger.acknowledge(o.UsageAck); err != nil {
		n.log.Error("ledger not compacted", "err", err)
	}
	n.forget(o.Forget)
	for _, w := range n.wants {
		if o.Refused != nil && sameAttempt(*o.Refused, w.job) {
			w.refused = true
		}
	}
	n.take(o.Assignments)
	for _, p := range o.Plans {
		n.takePlan(p)
	}
	seen := n.record.OrdersSeen
	n.record.OrdersSeen = o.Serial
	if !slices.Equal(n.record.Partitions, o.Partitions) {
		n.record.Partitions = o.Partitions
		if err := n.state.saveNode(n.record); err != nil {
			n.log.Error("partitions not written", "err", err)
		}
	}
	if seen != o.Serial {
		n.changed() // it is told at once that this was done
	}
}

// forget drops ended assignments that the controller has written down.
func (n *node) forget(ids []int64) {
	for _, id := range ids {
		f := n.fills[id]
		if f == nil || !f.ended() {
			continue
		}
		if err := n.state.dropFill(id); err != nil {
			n.log.Error("record not removed", "assignment", id, "err", err)
			continue
		}
		n.ledger.forget(id)
		delete(n.fills, id)
	}
}

// take holds what was assigned and lets go of what no longer is.
func (n *node) take(orders []pipefill.Assignment) {
	clear(n.orders)
	listed := map[int64]bool{}
	for _, a := range orders {
		listed[a.ID] = true
		if f := n.fills[a.ID]; f != nil {
			f.rec.Assignment.DeviceTimeMs = a.DeviceTimeMs
			continue
		}
		switch a.State {
		default: // this node's own word is newer
		case pipefill.AssignmentReserved, pipefill.AssignmentReleased:
			if a.ID > 0 && a.Job.JobID > 0 && a.ValidDevices() {
				n.orders[a.ID] = a
				n.wants = slices.DeleteFunc(n.wants, func(w *want) bool { return sameAttempt(a.Job, w.job) })
			}
		}
	}
	for _, f := range n.sortedFills() {
		if !listed[f.rec.Assignment.ID] && !f.ended() && f.super != nil {
			n.evict(f, pipefill.OutcomeCancelled, "cancelled by the controller", false)
		}
	}
}
