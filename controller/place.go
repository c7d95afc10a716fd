package controller

import (
	"context"
	"maps"
	"slices"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// candidate decides whether a job waits for a slot, and tells the scheduler.
// The mirror's mutex is held.
func (c *Controller) candidate(number int64, nowMs int64) {
	row := c.store.Open(c.cfg.Cluster, number)
	word := c.mirror.jobs[number]
	delete(c.later, number)
	waits := row != nil && c.store.LiveOf(row.ID) == nil && !c.dispatcher.flying[number]
	switch {
	case !waits:
	case word == nil:
		// Before the first listing a job is taken for what it was; it is read
		// before it is reserved.
		waits = !c.mirror.complete
	case !word.Pending() || word.Restarts != row.Restarts || word.UID != row.UID:
		waits = false
	default:
		why := blocked(&word.Job, nowMs)
		if b, ok := c.dispatcher.again[number]; why == "" && ok && nowMs < b.until.UnixMilli() {
			why = b.why + "; tried again at " + b.until.Format("15:04:05")
		}
		if closed := c.mirror.closed[word.Partition]; why == "" {
			why = closed
		}
		if drain := c.knownDrains().of(row.Account); drain != nil {
			why = drainText(*drain)
		}
		if why != "" {
			c.later[number] = why
			waits = false
		}
	}
	if old, in := c.waits[number]; in && (!waits || old != row.ID) {
		c.scheduler.Remove(old)
		delete(c.waits, number)
	}
	if !waits {
		return
	}
	job := *row
	job.ExpectMs = c.expectations[[2]string{row.User, row.Name}]
	c.scheduler.Put(job)
	c.waits[number] = row.ID
}

// place gives free slots to waiting jobs.
func (c *Controller) place(ctx context.Context) error {
	if err := c.expect(ctx); err != nil {
		return err
	}
	if err := c.share(ctx); err != nil {
		return err
	}
	for _, pair := range c.pairs(ctx) {
		// What happened since the job was looked at is seen when it is released:
		// that reads it again.
		pair.Job.OnSlotMs, pair.Job.Source = pair.ExpectMs, pair.Source
		id, err := c.store.Reserve(ctx, pair.Job, pair.Slot.Node, pair.Slot.Device, pair.Slot.Main, c.now().UnixMilli())
		if err != nil {
			c.dirty.add(pair.Job.JobID)
			return err
		}
		c.log.InfoContext(ctx, "slot reserved", "fill_job_id", pair.Job.JobID, "assignment", id, "node", pair.Slot.Node, "device", pair.Slot.Device)
	}
	return nil
}

// expect sums up the history of completed jobs now and then.
func (c *Controller) expect(ctx context.Context) error {
	now := c.now()
	if now.Sub(c.expectedAt) <= expectationsEvery {
		return nil
	}
	expectations, err := c.store.Expectations(ctx)
	if err != nil {
		return err
	}
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	for key, ms := range expectations {
		if c.expectations[key] == ms {
			delete(expectations, key)
		}
	}
	changed := expectations
	if c.expectations == nil {
		c.expectations = map[[2]string]int64{}
	}
	maps.Copy(c.expectations, changed)
	c.expectedAt = now
	if len(changed) == 0 {
		return nil
	}
	for number := range c.waits {
		if row := c.store.Open(c.cfg.Cluster, number); row != nil && changed[[2]string{row.User, row.Name}] != 0 {
			c.dirty.add(number)
		}
	}
	return nil
}

// pairs schedules.
func (c *Controller) pairs(ctx context.Context) []schedule.Pair {
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	now := c.now()
	for key, until := range c.dispatcher.avoid {
		if now.After(until) {
			delete(c.dispatcher.avoid, key)
		}
	}
	all := c.offered(now.UnixMilli())
	c.mu.Lock()
	c.slots = all
	policy := c.policy
	c.mu.Unlock()
	c.scheduler.SetPolicy(policy)
	live := c.store.LiveAll()
	free := slices.DeleteFunc(slices.Clone(all), c.taken(live))
	c.freeSlots = len(free)
	if len(free) == 0 || len(c.waits) == 0 {
		return nil
	}
	c.scheduler.SetBusy(busySlots(live, all, now.UnixMilli()))
	pairs := c.scheduler.Assign(now.UnixMilli(), free)
	c.faultText("policy", c.scheduler.Fault())
	kept := c.verified(ctx, c.throttled(slices.Clone(pairs), live))
	for _, p := range pairs {
		c.dirty.add(p.Job.JobID) // the scheduler has forgotten it
	}
	return kept
}

// taken tells whether a slot has a live assignment.
func (c *Controller) taken(live []*store.Assignment) func(schedule.Slot) bool {
	type place struct {
		node   string
		device pipefill.DeviceID
	}
	taken := make(map[place]bool, len(live))
	for _, a := range live {
		taken[place{a.Node, a.Device}] = true
	}
	return func(s schedule.Slot) bool { return taken[place{s.Node, s.Device}] }
}

// throttled leaves out tasks beyond what their arrays let run at once (--array
// with %N), which Slurm would not start.
func (c *Controller) throttled(pairs []schedule.Pair, live []*store.Assignment) []schedule.Pair {
	running := map[int64]int64{}
	for _, a := range live {
		if w := c.mirror.jobs[a.Job.JobID]; w != nil && w.ArrayMax > 0 {
			running[w.ArrayID]++
		}
	}
	return slices.DeleteFunc(pairs, func(p schedule.Pair) bool {
		w := c.mirror.jobs[p.Job.JobID]
		if w == nil || w.ArrayMax <= 0 {
			return false
		}
		running[w.ArrayID]++
		return running[w.ArrayID] > w.ArrayMax
	})
}

// verified reads the jobs of which Slurm has not spoken since the start, and
// leaves out those that do not wait.
func (c *Controller) verified(ctx context.Context, pairs []schedule.Pair) []schedule.Pair {
	var unknown []int64
	for _, p := range pairs {
		if c.mirror.jobs[p.Job.JobID] == nil {
			unknown = append(unknown, p.Job.JobID)
		}
	}
	if len(unknown) == 0 {
		return pairs
	}
	c.mirror.mu.Unlock()
	c.each(len(unknown), readAtOnce, func(i int) { c.readJob(ctx, unknown[i]) })
	c.mirror.mu.Lock()
	nowMs := c.now().UnixMilli()
	return slices.DeleteFunc(pairs, func(p schedule.Pair) bool {
		w := c.mirror.jobs[p.Job.JobID]
		return w == nil || !w.Pending() || w.Restarts != p.Job.Restarts || w.UID != p.Job.UID || blocked(&w.Job, nowMs) != ""
	})
}

// shut tells why nothing may be sent to a node, "" if it may: Slurm would not
// start it there.
func (c *Controller) shut(name string) string {
	n, known := c.mirror.nodes[name]
	switch b := c.dispatcher.refused[name]; {
	case known && n.Down:
		return "Slurm has the node as " + n.State
	case known && n.Reserved:
		return "the node is reserved"
	case b.fails >= closeAfter && c.now().Before(b.until):
		return "jobs did not start there: " + b.why
	}
	return ""
}

// vacate lists the nodes whose memory a pending main job waits for.
func (c *Controller) vacate() map[string]bool {
	if len(c.mirror.main) == 0 {
		return nil
	}
	return Vacate(c.mirror.main, slices.Collect(maps.Values(c.mirror.nodes)), c.cfg.Partitions)
}

// offered lists the devices of running main jobs that may be filled, free or
// not. Nodes that do not report, nodes that a main job waits for, and those to
// which Slurm sends nothing have none. The mirror's mutex is held.
func (c *Controller) offered(nowMs int64) []schedule.Slot {
	vacate := c.vacate()
	c.mu.Lock()
	defer c.mu.Unlock()
	var slots []schedule.Slot
	for name, n := range c.nodes {
		if nowMs-n.seenMs <= c.cfg.NodeLostS*1000 && !vacate[name] && c.shut(name) == "" && c.drained.find("node", name) == nil {
			slots = append(slots, n.slots...)
		}
	}
	return slots
}

// slotsOf are the devices of a node's main jobs that may be filled.
func slotsOf(s *api.NodeSync) []schedule.Slot {
	var slots []schedule.Slot
	for _, m := range s.Mains {
		if !m.Enabled {
			continue
		}
		slot := schedule.Slot{
			Node: s.Node, Device: m.Device, Main: m.Job, Options: m.Options, FreeBytes: freeBytes(m, s.Devices), Launches: m.Launches,
		}
		describe(&slot, m.Cycle)
		slots = append(slots, slot)
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
