package controller

import (
	"context"
	"net/http"
	"slices"
	"time"

	"pipefill/api"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// predictionsFor is how far back the error of expected times is looked at.
const predictionsFor = 30 * 24 * time.Hour

// share sums up usage for job.fairshare now and then: ten half-lives of it, after
// which less than a thousandth is left.
func (c *Controller) share(ctx context.Context) error {
	now := c.now()
	if now.Sub(c.sharesAt) <= expectationsEvery {
		return nil
	}
	halfLife := time.Duration(c.cfg.HalfLifeH) * time.Hour
	records, err := c.store.UsageOfUsers(ctx, now.UnixMilli(), now.Add(-10*halfLife).UnixMilli())
	if err != nil {
		return err
	}
	shares, err := readShares(c.cfg.Shares)
	if err != nil {
		return err // checked when it was loaded
	}
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	c.scheduler.SetShares(schedule.Shares{Accounts: shares, Usage: schedule.Decay(records, now.UnixMilli(), halfLife)})
	c.sharesAt = now
	return nil
}

// busySlots tells the scheduler which slots an assignment has, and for how long;
// here are all of its node.
func busySlots(a *store.Assignment, here []schedule.Slot, nowMs int64) []schedule.Busy {
	devices := a.Devices()
	busy := make([]schedule.Busy, len(devices))
	for i, device := range devices {
		slot := schedule.Slot{Node: a.Node, Device: device, Main: a.MainJob}
		if k := slices.IndexFunc(here, func(s schedule.Slot) bool { return s.Device == device }); k >= 0 {
			slot = here[k]
		}
		b := schedule.Busy{Slot: slot, User: a.User, Account: a.Account}
		start := max(a.ReservedMs, a.ReleasedMs)
		if a.ExpectMs > 0 {
			b.ExpectMs = max(nowMs, start+a.ExpectMs)
		}
		if a.DeviceTimeMs > 0 && slot.Share > 0 {
			b.UntilMs = start + int64(float64(a.DeviceTimeMs)/slot.Share)
		}
		busy[i] = b
	}
	return busy
}

// expected is the device time that a job is thought to take, and where that is
// from.
func (c *Controller) expected(j store.FillJob) (ms int64, source string) {
	c.mirror.mu.Lock()
	j.ExpectMs = c.expectations[[2]string{j.User, j.Name}]
	c.mirror.mu.Unlock()
	return schedule.Expected(j)
}

// Policies lists the policies, the one in use first.
func (c *Controller) Policies() []api.Policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []api.Policy
	for _, name := range c.policies.Names() {
		p := c.policies[name]
		row := api.Policy{Name: name, Active: p == c.policy, File: p.File, Text: p.Text}
		if row.Active {
			out = slices.Insert(out, 0, row)
			continue
		}
		out = append(out, row)
	}
	return out
}

// ExplainPolicy tells why a fill job is where it is in the queue.
func (c *Controller) ExplainPolicy(ctx context.Context, job store.FillJob) (api.PolicyExplanation, error) {
	slots := c.knownSlots()
	row := c.row(job, slots)
	out := api.PolicyExplanation{
		JobID: job.JobID, State: row.State, Reason: row.Reason, Source: row.ExpectFrom, WaitMs: -1, Slots: len(slots), Scores: []float64{}, Values: []api.AttributeValue{},
	}
	c.mirror.mu.Lock()
	e, waits := c.scheduler.Explain(c.now().UnixMilli(), job.ID, slots)
	c.mirror.mu.Unlock()
	if waits {
		out.Policy, out.Tier, out.Suits, out.Slots, out.Place, out.Node, out.Device, out.WaitMs = e.Policy, e.Tier, e.Suits, e.Slots, e.Place, e.Node, e.Device, e.WaitMs
		out.Source, out.Reason = e.Source, e.Why+c.ignored(job.JobID)
		out.Scores = append(out.Scores, e.Scores...)
		for _, v := range e.Values {
			out.Values = append(out.Values, api.AttributeValue(v))
		}
	}
	predictions, err := c.predictions(ctx)
	if err != nil {
		return out, err
	}
	for _, p := range predictions {
		if p.Source == out.Source {
			out.Prediction = &p
		}
	}
	return out, nil
}

func (c *Controller) predictions(ctx context.Context) ([]api.Prediction, error) {
	out, err := c.store.Predictions(ctx, c.now().Add(-predictionsFor).UnixMilli())
	if out == nil {
		out = []api.Prediction{}
	}
	return out, err
}

func (s *Server) listPolicies(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, http.StatusOK, s.controller.Policies())
}

func (s *Server) predictions(w http.ResponseWriter, r *http.Request) {
	rows, err := s.controller.predictions(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, http.StatusOK, rows)
}

// explainPolicy answers for a job of the caller's, an operator's for all.
func (s *Server) explainPolicy(w http.ResponseWriter, r *http.Request) {
	job, err := s.own(r)
	if err == nil {
		var out api.PolicyExplanation
		if out, err = s.controller.ExplainPolicy(r.Context(), job); err == nil {
			s.answer(w, r, http.StatusOK, out)
			return
		}
	}
	s.fail(w, r, err)
}
