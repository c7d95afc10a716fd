package controller

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pipefill/controller/schedule"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// How Slurm is asked.
const (
	// A listing takes at most a quarter of the time: on 22.05 one of 100,000 jobs
	// keeps slurmrestd busy for more than half a minute.
	listRest = 3
	listRare = 5 * time.Minute
	// Where the release lists states cheaply, whole listings only tell what states
	// do not show: holds, pins and limits changed by other hands.
	listBesideStates = time.Minute
	listStatesRest   = 20
)

// mirror is what Slurm last said, job by job, and what is due to be asked. Its
// mutex also guards what the loop decides from it.
type mirror struct {
	mu     sync.Mutex
	jobs   map[int64]*word
	arrays map[int64]slurm.Array // by the record's number
	main   []slurm.Job           // pending main jobs
	ends   map[int64]int64       // by when running main jobs' limits end them, ms
	states map[string]string
	nodes  map[string]slurm.Node
	closed map[string]string // fill partitions that start nothing, and why

	complete bool // all jobs were listed since the start
	asks     atomic.Int64
	touched  map[int64]int64 // job -> number of the ask after which we changed or read it
	unsaved  map[int64]bool  // seen, and not yet in the store
	read     map[int64]bool  // to be read one by one
	same     int64           // the last ask that nothing had changed since
	away     int64           // the last ask in which there was no slurmctld

	listed   time.Time // when the last listing began
	nextList time.Time
	nextInfo time.Time
}

// word is what Slurm says of a job, and in which ask it said it.
type word struct {
	slurm.Job
	ask int64
	ran int64 // the last ask in which it said that the job runs
}

// saidAt notes that Slurm said it in an ask.
func (w *word) saidAt(ask int64) {
	w.ask = ask
	if w.Running() {
		w.ran = ask
	}
}

func newMirror() *mirror {
	return &mirror{
		jobs: map[int64]*word{}, arrays: map[int64]slurm.Array{}, nodes: map[string]slurm.Node{}, closed: map[string]string{},
		touched: map[int64]int64{}, unsaved: map[int64]bool{}, read: map[int64]bool{},
	}
}

// poll asks Slurm what is due and takes it in. It is the one place that lists.
func (c *Controller) poll(ctx context.Context) error {
	err := c.pollJobs(ctx, c.mirror.asks.Add(1))
	c.fault("slurm", err)
	if err != nil {
		return err
	}
	c.splitArrays(ctx)
	c.pollInfo(ctx)
	return nil
}

// pollJobs looks for changes: by states where the release has them, else by a
// listing that Slurm cuts short where nothing has changed.
func (c *Controller) pollJobs(ctx context.Context, ask int64) error {
	m := c.mirror
	now := c.now()
	m.mu.Lock()
	due, complete := !now.Before(m.nextList), m.complete
	m.mu.Unlock()
	rest, least := int64(listRest), time.Duration(0)
	if complete {
		states, ok, err := c.slurm.States(ctx)
		if err != nil {
			return err
		}
		if ok {
			rest, least = listStatesRest, listBesideStates
			due = c.compareStates(states) || due
		}
	}
	if !due {
		return nil
	}
	return c.list(ctx, ask, rest, least)
}

// compareStates notes whom to read; it tells whether they are so many that a
// listing is cheaper.
func (c *Controller) compareStates(states map[string]string) bool {
	m := c.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := map[int64]bool{}
	note := func(name string) {
		if id, ok := slurm.NumberOf(name); ok {
			changed[id] = true
		}
	}
	for name, state := range states {
		if m.states[name] != state {
			note(name)
		}
	}
	for name := range m.states {
		if _, still := states[name]; !still {
			note(name)
		}
	}
	first := m.states == nil
	m.states = states
	if first {
		return false // a listing has just come
	}
	if len(changed) > readMost {
		return true
	}
	maps.Copy(m.read, changed)
	return false
}

