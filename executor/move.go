package executor

import (
	"slices"

	"pipefill"
	"pipefill/api"
)

// State of a main job that its program moves out of the device over bubbles,
// for a fill job whose plan counts on its room: the plan's Move is written into
// the control page, and the plan is handed out once the program has done it. The
// program asks once an iteration (pf_moves), and in control iterations nothing
// moves, so that the governor sees what moving costs. Whatever is odd, the state
// stays where it is, for the rest of the main job.

// What pipefilld.yaml's move_state says.
const (
	moveOff  = "off"
	movePlan = "plan"
)

// mayMove tells whether the state of a device's main job may leave at all.
func (n *node) mayMove(m *mainJob, d *mainDevice) bool {
	return n.cfg.MoveState == movePlan && !m.options.stay && !m.options.off && !m.ending && d.noMove == ""
}

// moveWord is the control page's move.
func (n *node) moveWord(m *mainJob, d *mainDevice, enabled bool) uint32 {
	switch {
	case !n.mayMove(m, d):
		return 0
	case !enabled || d.fill == nil || d.fill.rec.Move == nil:
		return moveTell
	}
	move := d.fill.rec.Move
	return moveTell | moveOut | uint32(move.Out)<<moveOutShift | uint32(move.In)<<moveInShift
}

// movable is what the main job's program says could leave: its own word,
// bounded.
func (n *node) movable(m *mainJob, d *mainDevice) *api.Movable {
	page := d.main.at
	told := api.Movable{
		Bytes: int64(min(page.MoveBytes.Load(), 1<<50)),
		OutNs: int64(min(page.MoveOutNs.Load(), uint64(longestBubble))), InNs: int64(min(page.MoveInNs.Load(), uint64(longestBubble))),
	}
	if !n.mayMove(m, d) || told.Bytes == 0 {
		return nil
	}
	return &told
}

// takeMove has the state leave that a plan counts on. It tells whether the plan
// can be handed out: not before the state has left once, and never where it
// cannot.
func (n *node) takeMove(f *fillJob, p api.Plan) bool {
	d, move := f.device, p.Move
	if d == nil || move == nil {
		return true // the move before ends once the job follows this plan (tickMove)
	}
	m := n.mains[f.rec.Assignment.MainJob.JobID]
	told := n.movable(m, d)
	if told == nil || told.Bytes < move.Bytes || move.Bytes <= 0 || move.Out < 0 || move.Out > move.In || move.In > 255 {
		n.log.Warn("plan not taken: the main job's state does not leave the device", "assignment", p.Assignment, "device", d.device.ID)
		f.passOver(p.ID)
		n.changed()
		return false
	}
	inForce := f.rec.Move != nil && *f.rec.Move == *move && d.main.at.MoveTimes.Load() > f.moved
	rec := f.rec
	rec.Move = move
	if err := n.saveFill(f, rec); err != nil {
		f.passOver(p.ID)
		return false
	}
	if inForce {
		return true
	}
	f.waiting, f.moved, f.cuts, f.follows = &p, d.main.at.MoveTimes.Load(), d.governor.cuts, false
	n.steer(m, d)
	n.log.Info("state of the main job is to leave the device", "device", d.device.ID, "bytes", move.Bytes, "out", move.Out, "in", move.In)
	return false
}

// passOver notes a plan that is not taken as there, lest it be sent for ever.
func (f *fillJob) passOver(id uint64) {
	f.waiting, f.plan.id = nil, id
}

// tickMove hands a plan out once what it counts on is done, and ends what no
// longer is.
func (n *node) tickMove(m *mainJob, d *mainDevice) {
	f := d.fill
	if f == nil || f.rec.Move == nil || f.ended() || m.ending || d.main.at.Pid.Load() == 0 {
		return
	}
	if told := n.movable(m, d); told == nil || told.Bytes < f.rec.Move.Bytes {
		counts := f.countsOnMove()
		n.endMove(f, "its program keeps it there")
		if counts {
			f.killNs = n.mono() // a step may be waiting for the room
			n.advance(f)
		}
		return
	}
	if f.rec.Stopping != "" || f.page == nil {
		return
	}
	at := f.page.at.Plan.Load()
	f.follows = f.follows || f.plan.moves && at == f.plan.id
	switch {
	case d.governor.cuts > f.cuts:
		n.endMove(f, "filling beside it slowed the main job by more than its budget")
	case f.waiting != nil && d.main.at.MoveTimes.Load() > f.moved:
		n.handPlan(f, *f.waiting)
	case f.waiting == nil && (f.plan.id != 0 && !f.plan.moves && at == f.plan.id || f.follows && at == 0):
		n.dropMove(f) // it follows another one, or none any more
	}
}

// endMove keeps the state on the device from now on. A fill job that counts on
// its room has to go.
func (n *node) endMove(f *fillJob, why string) {
	f.device.noMove = why
	n.log.Warn("state of the main job stays on the device from now on", "device", f.device.device.ID, "reason", why)
	counts := f.countsOnMove()
	if f.waiting != nil {
		f.passOver(f.waiting.ID)
	}
	n.dropMove(f)
	if counts {
		n.evict(f, pipefill.OutcomeEvicted, "its plan counts on the room of the main job's optimizer state, which stays on the device from now on: "+why, false)
	}
}

func (n *node) dropMove(f *fillJob) {
	rec := f.rec
	rec.Move, f.follows = nil, false
	if err := n.saveFill(f, rec); err != nil {
		f.rec = rec // a daemon that starts again would only order it once more
	}
	n.changed()
}

// countsOnMove tells whether a fill job may be using the room that a move makes.
func (f *fillJob) countsOnMove() bool {
	return f.rec.Move != nil && (f.waiting == nil || f.plan.moves)
}

// room is the memory that a fill job may hold beyond its own while state of the
// main job is away.
func (f *fillJob) room() int64 {
	if !f.countsOnMove() {
		return 0
	}
	return f.rec.Move.Bytes
}

// mayHold is the most device memory that a fill job may hold; 0: nobody has said.
func (f *fillJob) mayHold() int64 {
	if f.rec.Assignment.MemBytes == 0 {
		return 0
	}
	return f.rec.Assignment.MemBytes + f.room()
}

// unmoved is a device's cycle as it were with nothing moved: state leaves before
// its bubble is announced, which is that much shorter.
func (d *mainDevice) unmoved(c pipefill.BubbleCycle) pipefill.BubbleCycle {
	if d.fill == nil || !d.fill.countsOnMove() {
		return c
	}
	i := slices.IndexFunc(c.Bubbles, func(b pipefill.Bubble) bool { return b.Index == d.fill.rec.Move.Out })
	if i >= 0 {
		c.Bubbles[i].DurationNs += int64(float64(min(d.main.at.MoveOutNs.Load(), uint64(longestBubble))) * min(d.governor.share, 1))
	}
	return c
}
