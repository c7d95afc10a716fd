package controller

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
	"pipefill/controller/schedule"
	"pipefill/controller/slurm"
)

// candidate decides whether a job waits for a slot, and tells the scheduler.
// The mirror's mutex is held.
func (c *Controller) candidate(ctx context.Context, number, nowMs int64) {
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
		if why := c.whyNot(number, &word.Job, nowMs); why.text != "" {
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
	if word != nil {
		c.withProfile(ctx, &job, word.Options)
	}
	c.scheduler.Put(job)
	c.waits[number] = row.ID
}

// postponed is why a job does not wait for a slot yet.
type postponed struct {
	text string
	ms   int64 // it is looked at again then; 0: when Slurm says something else of it
}

func (c *Controller) whyNot(number int64, j *slurm.Job, nowMs int64) postponed {
	if text, ms := blocked(j, nowMs); text != "" {
		return postponed{text, ms}
	}
	if b, ok := c.dispatcher.again[number]; ok && nowMs < b.until.UnixMilli() {
		return postponed{b.why + "; tried again at " + b.until.Format("15:04:05"), b.until.UnixMilli()}
	}
	if closed := c.mirror.closed[j.Partition]; closed != "" {
		return postponed{closed, nowMs + 1000}
	}
	if drain := c.knownDrains().of(j.Account); drain != nil {
		return postponed{drainText(*drain), nowMs + 1000}
	}
	return postponed{}
}

// place gives free slots to waiting jobs.
func (c *Controller) place(ctx context.Context) error {
	if err := c.expect(ctx); err != nil {
		return err
	}
	if err := c.share(ctx); err != nil {
		return err
	}
	gangs := gangsOf(c.pairs(ctx))
	if len(gangs) > 0 {
		defer c.lookAtPlans()
	}
	failed := make([]error, len(gangs))
	c.each(len(gangs), storeAtOnce, func(i int) {
		// What happened since the job was looked at is seen when it is released:
		// that reads it again.
		pair, others := gangs[i][0], []pipefill.DeviceID{}
		for _, p := range gangs[i][1:] {
			others = append(others, p.Slot.Device)
		}
		pair.Job.OnSlotMs, pair.Job.Source = pair.ExpectMs, pair.Source
		id, err := c.store.Reserve(ctx, pair.Job, pair.Slot.Node, pair.Slot.Device, pair.Slot.Main, c.now().UnixMilli(), others...)
		if failed[i] = err; err != nil {
			return
		}
		c.once.Do(func() { close(c.placed) })
		c.log.InfoContext(ctx, "slot reserved", "fill_job_id", pair.Job.JobID, "assignment", id, "node", pair.Slot.Node,
			"device", pipefill.DevicesOf(append([]pipefill.DeviceID{pair.Slot.Device}, others...)))
	})
	return errors.Join(failed...)
}

// gangsOf puts the pairs of each job together, in the order of their devices, as
// its program is to have them. Most jobs have one.
func gangsOf(pairs []schedule.Pair) [][]schedule.Pair {
	var gangs [][]schedule.Pair
	at := make(map[int64]int, len(pairs))
	for _, p := range pairs {
		i, known := at[p.Job.ID]
		if !known {
			i = len(gangs)
			at[p.Job.ID] = i
			gangs = append(gangs, nil)
		}
		gangs[i] = append(gangs[i], p)
	}
	for _, g := range gangs {
		slices.SortFunc(g, func(a, b schedule.Pair) int { return cmp.Compare(a.Slot.Order, b.Slot.Order) })
	}
	return gangs
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

// berth is a node's share of what the scheduler knows: its free slots, and those
// that fill jobs have.
type berth struct {
	free []schedule.Slot
	busy map[pipefill.DeviceID]int64 // assignment
}

// moor brings nodes up to date of which something has changed. The mirror's
// mutex is held.
func (c *Controller) moor(names map[string]struct{}, nowMs int64) {
	for name := range names {
		slots := c.slotsOn(name)
		b := &berth{busy: map[pipefill.DeviceID]int64{}}
		live := c.store.LiveOn(name)
		for _, a := range live {
			for _, busy := range busySlots(a, slots, nowMs) {
				b.busy[busy.Slot.Device] = a.ID
				c.scheduler.Occupy(busy)
			}
		}
		if old := c.berths[name]; old != nil {
			for device := range old.busy {
				if b.busy[device] == 0 {
					c.scheduler.Vacate(name, device)
				}
			}
		}
		for _, s := range slots {
			if b.busy[s.Device] == 0 {
				b.free = append(b.free, s)
			}
		}
		c.berths[name] = b
	}
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
	c.moor(c.moved.take(), now.UnixMilli())
	free := c.free(now.UnixMilli())
	c.freeSlots = len(free)
	if len(free) == 0 || len(c.waits) == 0 {
		return nil
	}
	c.mu.Lock()
	policy := c.policy
	c.mu.Unlock()
	c.scheduler.SetPolicy(policy)
	pairs := c.scheduler.Assign(now.UnixMilli(), free)
	c.faultText("policy", c.scheduler.Fault())
	for _, p := range pairs {
		// The scheduler has forgotten the job and counts the slot as busy: both are
		// looked at again.
		c.dirty.add(p.Job.JobID)
		c.moved.add(p.Slot.Node)
		c.berths[p.Slot.Node].busy[p.Slot.Device] = -1
	}
	return c.verified(ctx, c.throttled(pairs))
}

// free lists the slots that a job may have now.
func (c *Controller) free(nowMs int64) []schedule.Slot {
	vacate := c.vacate()
	var slots []schedule.Slot
	for name, b := range c.berths {
		if len(b.free) > 0 && c.open(name, nowMs, vacate) {
			slots = append(slots, b.free...)
		}
	}
	return slots
}

// open tells whether a node may be sent fill jobs: one that reports, that no
// main job waits for, and that Slurm sends jobs to.
func (c *Controller) open(name string, nowMs int64, vacate map[string]bool) bool {
	c.mu.Lock()
	n := c.nodes[name]
	here := n != nil && nowMs-n.seenMs <= c.cfg.NodeLostS*1000 && c.drained.find("node", name) == nil
	c.mu.Unlock()
	return here && !vacate[name] && c.shut(name) == ""
}

// throttled leaves out tasks beyond what their arrays let run at once (--array
// with %N), which Slurm would not start.
func (c *Controller) throttled(pairs []schedule.Pair) []schedule.Pair {
	if !slices.ContainsFunc(pairs, func(p schedule.Pair) bool { w := c.mirror.jobs[p.Job.JobID]; return w != nil && w.ArrayMax > 0 }) {
		return pairs
	}
	running := map[int64]int64{}
	for _, a := range c.store.LiveAll() {
		if w := c.mirror.jobs[a.Job.JobID]; w != nil && w.ArrayMax > 0 {
			running[w.ArrayID]++
		}
	}
	over := map[int64]bool{} // by job: a gang has several pairs
	return slices.DeleteFunc(pairs, func(p schedule.Pair) bool {
		w := c.mirror.jobs[p.Job.JobID]
		if w == nil || w.ArrayMax <= 0 {
			return false
		}
		if _, counted := over[p.Job.JobID]; !counted {
			running[w.ArrayID]++
			over[p.Job.JobID] = running[w.ArrayID] > w.ArrayMax
		}
		return over[p.Job.JobID]
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
		return w == nil || !w.Pending() || w.Restarts != p.Job.Restarts || w.UID != p.Job.UID || c.whyNot(p.Job.JobID, &w.Job, nowMs).text != ""
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

// offer notes all slots that there are, free or not, for those who ask why a
// job waits. The mirror's mutex is held.
func (c *Controller) offer(nowMs int64) {
	vacate := c.vacate()
	var slots []schedule.Slot
	for name := range c.berths {
		if !c.open(name, nowMs, vacate) {
			continue
		}
		slots = append(slots, c.slotsOn(name)...)
	}
	c.mu.Lock()
	c.slots = slots
	c.mu.Unlock()
}

// slotsOf are the devices of a node's main jobs that may be filled. Of those that
// were left out of the sync kept has the slots of before.
func slotsOf(s *api.NodeSync, kept map[pipefill.DeviceID]schedule.Slot) []schedule.Slot {
	slots := make([]schedule.Slot, 0, len(s.Mains))
	news := false
	var cycles []pipefill.BubbleCycle
	for i := range s.Mains {
		m := &s.Mains[i]
		if !m.Enabled {
			continue
		}
		slot := schedule.Slot{
			Node: s.Node, Device: m.Device, Main: m.Job, Options: m.Options, FreeBytes: freeBytes(m, s.Devices), Launches: m.Launches,
			Alone: !s.TakesGangs, Order: i,
		}
		if old, ok := kept[m.Device]; ok {
			slot.Peers = old.Peers
			slot.Share, slot.IterationS, slot.LongestS, slot.Bubbles, slot.Cycle = old.Share, old.IterationS, old.LongestS, old.Bubbles, old.Cycle
		} else {
			describe(&slot, m.Cycle)
			news = true
		}
		slots, cycles = append(slots, slot), append(cycles, m.Cycle)
	}
	if (news || len(slots) != len(kept)) && len(slots) > 1 && s.TakesGangs {
		peers(slots, cycles)
	}
	return slots
}

// leastCommon is how much of the lesser one's bubbles two devices share that a gang
// may have together. Tensor-parallel peers share nearly all, stages of a pipeline
// little: a gang there would hold both and run seldom.
const leastCommon = 0.5

// peers numbers the slots of a node by whose bubbles coincide with those of the
// first of their number.
func peers(slots []schedule.Slot, cycles []pipefill.BubbleCycle) {
	for i := range slots {
		slots[i].Peers = i
		for k := range i {
			if slots[k].Peers == k && slots[k].Main == slots[i].Main && coincide(cycles[k], cycles[i]) {
				slots[i].Peers = k
				break
			}
		}
	}
}

func coincide(a, b pipefill.BubbleCycle) bool {
	least := min(open(a), open(b))
	if least == 0 {
		return open(a) == open(b) // nothing is learned of either
	}
	common, _, err := plan.Coincide([]pipefill.BubbleCycle{a, b})
	return err == nil && float64(open(common)) >= leastCommon*float64(least)
}

// open is the time of an iteration in which a gate is open, in ns.
func open(c pipefill.BubbleCycle) int64 {
	sum := int64(0)
	for _, b := range c.Bubbles {
		sum += b.DurationNs
	}
	return sum
}

// freeBytes is the most that a fill job can have in any bubble; where the main
// job does not say, all that the device has.
func freeBytes(m *api.MainDevice, devices []api.NodeDevice) int64 {
	free := m.Cycle.AlwaysFreeBytes
	for _, b := range m.Cycle.Bubbles {
		free = max(free, b.FreeBytes)
	}
	if i := slices.IndexFunc(devices, func(d api.NodeDevice) bool { return d.Device == m.Device }); free == 0 && i >= 0 {
		free = devices[i].TotalBytes
	}
	return free
}
