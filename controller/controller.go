// Package controller is pipefillctld: it mirrors the fill partitions into the
// store, assigns fill jobs to slots, dispatches and accounts. It takes its
// decisions from the pure packages schedule and reconcile, writes each before it
// acts on it, and reaches Slurm and SQLite only through their doors.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/reconcile"
	"pipefill/controller/schedule"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// Slurm is what the controller asks of the workload manager.
type Slurm interface {
	Jobs(ctx context.Context, partitions []string) ([]slurm.Job, error)
	PendingMain(ctx context.Context, fillPartitions []string) ([]slurm.Job, error)
	Nodes(ctx context.Context) ([]slurm.Node, error)
	Hold(ctx context.Context, id int64) error
	PinRelease(ctx context.Context, id int64, node string) error
	RequeueHold(ctx context.Context, id int64) error
	Cancel(ctx context.Context, id int64) error
	SetTimeLimit(ctx context.Context, id, minutes int64) error
}

var _ Slurm = (*slurm.Client)(nil)

// expectationsEvery is how often the history of completed jobs is summed up;
// avoidFor is how long a job is kept off a node that its release failed on.
const (
	expectationsEvery = time.Minute
	avoidFor          = 5 * time.Minute
	callTimeout       = 30 * time.Second
)

// Controller holds what is not on disk: what nodes last said, and what they are
// to be told.
type Controller struct {
	cfg   Config
	store *store.Store
	slurm Slurm
	log   *slog.Logger
	now   func() time.Time

	kick    chan struct{} // one waiting: look again now
	tallies *tallies

	mu       sync.Mutex
	started  int64 // ms; a node is not lost before it had the time to call
	nodes    map[string]*node
	faults   map[string]string // by source: what a person should know
	slots    []schedule.Slot   // all of the last round
	policies schedule.Set
	policy   *schedule.Policy
	names    map[uint32]string // of main jobs' owners, as they were first asked for
	news     chan struct{}     // closed and made anew when a node's orders change

	// Of the loop alone.
	expectations map[[2]string]int64
	expectedAt   time.Time
	avoid        map[avoided]time.Time
	scheduler    *schedule.Scheduler
}

type avoided struct {
	job  int64
	node string
}

// New returns a controller; Run starts it.
func New(cfg Config, st *store.Store, sl Slurm, log *slog.Logger, now func() time.Time) *Controller {
	c := &Controller{
		cfg: cfg, store: st, slurm: sl, log: log, now: now, tallies: newTallies(), kick: make(chan struct{}, 1), started: now().UnixMilli(),
		nodes: map[string]*node{}, faults: map[string]string{}, news: make(chan struct{}), names: map[uint32]string{}, avoid: map[avoided]time.Time{},
	}
	c.scheduler = c.newScheduler()
	return c
}

// Run looks at Slurm and the nodes until ctx ends: every poll, and at once when
// a node has news.
func (c *Controller) Run(ctx context.Context) error {
	go c.keep(ctx)
	ticker := time.NewTicker(c.cfg.Poll())
	defer ticker.Stop()
	for {
		begin := c.now()
		c.Look(ctx)
		c.tallies.round(c.now().Sub(begin))
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-c.kick:
		}
	}
}

// Look does one round: mirror, reconcile, schedule, tell.
func (c *Controller) Look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 4*callTimeout)
	defer cancel()
	jobs, err := c.slurm.Jobs(ctx, c.cfg.Partitions)
	c.fault("slurm", err)
	if err != nil {
		c.log.WarnContext(ctx, "slurm does not answer, fill jobs stay as they are", "err", err)
		return
	}
	if err := c.mirror(ctx, jobs); err != nil {
		c.broken(ctx, err)
		return
	}
	view, err := c.view(ctx, jobs)
	if err != nil {
		c.broken(ctx, err)
		return
	}
	c.act(ctx, reconcile.Decide(view))
	if err := c.schedule(ctx, view); err != nil {
		c.broken(ctx, err)
		return
	}
	c.broken(ctx, c.tell(ctx))
}

// broken notes what the store says; nil clears it.
func (c *Controller) broken(ctx context.Context, err error) {
	c.fault("database", err)
	if err != nil {
		c.log.ErrorContext(ctx, "the queue cannot be read or written", "err", err)
	}
}

// fault remembers what a source says, for doctor; nil forgets it.
func (c *Controller) fault(source string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.faults, source)
		return
	}
	c.faults[source] = source + ": " + err.Error()
}

