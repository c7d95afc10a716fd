package controller

import (
	"context"
	"maps"
	"slices"

	"pipefill"
)

// readMost bounds the jobs that are read one by one in a poll, and readAtOnce
// those at a time; with more, a listing is cheaper.
const (
	readMost   = 64
	readAtOnce = 4
)

// readJobs asks for the jobs that are to be read one by one.
func (c *Controller) readJobs(ctx context.Context) {
	m := c.mirror
	m.mu.Lock()
	var ids []int64
	for id := range m.read {
		if len(ids) == readMost {
			break
		}
		ids = append(ids, id)
		delete(m.read, id)
	}
	m.mu.Unlock()
	slices.Sort(ids)
	c.each(len(ids), readAtOnce, func(i int) { c.readJob(ctx, ids[i]) })
}

// readJob reads a job, or all tasks of an array, as of now.
func (c *Controller) readJob(ctx context.Context, id int64) {
	m := c.mirror
	ask := m.asks.Add(1) // newer than any listing under way
	listing, err := c.slurm.Read(ctx, id)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case pipefill.ErrorCode(err) == pipefill.CodeNotFound:
		delete(m.arrays, id)
		if m.touched[id] <= ask {
			delete(m.jobs, id)
			m.touched[id] = ask
			c.dirty.add(id)
		}
		return
	case err != nil:
		c.log.DebugContext(ctx, "job not read, it is asked for again", "job_id", id, "err", err)
		m.read[id] = true
		return
	}
	delete(m.arrays, id)
	for _, a := range listing.Arrays {
		if a.InPartition(c.cfg.Partitions) {
			m.arrays[a.ID] = a
		}
	}
	for i := range listing.Jobs {
		j := &listing.Jobs[i]
		if j.InPartition(c.cfg.Partitions) || c.store.Open(c.cfg.Cluster, j.ID) != nil {
			c.takeJob(j, ask)
			m.touched[j.ID] = max(m.touched[j.ID], ask)
		}
	}
}

// splitAhead is how many tasks of an array wait with records of their own at
// least: each is a job that can be assigned.
const splitAhead = 4

// splitArrays gives the next tasks of arrays records of their own, as many as
// there are slots for and as the array's own limit lets run.
func (c *Controller) splitArrays(ctx context.Context) {
	m := c.mirror
	m.mu.Lock()
	waiting, running := map[int64]int{}, map[int64]int{}
	if len(m.arrays) > 0 {
		for _, w := range m.jobs {
			switch {
			case w.ArrayID != 0 && w.Pending():
				waiting[w.ArrayID]++
			case w.ArrayID != 0 && w.Running():
				running[w.ArrayID]++
			}
		}
	}
	arrays := slices.Collect(maps.Values(m.arrays))
	ahead := min(max(splitAhead, c.freeSlots), readMost)
	m.mu.Unlock()
	for _, a := range arrays {
		count := ahead - waiting[a.ArrayID]
		if a.ArrayMax > 0 {
			count = min(count, int(a.ArrayMax)-waiting[a.ArrayID]-running[a.ArrayID])
		}
		if a.Held && count <= 0 {
			continue
		}
		if err := c.slurm.Split(ctx, a, max(count, 0)); err != nil {
			c.log.WarnContext(ctx, "cannot split tasks off an array", "job_id", a.ID, "err", err)
			continue
		}
		c.readJob(ctx, a.ArrayID)
	}
}