// list lists all jobs, or learns that nothing has changed.
func (c *Controller) list(ctx context.Context, ask, rest int64, least time.Duration) error {
	m := c.mirror
	begin := c.now()
	m.mu.Lock()
	since := m.listed
	if !m.complete {
		since = time.Time{}
	}
	m.mu.Unlock()
	listing, err := c.slurm.List(ctx, c.cfg.Partitions, since)
	if err != nil {
		if c.slurm.Down(ctx) {
			m.mu.Lock()
			m.away = ask
			m.mu.Unlock()
		}
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := c.now()
	m.listed, m.nextList = begin, end.Add(least)
	if listing.Same {
		m.same = ask
		for id, at := range m.touched {
			if w := m.jobs[id]; w != nil && at < ask {
				w.ask = ask // what we did changed nothing
			}
		}
		return nil
	}
	// A listing that took less than the poll is always due again.
	if pause := time.Duration(int64(end.Sub(begin)) * rest); pause > c.cfg.Poll() {
		m.nextList = end.Add(max(min(pause, listRare), least))
	}
	c.takeListing(listing, ask)
	m.complete = true
	return nil
}

// takeListing compares a listing with what was known. What we changed or read
// since it began is newer than it.
func (c *Controller) takeListing(l slurm.Listing, ask int64) {
	m := c.mirror
	for i := range l.Jobs {
		c.takeJob(&l.Jobs[i], ask)
	}
	clear(m.arrays)
	for _, a := range l.Arrays {
		m.arrays[a.ID] = a
	}
	m.main = l.Main
	c.takeEnds(l.Ends)
	var gone []int64
	for id, w := range m.jobs {
		if w.ask < ask && m.touched[id] < ask {
			gone = append(gone, id)
		}
	}
	for _, id := range gone {
		delete(m.jobs, id)
		c.dirty.add(id)
	}
	// An open job that is not in the listing may have been moved out of the
	// partitions: Slurm is asked for it by its number, unless they are many.
	for _, id := range c.store.OpenNumbers(c.cfg.Cluster) {
		if m.jobs[id] == nil && m.touched[id] < ask {
			c.dirty.add(id)
			if len(gone) > 0 && len(gone) <= readMost || !m.complete {
				m.read[id] = true
			}
		}
	}
	for id, at := range m.touched {
		if at < ask {
			delete(m.touched, id)
		}
	}
}

// takeEnds takes in when main jobs will end; the slots of those for which that is
// new are looked at again.
func (c *Controller) takeEnds(ends map[int64]int64) {
	m := c.mirror
	old := m.ends
	m.ends = ends
	if maps.Equal(old, ends) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, n := range c.nodes {
		if slices.ContainsFunc(n.slots, func(s schedule.Slot) bool { return old[s.Main.JobID] != ends[s.Main.JobID] }) {
			c.moved.add(name)
		}
	}
}

// slotsOn are a node's slots, by when Slurm ends their main jobs included.
func (c *Controller) slotsOn(name string) []schedule.Slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[name]
	if n == nil {
		return nil
	}
	slots := slices.Clone(n.slots)
	for i := range slots {
		slots[i].MainEndMs = c.mirror.ends[slots[i].Main.JobID]
	}
	return slots
}

// takeJob takes in what Slurm says of a job.
func (c *Controller) takeJob(j *slurm.Job, ask int64) {
	m := c.mirror
	old := m.jobs[j.ID]
	if m.touched[j.ID] >= ask {
		if old != nil {
			old.ask = ask
		}
		return
	}
	if old == nil && j.Ended() && c.store.Open(c.cfg.Cluster, j.ID) == nil {
		return // ended before we knew it
	}
	if old != nil && old.Job == *j {
		old.saidAt(ask)
		return
	}
	w := &word{Job: *j, ask: ask}
	if old != nil {
		w.ran = old.ran
		if old.Running() {
			w.ran = max(w.ran, m.same)
		}
	}
	w.saidAt(ask)
	m.jobs[j.ID] = w
	m.unsaved[j.ID] = true
	c.dirty.add(j.ID)
}

// touch notes that we have changed a job: what was asked before is of no more
// use, and it is not acted on again before Slurm was asked anew.
func (m *mirror) touch(id int64, now time.Time, poll time.Duration) {
	m.touched[id] = m.asks.Add(1)
	if m.nextList.After(now.Add(poll)) {
		m.read[id] = true
	}
}

// stale tells whether a job was changed after Slurm was last asked about it.
func (m *mirror) stale(id int64) bool {
	at, ok := m.touched[id]
	if !ok {
		return false
	}
	w := m.jobs[id]
	return w != nil && w.ask < at || w == nil && m.read[id]
}

// saveMost bounds how many jobs are written at a time.
const saveMost = 2000

// save writes what was seen of the jobs that matter: those not ended, and those
// that ended while we know them.
func (c *Controller) save(ctx context.Context) error {
	for {
		seen := c.unsaved()
		if len(seen) == 0 {
			return nil
		}
		if err := c.store.SeeJobs(ctx, c.now().UnixMilli(), seen); err != nil {
			return err
		}
		c.mirror.saved(seen)
	}
}

func (c *Controller) unsaved() []store.FillJob {
	m := c.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.unsaved) == 0 {
		return nil
	}
	seen := make([]store.FillJob, 0, min(len(m.unsaved), saveMost))
	for id := range m.unsaved {
		w := m.jobs[id]
		if w == nil || w.Ended() && c.store.Open(c.cfg.Cluster, id) == nil || !w.InPartition(c.cfg.Partitions) {
			delete(m.unsaved, id)
			continue
		}
		job := fillJob(c.cfg.Cluster, w.Job)
		job.DeadlineMs, _ = optionDeadline(w.Options, w.SubmitMs, c.store.Zone) // what cannot be read the queue says
		if seen = append(seen, job); len(seen) == saveMost {
			break
		}
	}
	slices.SortFunc(seen, func(a, b store.FillJob) int { return cmp.Compare(a.JobID, b.JobID) })
	return seen
}

func (m *mirror) saved(seen []store.FillJob) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range seen {
		if w := m.jobs[j.JobID]; w == nil || w.SubmitMs == j.SubmitMs && w.Restarts == j.Restarts {
			delete(m.unsaved, j.JobID)
		}
	}
}