// view gathers what a decision rests on.
func (c *Controller) view(ctx context.Context, jobs []slurm.Job) (reconcile.View, error) {
	live, err := c.store.Live(ctx)
	if err != nil {
		return reconcile.View{}, err
	}
	open, err := c.store.OpenJobs(ctx)
	if err != nil {
		return reconcile.View{}, err
	}
	view := reconcile.View{
		NowMs: c.now().UnixMilli(), NodeLostMs: c.cfg.NodeLostS * 1000, MaxMin: c.cfg.MaxTimeMin,
		Live: live, Jobs: open, Slurm: map[int64]slurm.Job{}, Nodes: c.heard(), Vacate: map[string]bool{},
	}
	for _, j := range jobs {
		view.Slurm[j.ID] = j
	}
	for _, a := range live {
		// A node that was never heard since our own start may still call.
		if _, ok := view.Nodes[a.Node]; !ok {
			view.Nodes[a.Node] = reconcile.Node{SeenMs: c.started}
		}
	}
	if len(live) > 0 {
		view.Vacate = c.vacate(ctx)
	}
	return view, nil
}

// vacate lists the nodes whose memory a pending main job waits for.
func (c *Controller) vacate(ctx context.Context) map[string]bool {
	pending, err := c.slurm.PendingMain(ctx, c.cfg.Partitions)
	if err != nil || len(pending) == 0 {
		return nil
	}
	nodes, err := c.slurm.Nodes(ctx)
	if err != nil {
		return nil
	}
	return Vacate(pending, nodes, c.cfg.Partitions)
}

// act carries out what was decided. After a failure the rest of that job's
// actions wait for the next round.
func (c *Controller) act(ctx context.Context, actions []reconcile.Action) {
	failed := map[int64]bool{}
	for _, a := range actions {
		if failed[a.JobID] || ctx.Err() != nil {
			continue
		}
		if err := c.do(ctx, a); err != nil {
			failed[a.JobID] = true
			c.log.WarnContext(ctx, "a step did not work, it is tried again", "action", string(a.Kind), "fill_job_id", a.JobID, "err", err)
		}
	}
}

func (c *Controller) do(ctx context.Context, a reconcile.Action) error {
	nowMs := c.now().UnixMilli()
	log := c.log.With("fill_job_id", a.JobID)
	switch a.Kind {
	case reconcile.Advance:
		return c.store.Advance(ctx, a.Assignment, a.State, nowMs)
	case reconcile.End:
		log.InfoContext(ctx, "assignment ended", "assignment", a.Assignment, "outcome", a.Outcome, "reason", a.Reason)
		c.tallies.end(a.Outcome)
		if a.Avoid {
			c.avoid[avoided{a.JobID, a.Node}] = c.now().Add(avoidFor)
		}
		return c.store.End(ctx, a.Assignment, a.Outcome, a.Reason, a.ExitCode, a.JobOutcome, nowMs)
	case reconcile.EndJob:
		log.InfoContext(ctx, "job ended", "outcome", a.Outcome, "reason", a.Reason)
		return c.store.EndJob(ctx, a.FillJobID, a.Outcome, a.Reason, nowMs)
	case reconcile.PinRelease:
		return c.release(ctx, a)
	case reconcile.Hold:
		return c.slurm.Hold(ctx, a.JobID)
	case reconcile.RequeueHold:
		return c.slurm.RequeueHold(ctx, a.JobID)
	case reconcile.Cancel:
		return c.slurm.Cancel(ctx, a.JobID)
	case reconcile.Extend:
		return c.slurm.SetTimeLimit(ctx, a.JobID, a.Minutes)
	}
	return pipefill.Errorf(pipefill.CodeInternal, "no action is called %q", a.Kind)
}

// release pins and releases. Where Slurm says that it can never be, the job
// goes back to the queue and keeps off that node for a while.
func (c *Controller) release(ctx context.Context, a reconcile.Action) error {
	err := c.slurm.PinRelease(ctx, a.JobID, a.Node)
	if pipefill.ErrorCode(err) != pipefill.CodeConflict {
		return err
	}
	c.avoid[avoided{a.JobID, a.Node}] = c.now().Add(avoidFor)
	if err := c.slurm.Hold(ctx, a.JobID); err != nil {
		return err
	}
	return c.store.End(ctx, a.Assignment, pipefill.OutcomeLost, err.Error(), 0, "", c.now().UnixMilli())
}

