package controller

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"pipefill"
	"pipefill/controller/reconcile"
	"pipefill/controller/slurm"
)

// How Slurm is told. Its own limits on requests (rl_enable) spare root and
// SlurmUser, who we are: so this is ours to keep.
const (
	// commandsAtOnce and commandsPerS leave slurmctld most of what it can take: a
	// release is a read and two updates, 10-20 ms each.
	commandsAtOnce = 8
	commandsPerS   = 100
	// A job whose step failed is left alone for a while, longer each time.
	retryFirst = time.Second
	retryLast  = 15 * time.Second
	// avoidFor is how long a job is kept off a node that it could not start on,
	// and a node that several in a row could not start on off all.
	avoidFor    = 5 * time.Minute
	closeAfter  = 3
	againFirst  = time.Minute // a job that Slurm does not start, wherever it is sent
	againLast   = 30 * time.Minute
	storeAtOnce = 512 // they share a transaction
)

// dispatcher carries out actions, several jobs' at a time and one job's in their
// order. The mirror's mutex guards it.
type dispatcher struct {
	inline  bool // tests: nothing happens at the same time
	rate    *rate.Limiter
	flying  map[int64]bool    // jobs with a command under way
	retries map[int64]backoff // jobs whose last step failed
	avoid   map[avoided]time.Time
	again   map[int64]backoff  // jobs that Slurm did not start
	refused map[string]backoff // nodes on which jobs did not start, one after the other
	wg      sync.WaitGroup
}

type backoff struct {
	fails int
	until time.Time
	why   string
}

// next is the time to wait after one more failure.
func (b backoff) next(now time.Time, first, last time.Duration, why string) backoff {
	wait := first << min(b.fails, 20)
	return backoff{b.fails + 1, now.Add(min(wait, last)), why}
}

func newDispatcher() *dispatcher {
	return &dispatcher{
		rate: rate.NewLimiter(commandsPerS, commandsAtOnce), flying: map[int64]bool{}, retries: map[int64]backoff{},
		avoid: map[avoided]time.Time{}, again: map[int64]backoff{}, refused: map[string]backoff{},
	}
}

// ofJob are the actions of one job, in order.
type ofJob struct {
	id      int64
	actions []reconcile.Action
}

// asksSlurm tells whether an action is a command to Slurm.
func asksSlurm(a reconcile.Action) bool {
	return a.Kind != reconcile.Advance && a.Kind != reconcile.End && a.Kind != reconcile.EndJob
}

// urgency orders jobs' actions: first what keeps a job from running where it may
// not, last what starts one.
func urgency(g ofJob) int {
	for _, a := range g.actions {
		if a.Kind == reconcile.PinRelease {
			return 1
		}
	}
	return 0
}

// byJob sorts actions by job and leaves out jobs that are not to be acted on
// now: those with a command under way, that wait after a failure, or of which
// Slurm's word is older than our last command.
func (c *Controller) byJob(actions []reconcile.Action) []ofJob {
	d, m, now := c.dispatcher, c.mirror, c.now()
	var groups []ofJob
	at := map[int64]int{}
	for _, a := range actions {
		if b, failed := d.retries[a.JobID]; d.flying[a.JobID] || failed && now.Before(b.until) || m.stale(a.JobID) {
			continue
		}
		i, ok := at[a.JobID]
		if !ok {
			i = len(groups)
			at[a.JobID] = i
			groups = append(groups, ofJob{id: a.JobID})
		}
		groups[i].actions = append(groups[i].actions, a)
	}
	slices.SortStableFunc(groups, func(a, b ofJob) int { return cmp.Compare(urgency(a), urgency(b)) })
	return groups
}

// act carries out what was decided: what is only written, before it returns;
// commands to Slurm meanwhile, as many as may be under way, and the rest is
// decided again when one has ended.
func (c *Controller) act(ctx context.Context, groups []ofJob) {
	var writes []ofJob
	for _, g := range groups {
		if !slices.ContainsFunc(g.actions, asksSlurm) {
			writes = append(writes, g)
			continue
		}
		c.command(ctx, g)
	}
	c.each(len(writes), storeAtOnce, func(i int) { c.carry(ctx, writes[i]) })
}

// command carries out a job's actions beside the loop, unless enough are under
// way.
func (c *Controller) command(ctx context.Context, g ofJob) {
	d := c.dispatcher
	c.mirror.mu.Lock()
	free := d.inline || len(d.flying) < commandsAtOnce
	if free {
		d.flying[g.id] = true
	}
	c.mirror.mu.Unlock()
	if !free {
		return
	}
	run := func() {
		// What has begun is brought to its end, within its time.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*callTimeout)
		defer cancel()
		c.carry(ctx, g)
		c.mirror.mu.Lock()
		delete(d.flying, g.id)
		c.mirror.touch(g.id, c.now(), c.cfg.Poll())
		c.mirror.mu.Unlock()
		c.dirty.add(g.id)
	}
	if d.inline {
		run()
		return
	}
	d.wg.Go(func() {
		run()
		c.Kick()
	})
}

