package controller

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// replanApart is the least time between two plans of one fill job: bubbles are
// learned from 16 iterations, and a plan is followed for some before it is
// judged.
const replanApart = 5 * time.Second

// What a plan is cut to is what a node takes.
var _ = [1]struct{}{}[plan.HandedMost-api.MaxPlan]

// handover is the plan of a live assignment, as its node is to have it.
type handover struct {
	cycle pipefill.BubbleCycle // it was made for, or that none could be made for
	plan  api.Plan             // ID 0: none yet
	rate  float64              // samples a second
	atMs  int64                // when it was made
	tried int64                // ms: when one was last made, or could not be
	why   string               // none could be made
	times int                  // so many were made
}

// planned is a chunked fill job with a profile that has a slot.
type planned struct {
	assignment, number int64
	digest             string
	slot               schedule.Slot
}

// lookAtPlans asks for plans to be looked at now.
func (c *Controller) lookAtPlans() {
	select {
	case c.planKick <- struct{}{}:
	default: // it is asked already
	}
}

// planLoop makes plans beside the loop: one takes milliseconds.
func (c *Controller) planLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.planKick:
			c.planAll(ctx)
		}
	}
}

// planAll makes the plans that are missing, and those anew whose bubbles have
// drifted.
func (c *Controller) planAll(ctx context.Context) {
	c.planning.Lock()
	defer c.planning.Unlock()
	live := c.toPlan()
	here := make(map[int64]bool, len(live))
	for _, p := range live {
		here[p.assignment] = true
		if ctx.Err() == nil {
			c.planOne(ctx, p)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.plans {
		if !here[id] {
			delete(c.plans, id)
		}
	}
}

// toPlan lists the live assignments of jobs that can follow a plan.
func (c *Controller) toPlan() []planned {
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	var all []planned
	c.store.EachLive(func(a *store.Assignment, job *store.FillJob) {
		if job == nil || job.Mode != pipefill.ModeChunked {
			return
		}
		word := c.mirror.jobs[a.Job.JobID]
		if word == nil {
			return
		}
		if digest := option(word.Options, "profile"); len(digest) == hex.EncodedLen(sha256.Size) {
			all = append(all, planned{a.ID, a.Job.JobID, digest, schedule.Slot{Node: a.Node, Device: a.Device, Main: a.MainJob}})
		}
	})
	slices.SortFunc(all, func(a, b planned) int { return cmp.Compare(a.assignment, b.assignment) })
	return all
}

// planOne makes an assignment's plan, if it has none or its bubbles have
// drifted from those that it was made for.
func (c *Controller) planOne(ctx context.Context, p planned) {
	profile := c.profileOf(ctx, p.digest)
	cycle, known := c.cycleOf(p.slot)
	if profile == nil || !known || len(cycle.Bubbles) == 0 {
		return
	}
	nowMs := c.now().UnixMilli()
	c.mu.Lock()
	old := c.plans[p.assignment]
	at := c.positionOf(p)
	c.mu.Unlock()
	drift := 0.0
	if old != nil {
		if drift = plan.Drift(old.cycle, cycle); drift <= plan.DriftThreshold || nowMs-old.tried < replanApart.Milliseconds() {
			return
		}
	}
	fresh := &handover{cycle: cycle, tried: nowMs, atMs: nowMs}
	revision, err := revise(cycle, *profile, old, at)
	var handed plan.Handed
	var text []byte
	if err == nil {
		handed, text, err = plan.Hand(cycle, *profile, revision)
	}
	if err != nil {
		// The plan before stays in force: it goes as far as fits wherever it is.
		if old != nil {
			fresh.plan, fresh.rate, fresh.atMs, fresh.times = old.plan, old.rate, old.atMs, old.times
		}
		fresh.why = err.Error()
		c.log.InfoContext(ctx, "no plan for a fill job", "fill_job_id", p.number, "assignment", p.assignment, "drift", drift, "reason", fresh.why)
	} else {
		fresh.plan = api.Plan{Assignment: p.assignment, ID: plan.HandedID(text), Text: text}
		fresh.rate, fresh.times = handed.SamplesPerSecond, 1
		if old != nil {
			fresh.times = old.times + 1
		}
		c.log.InfoContext(ctx, "plan made", "fill_job_id", p.number, "assignment", p.assignment, "drift", drift,
			"samples_per_second", handed.SamplesPerSecond, "time", fresh.times)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plans[p.assignment] = fresh
	if n := c.nodes[p.slot.Node]; n != nil && (old == nil || old.plan.ID != fresh.plan.ID) {
		close(n.news)
		n.news = make(chan struct{})
	}
}

// revise makes the first plan, or the one that follows old from where the job is.
func revise(cycle pipefill.BubbleCycle, profile plan.Profile, old *handover, at []plan.Position) (plan.Revision, error) {
	profiles := []plan.Profile{profile}
	if old == nil || old.plan.ID == 0 {
		made, err := plan.Make(cycle, profiles, plan.Options{})
		return plan.Revision{Plan: made}, err
	}
	for i := range at {
		at[i].Job = profile.Name
	}
	revision, err := plan.Replan(cycle, profiles, at, plan.Options{})
	if pipefill.ErrorCode(err) == pipefill.CodeInvalid && len(at) > 0 {
		// The job's own word for where it is, which is no place of its profile.
		return plan.Replan(cycle, profiles, nil, plan.Options{})
	}
	return revision, err
}

// positionOf is where the job of an assignment said that it is, by the plan that
// it has; none where it follows another. c.mu is held.
func (c *Controller) positionOf(p planned) []plan.Position {
	n, h := c.nodes[p.slot.Node], c.plans[p.assignment]
	if n == nil || h == nil || h.plan.ID == 0 {
		return nil
	}
	a := n.view.Assignments[p.assignment]
	if a.At.Plan != h.plan.ID {
		return nil
	}
	return []plan.Position{{Config: a.At.Config, Op: a.At.Op}}
}

// planText tells of the plan that an assignment has; "" where it has none to
// follow.
func (c *Controller) planText(assignment int64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.plans[assignment]
	switch {
	case h == nil:
		return ""
	case h.plan.ID == 0:
		return "runs as far as fits in each bubble: no plan: " + h.why
	}
	text := fmt.Sprintf("planned for %.4g samples/s at %s", h.rate, time.UnixMilli(h.atMs).Format("15:04:05"))
	if h.times > 1 {
		text += fmt.Sprintf(", the %d. plan", h.times)
	}
	if h.why != "" {
		text += "; its bubbles have changed since, and no plan fits them: " + h.why
	}
	return text
}

// plansFor are the plans that a node has not yet of the fill jobs that it runs.
// c.mu is held.
func (c *Controller) plansFor(state api.NodeSync) []api.Plan {
	if !state.TakesPlans || len(c.plans) == 0 {
		return nil
	}
	var plans []api.Plan
	for _, a := range state.Assignments {
		runs := a.State == pipefill.AssignmentAttached || a.State == pipefill.AssignmentRunning
		if h := c.plans[a.ID]; h != nil && runs && h.plan.ID != 0 && h.plan.ID != a.Plan {
			plans = append(plans, h.plan)
		}
	}
	return plans
}
