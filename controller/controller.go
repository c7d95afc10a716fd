// Package controller is pipefillctld: it mirrors the fill partitions into the
// store, assigns fill jobs to slots, dispatches and accounts. It takes its
// decisions from the pure packages schedule and reconcile, writes each before it
// acts on it, and reaches Slurm and SQLite only through their doors.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
	"pipefill/controller/reconcile"
	"pipefill/controller/schedule"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// Slurm is what the controller asks of the workload manager.
type Slurm interface {
	List(ctx context.Context, partitions []string, since time.Time) (slurm.Listing, error)
	Down(ctx context.Context) bool
	States(ctx context.Context) (states map[string]string, ok bool, err error)
	Read(ctx context.Context, id int64) (slurm.Listing, error)
	Nodes(ctx context.Context) ([]slurm.Node, error)
	Partitions(ctx context.Context) ([]slurm.Partition, error)
	Split(ctx context.Context, a slurm.Array, count int) error
	Hold(ctx context.Context, id int64) error
	PinRelease(ctx context.Context, id int64, node string) error
	RequeueHold(ctx context.Context, id int64) error
	Cancel(ctx context.Context, id int64) error
	SetTimeLimit(ctx context.Context, id, minutes int64) error
	Annotate(ctx context.Context, id int64, field slurm.Field, ran string) error
}

var _ Slurm = (*slurm.Client)(nil)

const (
	// expectationsEvery is how often the history of completed jobs is summed up.
	expectationsEvery = time.Minute
	callTimeout       = 30 * time.Second
	// roundsApart bounds how often news start a round: those of many nodes are
	// decided on together. After a long one it rests for as long, within bounds.
	roundsApart = 20 * time.Millisecond
	roundsRest  = 250 * time.Millisecond
	// sweepEach puts sweeps further apart the more assignments there are: to look at
	// one takes some 5 µs, and what only time changes waits for 5 s and more.
	sweepEach = 500 * time.Microsecond
	sweepMost = 5 * time.Second
	// totalsEvery is how often main devices' totals are written to disk, and
	// totalsMore for each node: 1,024 nodes have theirs written once a minute. A
	// device that leaves has its last ones written at once.
	totalsEvery = 5 * time.Second
	totalsMore  = 50 * time.Millisecond
)

// Controller holds what is not on disk: what Slurm and the nodes last said, and
// what is to be looked at.
type Controller struct {
	cfg   Config
	store *store.Store
	slurm Slurm
	log   *slog.Logger
	now   func() time.Time
	// mayAct tells whether this is the controller still: nil, or why not.
	mayAct func() error

	kick    chan struct{} // one waiting: look again now
	asked   chan struct{} // one waiting: a job is to be read
	placed  chan struct{} // closed: a slot has been given away since the start
	once    sync.Once     // closes it
	tallies *tallies
	dirty   set[int64]  // jobs to decide about
	moved   set[string] // nodes of which the scheduler is to hear

	profiles profiles      // has a mutex of its own
	planKick chan struct{} // one waiting: plans are to be looked at
	planning sync.Mutex    // held while plans are made

	mu       sync.Mutex
	started  int64 // ms; a node is not lost before it had the time to call
	nodes    map[string]*node
	counted  map[string]*store.Counting // by node: its usage, of its last sync
	faults   map[string]string          // by source: what a person should know
	slots    []schedule.Slot            // all of the last round
	policies schedule.Set
	policy   *schedule.Policy
	drained  drains
	names    map[uint32]string    // of main jobs' owners, as they were first asked for
	left     []store.NodeMains    // main devices that are gone, with their last totals
	plans    map[int64]*plan.Kept // by assignment

	recordings recordings

	// Of the loop: the mirror's mutex guards them. mu may be taken while it is
	// held, not the other way.
	mirror       *mirror
	dispatcher   *dispatcher
	scheduler    *schedule.Scheduler
	waits        map[int64]int64 // number -> row, of the jobs that the scheduler has
	later        map[int64]postponed
	berths       map[string]*berth
	freeSlots    int
	expectations map[[2]string]int64
	expectedAt   time.Time
	sharesAt     time.Time // when usage was last summed up for job.fairshare
	savedAt      time.Time
}

