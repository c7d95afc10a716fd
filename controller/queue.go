package controller

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// endedShown is how long the queue shows a job that has ended.
const endedShown = 10 * time.Minute

// jobs lists the caller's fill jobs, an operator's listing all.
func (s *Server) jobs(w http.ResponseWriter, r *http.Request) {
	who := callerOf(r)
	wanted, state := r.URL.Query().Get("user"), r.URL.Query().Get("state")
	if !who.operator {
		if wanted != "" && wanted != who.name {
			s.answer(w, r, http.StatusOK, []api.FillJob{})
			return
		}
		wanted = who.name
	}
	ended, err := endedSince(r.URL.Query().Get("since_ms"), s.controller.now())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rows, err := s.controller.queueSince(r.Context(), wanted, ended)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if state != "" {
		rows = slices.DeleteFunc(rows, func(j api.FillJob) bool { return j.State != state })
	}
	s.answer(w, r, http.StatusOK, rows)
}

// endedSince reads since_ms; without it, a short while ago.
func endedSince(text string, now time.Time) (int64, error) {
	if text == "" {
		return now.Add(-endedShown).UnixMilli(), nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "jobs: since_ms: %q: write milliseconds since 1970", text)
	}
	return ms, nil
}

// Queue lists open fill jobs and those that ended a short while ago.
func (c *Controller) Queue(ctx context.Context, userName string) ([]api.FillJob, error) {
	return c.queueSince(ctx, userName, c.now().Add(-endedShown).UnixMilli())
}

// queueSince lists open fill jobs and those that ended since sinceMs.
func (c *Controller) queueSince(ctx context.Context, userName string, sinceMs int64) ([]api.FillJob, error) {
	jobs, err := c.store.Jobs(ctx, userName, sinceMs)
	if err != nil {
		return nil, err
	}
	slots := c.knownSlots()
	rows := []api.FillJob{}
	for _, j := range jobs {
		rows = append(rows, c.row(j, slots))
	}
	return rows, nil
}

// knownSlots are all slots as of the last round, free or not.
func (c *Controller) knownSlots() []schedule.Slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots
}

// whyLater tells why a job does not wait for a slot yet, "" if it does.
func (c *Controller) whyLater(number int64) string {
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	return c.later[number].text
}

func (c *Controller) row(j store.FillJob, slots []schedule.Slot) api.FillJob {
	out := api.FillJob{
		JobID: j.JobID, ArrayTask: j.ArrayTask, Name: j.Name, User: j.User, Account: j.Account, Partition: j.Partition,
		State: "queued", Reason: j.Reason, Priority: j.Priority, SubmitMs: j.FirstMs, LimitMs: j.LimitMs, DeviceMs: j.DeviceMs, Attempts: j.Attempts,
		DeadlineMs: j.DeadlineMs, Devices: max(j.Devices, 1),
	}
	out.ExpectMs, out.ExpectFrom = c.expected(j)
	a := c.store.LiveOf(j.ID)
	switch {
	case j.Outcome != "":
		out.State = string(j.Outcome)
	case a != nil:
		out.State, out.Node, out.Device, out.Others, out.Assignment = string(a.State), a.Node, a.Device, a.Others, a.ID
		out.Reason = cmp.Or(c.planText(a.ID), out.Reason)
	case j.UserHeld:
		out.State, out.Reason = "held", "held by a person; pipefill-cli release lets it go"
	case j.Unfit != "":
		out.State, out.Reason = "held", j.Unfit
	case j.Attempts > 0 && !j.Requeue:
		out.State, out.Reason = "held", "was started once and may not be restarted (--no-requeue)"
	default:
		out.Reason = cmp.Or(c.whyLater(j.JobID), c.knownDrains().why(j, len(slots)))
		if out.Reason == "" {
			out.Reason = schedule.Why(j, slots)
		}
		out.Reason += c.ignored(j.JobID)
	}
	return out
}