// schedule gives free slots to waiting jobs.
func (c *Controller) schedule(ctx context.Context, view reconcile.View) error {
	live, err := c.store.Live(ctx)
	if err != nil {
		return err
	}
	all := FreeSlots(view, nil)
	c.mu.Lock()
	c.slots = all
	c.mu.Unlock()
	slots := FreeSlots(view, live)
	if len(slots) == 0 {
		return nil
	}
	waiting, err := c.waiting(ctx, view, live)
	if err != nil {
		return err
	}
	for _, pair := range c.pairs(waiting, slots, live) {
		id, err := c.store.Reserve(ctx, pair.Job, pair.Slot.Node, pair.Slot.Device, pair.Slot.Main, c.now().UnixMilli())
		if err != nil {
			return err
		}
		c.log.InfoContext(ctx, "slot reserved", "fill_job_id", pair.Job.JobID, "assignment", id, "node", pair.Slot.Node, "device", pair.Slot.Device)
	}
	return nil
}

// waiting lists the jobs that are held in Slurm and have no assignment.
func (c *Controller) waiting(ctx context.Context, view reconcile.View, live []store.Assignment) ([]store.FillJob, error) {
	open, err := c.store.OpenJobs(ctx)
	if err != nil {
		return nil, err
	}
	if c.now().Sub(c.expectedAt) > expectationsEvery {
		if c.expectations, err = c.store.Expectations(ctx); err != nil {
			return nil, err
		}
		c.expectedAt = c.now()
	}
	assigned := map[int64]bool{}
	for _, a := range live {
		assigned[a.FillJobID] = true
	}
	waiting := slices.DeleteFunc(open, func(j store.FillJob) bool {
		job, known := view.Slurm[j.JobID]
		return assigned[j.ID] || !known || !job.Pending() || job.Restarts != j.Restarts
	})
	for i, j := range waiting {
		waiting[i].ExpectMs = c.expectations[[2]string{j.User, j.Name}]
	}
	return waiting, nil
}

// FreeSlots lists the devices of running main jobs that may be filled and have
// no live assignment. Nodes that do not report, and nodes that a main job waits
// for, have none.
func FreeSlots(view reconcile.View, live []store.Assignment) []schedule.Slot {
	type place struct {
		node   string
		device pipefill.DeviceID
	}
	taken := map[place]bool{}
	for _, a := range live {
		taken[place{a.Node, a.Device}] = true
	}
	var slots []schedule.Slot
	for name, n := range view.Nodes {
		if view.NowMs-n.SeenMs > view.NodeLostMs || view.Vacate[name] {
			continue
		}
		for _, m := range n.Mains {
			if !m.Enabled || taken[place{name, m.Device}] {
				continue
			}
			slot := schedule.Slot{
				Node: name, Device: m.Device, Main: m.Job, Options: m.Options, FreeBytes: freeBytes(m, n.Devices), Launches: m.Launches,
			}
			describe(&slot, m.Cycle)
			slots = append(slots, slot)
		}
	}
	return slots
}

// freeBytes is the most that a fill job can have in any bubble; where the main
// job does not say, all that the device has.
func freeBytes(m api.MainDevice, devices []api.NodeDevice) int64 {
	free := m.Cycle.AlwaysFreeBytes
	for _, b := range m.Cycle.Bubbles {
		free = max(free, b.FreeBytes)
	}
	if i := slices.IndexFunc(devices, func(d api.NodeDevice) bool { return d.Device == m.Device }); free == 0 && i >= 0 {
		free = devices[i].TotalBytes
	}
	return free
}

// Kick asks for a round now.
func (c *Controller) Kick() {
	select {
	case c.kick <- struct{}{}:
	default: // one is asked for already
	}
}

// Status answers a ping.
func (c *Controller) Status() api.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	faults := []string{}
	for _, f := range c.faults {
		faults = append(faults, f)
	}
	nowMs := c.now().UnixMilli()
	for name, n := range c.nodes {
		if nowMs-n.seenMs > c.cfg.NodeLostS*1000 {
			faults = append(faults, "node "+name+": does not report")
		}
		if n.said.Version != "" && n.said.Version != pipefill.Version() {
			faults = append(faults, fmt.Sprintf("node %s: runs pipefilld %s, this is pipefillctld %s: install the same release", name, n.said.Version, pipefill.Version()))
		}
		for _, f := range n.said.Faults {
			faults = append(faults, "node "+name+": "+f)
		}
	}
	slices.Sort(faults)
	return api.Status{Version: pipefill.Version(), Cluster: c.cfg.Cluster, NowMs: nowMs, Faults: faults}
}