type avoided struct {
	job  int64
	node string
}

// New returns a controller; Run starts it. It is told of the store's changes.
func New(cfg Config, st *store.Store, sl Slurm, log *slog.Logger, now func() time.Time) *Controller {
	c := &Controller{
		cfg: cfg, store: st, slurm: sl, log: log, now: now, tallies: newTallies(), mayAct: func() error { return nil },
		kick: make(chan struct{}, 1), asked: make(chan struct{}, 1), placed: make(chan struct{}), planKick: make(chan struct{}, 1), plans: map[int64]*plan.Kept{}, started: now().UnixMilli(),
		nodes: map[string]*node{}, counted: map[string]*store.Counting{}, faults: map[string]string{}, names: map[uint32]string{},
		mirror: newMirror(), dispatcher: newDispatcher(), waits: map[int64]int64{}, later: map[int64]postponed{}, berths: map[string]*berth{}, recordings: newRecordings(),
	}
	c.scheduler = c.newScheduler()
	st.OnChange = c.changed
	// All that is open is looked at once.
	c.dirty.add(st.OpenNumbers(cfg.Cluster)...)
	for _, a := range st.LiveAll() {
		c.moved.add(a.Node)
	}
	return c
}

// changed is told of each commit.
func (c *Controller) changed(change store.Change) {
	c.dirty.add(change.Jobs...)
	c.moved.add(change.Nodes...)
	c.tell(change.Nodes)
	c.Kick()
}

// Run looks at Slurm and the nodes until ctx ends: at Slurm every poll, or as
// rarely as it takes long, and at once at what a node has to say.
func (c *Controller) Run(ctx context.Context) error {
	go c.keep(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.pollLoop(ctx) })
	wg.Go(func() { c.readLoop(ctx) })
	wg.Go(func() { c.annotateLoop(ctx) })
	wg.Go(func() { c.planLoop(ctx) })
	defer c.dispatcher.wg.Wait()
	defer wg.Wait()
	ticker := time.NewTicker(c.cfg.Poll())
	defer ticker.Stop()
	rest := time.NewTimer(roundsApart)
	defer rest.Stop()
	sweep, swept := true, c.now()
	for {
		begin := c.now()
		c.broken(ctx, c.round(ctx, sweep))
		took := c.now().Sub(begin)
		c.tallies.round(took)
		rest.Reset(min(max(roundsApart, took), roundsRest))
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			live := c.store.LiveCount()
			if sweep = c.now().Sub(swept) >= min(time.Duration(live)*sweepEach, sweepMost); sweep {
				swept = c.now()
			}
		case <-c.kick:
			sweep = false
		}
	}
}

// A listing of a long queue keeps Slurm's daemons and us busy for seconds. After
// a start what the store knows serves the first slots before it: jobs are read one
// by one before they are reserved.
const (
	longQueue    = 5000
	listedWithin = 5 * time.Second // of a start, whatever comes of it
)

// pollLoop asks Slurm, and starts a round after each answer.
func (c *Controller) pollLoop(ctx context.Context) {
	if len(c.store.OpenNumbers(c.cfg.Cluster)) > longQueue {
		first := time.NewTimer(listedWithin)
		defer first.Stop()
		select {
		case <-ctx.Done():
			return
		case <-c.placed:
		case <-first.C:
		}
	}
	ticker := time.NewTicker(c.cfg.Poll())
	defer ticker.Stop()
	for {
		if err := c.poll(ctx); err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "slurm does not answer, fill jobs stay as they are", "err", err)
		}
		c.Kick()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// readLoop reads single jobs, beside a listing that may take long.
