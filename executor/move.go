package executor

import (
	"slices"
	"sync/atomic"

	"pipefill"
	"pipefill/api"
)

// What a main job's program moves out of the device over bubbles, for a fill job
// whose plan counts on its room: its optimizer state, and where its owner lets it
// (move=cache) the blocks that its allocator keeps. The plan's Move is written
// into the control page, and the plan is handed out once the program has done it.
// The program asks once an iteration (pf_moves, pf_releases), and in control
// iterations nothing moves, so that the governor sees what moving costs. Whatever
// is odd, all of it stays where it is, for the rest of the main job.

// What pipefilld.yaml's move_state says.
const (
	moveOff  = "off"
	movePlan = "plan"
)

// moveNames name what moves, as it stays.
var moveNames = map[string]string{api.MoveOptimizer: "optimizer state, which stays", api.MoveCache: "cached blocks, which stay"}

// moved is what a main job's page says of one kind of what it could move.
type moved struct{ bytes, outNs, inNs, times *atomic.Uint64 }

func (d *mainDevice) moved(kind string) moved {
	page := d.main.at
	if kind == api.MoveCache {
		return moved{&page.CacheBytes, &page.CacheOutNs, &page.CacheInNs, &page.CacheTimes}
	}
	return moved{&page.MoveBytes, &page.MoveOutNs, &page.MoveInNs, &page.MoveTimes}
}

// mayMove tells whether what is of a kind may leave a device of a main job at all.
func (n *node) mayMove(m *mainJob, d *mainDevice, kind string) bool {
	may := m.options.cache
	if kind == api.MoveOptimizer {
		may = !m.options.stay
	}
	return may && n.cfg.MoveState == movePlan && !m.options.off && !m.ending && d.noMove == ""
}

// moveWord is the control page's move, or cache.
func (n *node) moveWord(m *mainJob, d *mainDevice, kind string, enabled bool) uint32 {
	switch {
	case !n.mayMove(m, d, kind):
		return 0
	case !enabled || d.fill == nil || d.fill.rec.Move == nil || d.fill.rec.Move.Kind != kind:
		return moveTell
	}
	move := d.fill.rec.Move
	return moveTell | moveOut | uint32(move.Out)<<moveOutShift | uint32(move.In)<<moveInShift
}

// movable is what the main job's program says could leave: its own word,
// bounded.
func (n *node) movable(m *mainJob, d *mainDevice) []api.Movable {
	var all []api.Movable
	for _, kind := range []string{api.MoveOptimizer, api.MoveCache} {
		page := d.moved(kind)
		told := api.Movable{
			Kind: kind, Bytes: int64(min(page.bytes.Load(), 1<<50)),
			OutNs: int64(min(page.outNs.Load(), uint64(longestBubble))), InNs: int64(min(page.inNs.Load(), uint64(longestBubble))),
		}
		if kind == api.MoveCache {
			bubble := int(min(d.main.at.CacheBubble.Load(), 255))
			told.Bubble = &bubble
		}
		if n.mayMove(m, d, kind) && told.Bytes > 0 {
			all = append(all, told)
		}
	}
	return all
}

// canMove tells whether a plan's move is one of what the program says it could.
func (n *node) canMove(m *mainJob, d *mainDevice, move *api.PlanMove) bool {
	return n.moves(m, d, move, move.Bytes)
}

// keepsMove tells whether a move that is done can go on. What an allocator keeps
// changes a little all the time: while there is less of it than the plan counts
// on its job leaves the bubble alone, and the controller makes another plan.
func (n *node) keepsMove(m *mainJob, d *mainDevice, move *api.PlanMove) bool {
	if move.Kind == api.MoveCache {
		return n.moves(m, d, move, 1)
	}
	return n.canMove(m, d, move)
}

func (n *node) moves(m *mainJob, d *mainDevice, move *api.PlanMove, atLeast int64) bool {
	return slices.ContainsFunc(n.movable(m, d), func(told api.Movable) bool {
		return told.Kind == move.Kind && told.Bytes >= atLeast && (told.Bubble == nil || move.Out == move.In && *told.Bubble == move.In)
	})
}

// takeMove has the state leave that a plan counts on. It tells whether the plan
// can be handed out: not before the state has left once, and never where it
// cannot.
func (n *node) takeMove(f *fillJob, p api.Plan) bool {
	move := p.Move
	if len(f.devices) == 0 || move == nil {
		return true // the move before ends once the job follows this plan (tickMove)
	}
	d := f.devices[0] // a gang has no plan
	m := n.mains[f.rec.Assignment.MainJob.JobID]
	if !n.canMove(m, d, move) || move.Bytes <= 0 || move.Out < 0 || move.Out > move.In || move.In > 255 {
		n.log.Warn("plan not taken: what it counts on does not leave the device", "assignment", p.Assignment, "device", d.device.ID, "kind", move.Kind)
		f.passOver(p.ID)
		n.changed()
		return false
	}
	inForce := f.rec.Move != nil && *f.rec.Move == *move && d.moved(move.Kind).times.Load() > f.moved
	rec := f.rec
	rec.Move = move
	if err := n.saveFill(f, rec); err != nil {
		f.passOver(p.ID)
		return false
	}
	if inForce {
		return true
	}
	f.waiting, f.moved, f.cuts, f.follows = &p, d.moved(move.Kind).times.Load(), d.governor.cuts, false
	n.steer(m, d)
	n.log.Info("memory of the main job is to leave the device", "device", d.device.ID, "kind", move.Kind, "bytes", move.Bytes, "out", move.Out, "in", move.In)
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
	if !n.keepsMove(m, d, f.rec.Move) {
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
	case f.waiting != nil && d.moved(f.rec.Move.Kind).times.Load() > f.moved:
		n.handPlan(f, *f.waiting)
	case f.waiting == nil && (f.plan.id != 0 && !f.plan.moves && at == f.plan.id || f.follows && at == 0):
		n.dropMove(f) // it follows another one, or none any more
	}
}

// endMove keeps what could move on the device from now on. A fill job that counts on
// its room has to go.
func (n *node) endMove(f *fillJob, why string) {
	kind, d := f.rec.Move.Kind, f.devices[0]
	d.noMove = why
	n.log.Warn("memory of the main job stays on the device from now on", "device", d.device.ID, "kind", kind, "reason", why)
	counts := f.countsOnMove()
	if f.waiting != nil {
		f.passOver(f.waiting.ID)
	}
	n.dropMove(f)
	if counts {
		n.evict(f, pipefill.OutcomeEvicted, "its plan counts on the room of the main job's "+moveNames[kind]+" on the device from now on: "+why, false)
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
		c.Bubbles[i].DurationNs += int64(float64(min(d.moved(d.fill.rec.Move.Kind).outNs.Load(), uint64(longestBubble))) * min(d.governor.share, 1))
	}
	return c
}