// own finds a fill job that the caller may see and change; a stranger's is not
// found.
func (s *Server) own(r *http.Request) (store.FillJob, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return store.FillJob{}, pipefill.Errorf(pipefill.CodeInvalid, "job %q: write a job number", r.PathValue("id"))
	}
	who := callerOf(r)
	job, err := s.controller.store.JobByID(r.Context(), s.controller.cfg.Cluster, id)
	if err == nil && !who.operator && job.UID != who.uid {
		err = pipefill.Errorf(pipefill.CodeNotFound, "fill job %d: there is none; pipefill-cli queue lists them", id)
	}
	return job, err
}

func (s *Server) job(w http.ResponseWriter, r *http.Request) {
	job, err := s.own(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, http.StatusOK, s.controller.row(job, s.controller.knownSlots()))
}

// act holds, releases, cancels or orders one of the caller's jobs.
func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	job, err := s.own(r)
	if err == nil && job.Outcome != "" {
		err = pipefill.Errorf(pipefill.CodeConflict, "fill job %d has ended (%s): there is nothing to change", job.JobID, job.Outcome)
	}
	if err == nil {
		err = s.change(r, job)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.controller.Kick()
	s.answer(w, r, http.StatusOK, struct{}{})
}

// change does what is asked; what an operator asks is written down.
func (s *Server) change(r *http.Request, job store.FillJob) error {
	who, action := callerOf(r), r.PathValue("action")
	var order api.Order
	if r.ContentLength != 0 {
		if err := decode(r, &order); err != nil {
			return err
		}
	}
	do, detail, err := s.order(who, action, job, order)
	if err != nil {
		return err
	}
	if !who.operator {
		return do(r.Context())
	}
	entry := api.AuditEntry{Action: action, Target: fmt.Sprintf("job %d of %s", job.JobID, job.User), Detail: detail, Why: order.Why}
	return s.audited(r.Context(), who, entry, do)
}

// order checks an order and returns how it is carried out.
func (s *Server) order(who caller, action string, job store.FillJob, order api.Order) (do func(context.Context) error, detail string, err error) {
	c := s.controller
	switch action {
	case "hold", "release":
		return func(ctx context.Context) error { return c.store.SetHeld(ctx, job.ID, action == "hold") }, "", nil
	case "cancel":
		return func(ctx context.Context) error { return c.slurm.Cancel(ctx, job.JobID) }, "", nil
	case "priority":
		const most = 1_000_000
		if order.Priority == nil || *order.Priority < -most || *order.Priority > most {
			return nil, "", pipefill.Errorf(pipefill.CodeInvalid, "priority: write %d to %d", -most, most)
		}
		site := who.operator && job.UID != who.uid
		return func(ctx context.Context) error { return c.store.SetPriority(ctx, job.ID, *order.Priority, site) }, fmt.Sprint(*order.Priority), nil
	}
	return nil, "", pipefill.Errorf(pipefill.CodeInvalid, "%q: write hold, release, cancel or priority", action)
}

// slots lists the devices of running main jobs. Who fills a slot is shown to
// the owner of either job and to operators.
func (s *Server) slots(w http.ResponseWriter, r *http.Request) {
	who := callerOf(r)
	live, err := s.controller.store.Live(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, http.StatusOK, s.controller.slotRows(who, live, s.lookup))
}

func (c *Controller) slotRows(who caller, live []store.Assignment, lookup func(uint32) (string, error)) []api.Slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	slots := []api.Slot{}
	for name, n := range c.nodes {
		for _, m := range n.said.Mains {
			slot := api.Slot{Node: name, Main: m, SeenMs: n.seenMs}
			if user, err := lookup(m.UID); err == nil {
				slot.User = user
			}
			for _, a := range live {
				if a.Node == name && slices.Contains(a.Devices(), m.Device) && (who.operator || a.UID == who.uid || m.UID == who.uid) {
					slot.FillJob = a.Job.JobID
				}
			}
			if !who.operator && m.UID != who.uid {
				slot.Main.Options, slot.Main.Totals = "", api.MainTotals{}
			}
			slots = append(slots, slot)
		}
	}
	slices.SortFunc(slots, func(a, b api.Slot) int {
		if a.Node+string(a.Main.Device) < b.Node+string(b.Main.Device) {
			return -1
		}
		return 1
	})
	return slots
}