func (c *Controller) readLoop(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.Poll())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.readJobs(ctx)
			c.Kick()
		}
	}
}

// Look does all of it once, one thing after the other: for tests, and for what
// has no loop.
func (c *Controller) Look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 4*callTimeout)
	defer cancel()
	if err := c.poll(ctx); err != nil {
		c.log.WarnContext(ctx, "slurm does not answer, fill jobs stay as they are", "err", err)
		return
	}
	c.readJobs(ctx)
	c.broken(ctx, c.round(ctx, true))
	c.planAll(ctx)
}

// round decides and acts on what is known. A sweep looks at every live
// assignment, since time passes for all.
func (c *Controller) round(ctx context.Context, sweep bool) error {
	if err := c.mayAct(); err != nil {
		return err
	}
	if err := c.save(ctx); err != nil {
		return err
	}
	if err := c.saveTotals(ctx); err != nil {
		return err
	}
	if sweep {
		if err := c.readDrains(ctx); err != nil {
			return err
		}
	}
	looked, groups := c.decide(sweep)
	c.act(ctx, groups)
	c.mirror.mu.Lock()
	nowMs := c.now().UnixMilli()
	for id := range c.dirty.take() {
		looked[id] = struct{}{}
	}
	for id := range looked {
		c.candidate(ctx, id, nowMs)
	}
	if sweep {
		for id, why := range c.later {
			if why.ms > 0 && why.ms <= nowMs {
				c.candidate(ctx, id, nowMs)
			}
		}
		c.offer(nowMs)
	}
	for _, g := range groups {
		c.dirty.add(g.id) // until nothing is left to do about it
	}
	c.mirror.mu.Unlock()
	err := c.place(ctx)
	if sweep || len(groups) > 0 {
		c.lookAtPlans()
	}
	return err
}

// decide looks at the jobs of which something has changed, and in a sweep at all
// that are assigned.
func (c *Controller) decide(sweep bool) (looked map[int64]struct{}, groups []ofJob) {
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	looked = c.dirty.take()
	if looked == nil {
		looked = map[int64]struct{}{}
	}
	all := looked
	if sweep {
		all = maps.Clone(looked)
		c.store.EachLive(func(a *store.Assignment, _ *store.FillJob) { all[a.Job.JobID] = struct{}{} })
	}
	actions := reconcile.Decide(c.view(all))
	return looked, c.byJob(actions)
}

// view gathers what decisions about some jobs rest on. Jobs of which Slurm has
// not spoken yet are left out: they are not gone.
func (c *Controller) view(ids map[int64]struct{}) reconcile.View {
	view := reconcile.View{
		NowMs: c.now().UnixMilli(), NodeLostMs: c.cfg.NodeLostS * 1000, MaxMin: c.cfg.MaxTimeMin, Partitions: c.cfg.Partitions,
		Slurm: make(map[int64]slurm.Job, len(ids)), Ran: map[int64]int64{}, Away: c.mirror.away, Nodes: map[string]reconcile.Node{}, Vacate: c.vacate(),
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		word, row := c.mirror.jobs[id], c.store.Open(c.cfg.Cluster, id)
		if word != nil && !c.mirror.unsaved[id] {
			view.Slurm[id] = word.Job
		} else if word != nil || !c.mirror.complete && c.mirror.touched[id] == 0 || c.mirror.read[id] {
			continue
		}
		if row == nil {
			continue
		}
		view.Jobs = append(view.Jobs, *row)
		a := c.store.LiveOf(row.ID)
		if a == nil {
			continue
		}
		view.Live = append(view.Live, *a)
		if word != nil {
			view.Ran[id] = word.ran
		}
		if _, ok := view.Nodes[a.Node]; !ok {
			view.Nodes[a.Node] = c.heardOf(a.Node)
		}
	}
	view.Leave = c.knownDrains().leave(view.Live)
	return view
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
