package plan

import (
	"time"

	"pipefill"
)

// ReplanApart is the least time between two plans of one job: bubbles are
// learned from 16 iterations, and a plan is followed for some before it is
// judged.
const ReplanApart = 5 * time.Second

// Movable is state that the main job of a slot could move away, and what may be
// spent on that. The zero value moves nothing.
type Movable struct {
	MainState
	Budget  float64 // of the main job's slow-down, as 0.01
	Devices int     // of the main job: each of them waits for the slowest
}

const (
	// What the main job may lose in each iteration that moves state, until that is
	// measured: its program waits twice for its device and then has its queue of
	// launches to fill again, and the way back takes from the memory's bandwidth.
	moveNs     = 2_000_000
	moveShare  = 0.05 // of the way back
	moveGain   = 0.1  // of what the plan gives without, at least
	moveBudget = 0.5  // of the budget at most, as filling takes from it too
)

// pays tells whether a plan that moves state is worth what that may cost the
// main job, over the best one that does not. One that does so already stays for
// half the gain, lest it comes and goes.
func (m *Movable) pays(c pipefill.BubbleCycle, with, without float64, already bool) bool {
	cost, least := moveNs+moveShare*float64(m.InNs), moveGain*without
	if already {
		least /= 2
	}
	gain := with - without
	return cost <= moveBudget*m.Budget*float64(c.IterationNs) && gain >= least && gain >= cost*float64(max(m.Devices, 1))
}

// changed tells whether other state could be moved than a plan was made with, or
// at another cost than it counts on.
func (m *Movable) changed(now Movable, moves bool) bool {
	slower := func(before, after int64) bool { return float64(after) > (1+DriftThreshold)*float64(before) }
	return m.Bytes != now.Bytes || moves && (slower(m.OutNs, now.OutNs) || slower(m.InNs, now.InNs))
}

// Kept is the plan that a running job is to follow. It is a value: Look returns
// the next one.
type Kept struct {
	ID     uint64 // HandedID of Text; 0: none could be made
	Text   []byte // of Handed
	Rate   float64
	MadeMs int64
	Times  int          // so many were made
	Why    string       // none could be made for the bubbles as they are now
	Move   *MainOffload // what of the main job's state is to be away; nil: nothing

	cycle   pipefill.BubbleCycle // it was made for, or that none could be made for
	movable Movable              // the same
	triedMs int64
}

// Look makes a job's first plan (k is nil), or another one if its bubbles have
// drifted from those that k was made for by more than DriftThreshold, or other
// state of the main job can be moved, at most every ReplanApart. at is where the
// job says that it is, by the plan with the name atPlan; what it says that cannot
// be is not believed. Where no plan can be made the one before stays, and Why
// says why, unless it counts on state that stays now. Nil: k is as it is to be.
func (k *Kept) Look(c pipefill.BubbleCycle, m Movable, p Profile, at Position, atPlan uint64, nowMs int64) (next *Kept, drift float64) {
	if k != nil {
		drift = Drift(k.cycle, c)
		if drift <= DriftThreshold && !k.movable.changed(m, k.Move != nil) || nowMs-k.triedMs < ReplanApart.Milliseconds() {
			return nil, drift
		}
	}
	var where []Position
	if k != nil && k.ID != 0 && k.ID == atPlan {
		at.Job = p.Name
		where = []Position{at}
	}
	next = &Kept{cycle: c, movable: m, triedMs: nowMs, MadeMs: nowMs}
	if k != nil {
		next.Times = k.Times
	}
	revision, away, err := k.best(c, m, p, where)
	var handed Handed
	if err == nil {
		handed, next.Text, err = Hand(away, p, revision)
	}
	switch {
	case err == nil:
		next.ID, next.Rate = HandedID(next.Text), handed.SamplesPerSecond
		if next.Times++; len(handed.MainOffload) > 0 {
			next.Move = &handed.MainOffload[0]
		}
		return next, drift
	case k != nil && (k.Move == nil || m.Bytes >= k.Move.Bytes):
		next.ID, next.Text, next.Rate, next.MadeMs, next.Move = k.ID, k.Text, k.Rate, k.MadeMs, k.Move
	}
	next.Why = err.Error()
	return next, drift
}

// best is the best plan for a cycle, with state moved away where that pays, and
// the cycle as it has it.
func (k *Kept) best(c pipefill.BubbleCycle, m Movable, p Profile, at []Position) (Revision, pipefill.BubbleCycle, error) {
	stays, err := k.revise(c, p, at, Options{})
	if m.Bytes <= 0 {
		return stays, c, err
	}
	states := []MainState{m.MainState}
	moved, movedErr := k.revise(c, p, at, Options{MainState: states})
	if movedErr != nil || len(moved.Plan.MainOffload) == 0 {
		return stays, c, err
	}
	without, ps := 0.0, []Profile{p}
	if err == nil {
		without = UsefulNs(stays.Plan, ps)
	}
	if !m.pays(c, UsefulNs(moved.Plan, ps), without, k != nil && k.Move != nil) {
		return stays, c, err
	}
	c.Bubbles = awayBubbles(c, moved.Plan, states)
	return moved, c, nil
}

func (k *Kept) revise(c pipefill.BubbleCycle, p Profile, at []Position, o Options) (Revision, error) {
	if k == nil || k.ID == 0 {
		made, err := Make(c, []Profile{p}, o)
		return Revision{Plan: made}, err
	}
	revision, err := Replan(c, []Profile{p}, at, o)
	if pipefill.ErrorCode(err) == pipefill.CodeInvalid && len(at) > 0 {
		return Replan(c, []Profile{p}, nil, o)
	}
	return revision, err
}
