package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// What a plan is cut to is what a node takes.
var _ = [1]struct{}{}[plan.HandedMost-api.MaxPlan]

// planned is a chunked fill job with a profile that has a slot.
type planned struct {
	assignment, number int64
	digest             string
	slot               schedule.Slot
	memBytes           int64 // that it may have of the device, as its user says; 0: nothing said
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
		if job == nil || job.Mode != pipefill.ModeChunked || a.Others != "" {
			return // a gang's chunks go as far as fits
		}
		word := c.mirror.jobs[a.Job.JobID]
		if word == nil {
			return
		}
		if digest := profileDigest(word.Options); digest != "" {
			all = append(all, planned{a.ID, a.Job.JobID, digest, schedule.Slot{Node: a.Node, Device: a.Device, Main: a.MainJob}, job.MemBytes})
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
	c.mu.Lock()
	old := c.plans[p.assignment]
	movable := c.movable(p)
	var at api.PlanPosition
	if n := c.nodes[p.slot.Node]; n != nil {
		at = n.view.Assignments[p.assignment].At
	}
	c.mu.Unlock()
	kept, drift := old.Look(cycle, movable, *profile, plan.Position{Config: at.Config, Op: at.Op}, at.Plan, c.now().UnixMilli())
	if kept == nil {
		return
	}
	c.log.InfoContext(ctx, "plan made", "fill_job_id", p.number, "assignment", p.assignment, "drift", drift,
		"samples_per_second", kept.Rate, "times", kept.Times, "moves", kept.Move != nil, "reason", kept.Why)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plans[p.assignment] = kept
	if n := c.nodes[p.slot.Node]; n != nil && (old == nil || old.ID != kept.ID) {
		n.wake()
	}
}

// movable is what the main job of a fill job's slot could move for it. A job that
// says what memory it needs gets no more. c.mu is held.
func (c *Controller) movable(p planned) plan.Movable {
	n := c.nodes[p.slot.Node]
	if n == nil || p.memBytes > 0 {
		return plan.Movable{}
	}
	i := slices.IndexFunc(n.said.Mains, func(d api.MainDevice) bool { return d.Job == p.slot.Main && d.Device == p.slot.Device })
	if i < 0 || len(n.said.Mains[i].Movable) == 0 {
		return plan.Movable{}
	}
	m := plan.Movable{Budget: n.said.Mains[i].Budget}
	for _, told := range n.said.Mains[i].Movable {
		state := plan.MainState{Name: told.Kind, Bytes: max(told.Bytes, 0), OutNs: max(told.OutNs, 0), InNs: max(told.InNs, 0), Hidden: true}
		if told.Bubble != nil {
			state.Over = []int{*told.Bubble}
		}
		m.States = append(m.States, state)
	}
	for _, other := range c.nodes {
		for i := range other.said.Mains {
			if other.said.Mains[i].Job == p.slot.Main {
				m.Devices++
			}
		}
	}
	return m
}

var moveNames = map[string]string{api.MoveOptimizer: "optimizer state", api.MoveCache: "cached blocks"}

// moveOf is what a node is told of a plan's move.
func moveOf(k *plan.Kept) *api.PlanMove {
	if k.Move == nil {
		return nil
	}
	return &api.PlanMove{Kind: k.Move.Name, Out: k.Move.OutBubble, In: k.Move.InBubble, Bytes: k.Move.Bytes}
}

// planText tells of the plan that an assignment has; "" where it has none to
// follow.
func (c *Controller) planText(assignment int64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.plans[assignment]
	switch {
	case k == nil:
		return ""
	case k.ID == 0:
		return "runs as far as fits in each bubble: no plan: " + k.Why
	}
	text := fmt.Sprintf("planned for %.4g samples/s at %s", k.Rate, time.UnixMilli(k.MadeMs).Format("15:04:05"))
	if k.Times > 1 {
		text += fmt.Sprintf(", the %d. plan", k.Times)
	}
	if k.Move != nil {
		text += fmt.Sprintf(", with %.1f GiB of the main job's %s away over bubbles %d to %d", float64(k.Move.Bytes)/(1<<30), moveNames[k.Move.Name], k.Move.OutBubble, k.Move.InBubble)
	}
	if k.Why != "" {
		text += "; its bubbles have changed since, and no plan fits them: " + k.Why
	}
	return text
}

// plansFor are the plans that a node has not yet of the fill jobs that it runs.
// c.mu is held.
func (c *Controller) plansFor(state *api.NodeSync) []api.Plan {
	if !state.TakesPlans || len(c.plans) == 0 {
		return nil
	}
	var plans []api.Plan
	for _, a := range state.Assignments {
		runs := a.State == pipefill.AssignmentAttached || a.State == pipefill.AssignmentRunning
		if k := c.plans[a.ID]; k != nil && runs && k.ID != 0 && k.ID != a.Plan {
			plans = append(plans, api.Plan{Assignment: a.ID, ID: k.ID, Text: k.Text, Move: moveOf(k)})
		}
	}
	return plans
}