// carry carries out one job's actions; after a failure the rest wait for the
// next time.
func (c *Controller) carry(ctx context.Context, g ofJob) {
	d := c.dispatcher
	for _, a := range g.actions {
		if ctx.Err() != nil {
			return
		}
		if err := c.do(ctx, a); err != nil {
			c.mirror.mu.Lock()
			d.retries[g.id] = d.retries[g.id].next(c.now(), retryFirst, retryLast, err.Error())
			c.mirror.mu.Unlock()
			c.log.WarnContext(ctx, "a step did not work, it is tried again", "action", string(a.Kind), "fill_job_id", a.JobID, "err", err)
			return
		}
	}
	c.mirror.mu.Lock()
	delete(d.retries, g.id)
	c.mirror.mu.Unlock()
}

func (c *Controller) do(ctx context.Context, a reconcile.Action) error {
	if asksSlurm(a) {
		if err := c.dispatcher.rate.Wait(ctx); err != nil {
			return err
		}
		if err := c.mayAct(); err != nil {
			return err
		}
	}
	nowMs := c.now().UnixMilli()
	log := c.log.With("fill_job_id", a.JobID)
	switch a.Kind {
	case reconcile.Advance:
		return c.store.Advance(ctx, a.Assignment, a.State, nowMs)
	case reconcile.End:
		if err := c.store.End(ctx, a.Assignment, a.Outcome, a.Reason, a.ExitCode, a.JobOutcome, nowMs); err != nil {
			return err
		}
		log.InfoContext(ctx, "assignment ended", "assignment", a.Assignment, "outcome", a.Outcome, "reason", a.Reason)
		c.tallies.end(a.Outcome)
		c.learn(a)
		return nil
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
		return c.cancel(ctx, a)
	case reconcile.Extend:
		return c.slurm.SetTimeLimit(ctx, a.JobID, a.Minutes)
	}
	return pipefill.Errorf(pipefill.CodeInternal, "no action is called %q", a.Kind)
}

// cancel ends a job in Slurm. Where its user does not know why, its administrator's
// comment says it.
func (c *Controller) cancel(ctx context.Context, a reconcile.Action) error {
	if a.Reason == "" {
		return c.slurm.Cancel(ctx, a.JobID)
	}
	if err := c.slurm.Annotate(ctx, a.JobID, slurm.FieldAdminComment, notAgain); err != nil {
		c.log.DebugContext(ctx, "comment not written", "fill_job_id", a.JobID, "err", err)
	}
	err := c.slurm.Cancel(ctx, a.JobID)
	if err == nil {
		c.log.WarnContext(ctx, "a job is cancelled in Slurm", "fill_job_id", a.JobID, "reason", a.Reason)
	}
	return err
}

// notAgain is the word in the comment of a job that Slurm would have run again.
const notAgain = "it-had-ended,not-run-again"

// learn notes which job keeps off which node, or off all, for how long.
func (c *Controller) learn(a reconcile.Action) {
	d, now := c.dispatcher, c.now()
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	switch {
	case a.Wait:
		d.again[a.JobID] = d.again[a.JobID].next(now, againFirst, againLast, a.Reason)
	case a.Avoid:
		d.avoid[avoided{a.JobID, a.Node}] = now.Add(avoidFor)
		b := d.refused[a.Node]
		b.fails, b.why = b.fails+1, a.Reason
		if b.fails >= closeAfter {
			b.until = now.Add(avoidFor)
		}
		d.refused[a.Node] = b
	case a.Outcome == pipefill.OutcomeCompleted || a.Outcome == pipefill.OutcomeEvicted:
		delete(d.again, a.JobID)
		delete(d.refused, a.Node)
	}
}

// release pins and releases. Where Slurm says that it can never be, the job
// goes back to the queue and keeps off that node for a while.
func (c *Controller) release(ctx context.Context, a reconcile.Action) error {
	err := c.slurm.PinRelease(ctx, a.JobID, a.Node)
	if pipefill.ErrorCode(err) != pipefill.CodeConflict {
		return err
	}
	if err := c.slurm.Hold(ctx, a.JobID); err != nil {
		return err
	}
	c.learn(reconcile.Action{JobID: a.JobID, Node: a.Node, Avoid: true, Reason: err.Error()})
	return c.store.End(ctx, a.Assignment, pipefill.OutcomeLost, err.Error(), 0, "", c.now().UnixMilli())
}

// each calls f for 0 to n-1, so many at once.
func (c *Controller) each(n, atOnce int, f func(i int)) {
	if c.dispatcher.inline || n <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i := range n {
		free <- struct{}{}
		wg.Go(func() {
			f(i)
			<-free
		})
	}
	wg.Wait()
}

// blocked tells why Slurm would not start a job even where there is room, "" if
// it would, and until when, where that is known: what its user asked for.
func blocked(j *slurm.Job, nowMs int64) (why string, untilMs int64) {
	// Every requeue puts a job off for two minutes, which a release undoes.
	const byRequeue = 150_000
	least := nowMs
	if j.Restarts > 0 {
		least += byRequeue
	}
	switch {
	case j.Dependency != "":
		return "waits for other jobs: " + j.Dependency, 0
	case j.EligibleMs > least:
		return "may not begin before " + time.UnixMilli(j.EligibleMs).Format("2006-01-02T15:04:05"), j.EligibleMs
	}
	return "", 0
}
