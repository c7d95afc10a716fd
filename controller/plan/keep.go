package plan

import (
	"time"

	"pipefill"
)

// ReplanApart is the least time between two plans of one job: bubbles are
// learned from 16 iterations, and a plan is followed for some before it is
// judged.
const ReplanApart = 5 * time.Second

// Kept is the plan that a running job is to follow. It is a value: Look returns
// the next one.
type Kept struct {
	ID     uint64 // HandedID of Text; 0: none could be made
	Text   []byte // of Handed
	Rate   float64
	MadeMs int64
	Times  int    // so many were made
	Why    string // none could be made for the bubbles as they are now

	cycle   pipefill.BubbleCycle // it was made for, or that none could be made for
	triedMs int64
}

// Look makes a job's first plan (k is nil), or another one if its bubbles have
// drifted from those that k was made for by more than DriftThreshold, at most
// every ReplanApart. at is where the job says that it is, by the plan with the
// name atPlan; what it says that cannot be is not believed. Where no plan can be
// made the one before stays, and Why says why. Nil: k is as it is to be.
func (k *Kept) Look(c pipefill.BubbleCycle, p Profile, at Position, atPlan uint64, nowMs int64) (next *Kept, drift float64) {
	if k != nil {
		drift = Drift(k.cycle, c)
		if drift <= DriftThreshold || nowMs-k.triedMs < ReplanApart.Milliseconds() {
			return nil, drift
		}
	}
	var where []Position
	if k != nil && k.ID != 0 && k.ID == atPlan {
		at.Job = p.Name
		where = []Position{at}
	}
	next = &Kept{cycle: c, triedMs: nowMs, MadeMs: nowMs}
	if k != nil {
		next.Times = k.Times
	}
	revision, err := k.revise(c, p, where)
	var handed Handed
	if err == nil {
		handed, next.Text, err = Hand(c, p, revision)
	}
	if err == nil {
		next.ID, next.Rate = HandedID(next.Text), handed.SamplesPerSecond
		next.Times++
		return next, drift
	}
	if k != nil {
		next.ID, next.Text, next.Rate, next.MadeMs = k.ID, k.Text, k.Rate, k.MadeMs
	}
	next.Why = err.Error()
	return next, drift
}

func (k *Kept) revise(c pipefill.BubbleCycle, p Profile, at []Position) (Revision, error) {
	if k == nil || k.ID == 0 {
		made, err := Make(c, []Profile{p}, Options{})
		return Revision{Plan: made}, err
	}
	revision, err := Replan(c, []Profile{p}, at, Options{})
	if pipefill.ErrorCode(err) == pipefill.CodeInvalid && len(at) > 0 {
		return Replan(c, []Profile{p}, nil, Options{})
	}
	return revision, err
}
