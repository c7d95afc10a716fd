package plan

import (
	"slices"
	"time"

	"pipefill"
)

// ReplanApart is the least time between two plans of one job: bubbles are
// learned from 16 iterations, and a plan is followed for some before it is
// judged.
const ReplanApart = 5 * time.Second

// Movable is what the main job of a slot could move away, one of it at a time,
// and what may be spent on that. The zero value moves nothing.
type Movable struct {
	States  []MainState
	Budget  float64 // of the main job's slow-down, as 0.01
	Devices int     // of the main job: each of them waits for the slowest
}

const (
	// What the main job may lose in each iteration that moves state, until that is
	// measured: its program waits twice for its device and then has its queue of
	// launches to fill again, and the way back takes from the memory's bandwidth.
	moveNs     = 2_000_000
	moveShare  = 0.05 // of the way back, where it runs beside what is computed
	moveGain   = 0.1  // of what the plan gives without, at least
	moveBudget = 0.5  // of the budget at most, as filling takes from it too
)

// costNs is what moving a state takes from the main job in each iteration.
func (s *MainState) costNs() float64 {
	if s.Over != nil {
		return moveNs + float64(s.InNs)
	}
	return moveNs + moveShare*float64(s.InNs)
}

// pays tells whether a plan that moves a state is worth what that may cost the
// main job, over the best one that does not. One that does so already stays for
// half the gain, lest it comes and goes.
func (m *Movable) pays(s *MainState, c pipefill.BubbleCycle, with, without float64, already bool) bool {
	cost, least := s.costNs(), moveGain*without
	if already {
		least /= 2
	}
	gain := with - without
	return cost <= moveBudget*m.Budget*float64(c.IterationNs) && gain >= least && gain >= cost*float64(max(m.Devices, 1))
}

// state is the one of a name; nil: there is none.
func (m *Movable) state(name string) *MainState {
	i := slices.IndexFunc(m.States, func(s MainState) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &m.States[i]
}

// holds tells whether a move can still be done.
func (m *Movable) holds(move *MainOffload) bool {
	s := m.state(move.Name)
	return s != nil && s.Bytes >= move.Bytes && (s.Over == nil || slices.Contains(s.Over, move.OutBubble))
}

// changed tells whether something else could be moved than a plan was made with,
// or what it moves at another cost than it counts on.
func (m *Movable) changed(now Movable, move *MainOffload) bool {
	slower := func(before, after int64) bool { return float64(after) > (1+DriftThreshold)*float64(before) }
	return len(m.States) != len(now.States) || slices.ContainsFunc(now.States, func(s MainState) bool {
		before := m.state(s.Name)
		return before == nil || before.Bytes != s.Bytes || !slices.Equal(before.Over, s.Over) ||
			move != nil && move.Name == s.Name && (slower(before.OutNs, s.OutNs) || slower(before.InNs, s.InNs))
	})
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
		if drift <= DriftThreshold && !k.movable.changed(m, k.Move) || nowMs-k.triedMs < ReplanApart.Milliseconds() {
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
	case k != nil && (k.Move == nil || m.holds(k.Move)):
		next.ID, next.Text, next.Rate, next.MadeMs, next.Move = k.ID, k.Text, k.Rate, k.MadeMs, k.Move
	}
	next.Why = err.Error()
	return next, drift
}

// best is the best plan for a cycle, with what it gains most by moved away where
// that pays, and the cycle as it has it.
func (k *Kept) best(c pipefill.BubbleCycle, m Movable, p Profile, at []Position) (Revision, pipefill.BubbleCycle, error) {
	ps := []Profile{p}
	best, err := k.revise(c, p, at, Options{})
	without, most, cycle := 0.0, 0.0, c
	if err == nil {
		without = UsefulNs(best.Plan, ps)
	}
	for i := range m.States {
		s := &m.States[i]
		if s.Bytes <= 0 {
			continue
		}
		moved, movedErr := k.revise(c, p, at, Options{MainState: []MainState{*s}})
		if movedErr != nil || len(moved.Plan.MainOffload) == 0 {
			continue
		}
		with := UsefulNs(moved.Plan, ps)
		if gain := with - without - s.costNs(); gain > most && m.pays(s, c, with, without, k != nil && k.Move != nil && k.Move.Name == s.Name) {
			most, best, err, cycle = gain, moved, nil, c
			cycle.Bubbles = awayBubbles(c, moved.Plan, []MainState{*s})
		}
	}
	return best, cycle, err
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
