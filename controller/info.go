package controller

import (
	"context"
	"slices"
	"strings"
	"time"

	"pipefill/controller/slurm"
)

// infoEvery is how often nodes and partitions are asked for.
const infoEvery = 30 * time.Second

// pollInfo asks for nodes and partitions now and then, and for nodes always
// where a main job waits for memory.
func (c *Controller) pollInfo(ctx context.Context) {
	m := c.mirror
	now := c.now()
	m.mu.Lock()
	due := !now.Before(m.nextInfo)
	hungry := slices.ContainsFunc(m.main, func(j slurm.Job) bool { return j.Reason == "Resources" })
	m.mu.Unlock()
	if !due && !hungry {
		return
	}
	nodes, err := c.slurm.Nodes(ctx)
	if err != nil {
		c.log.DebugContext(ctx, "nodes not listed", "err", err)
		return
	}
	var partitions []slurm.Partition
	if due {
		if partitions, err = c.slurm.Partitions(ctx); err != nil {
			c.log.DebugContext(ctx, "partitions not listed", "err", err)
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.nodes)
	for _, n := range nodes {
		m.nodes[n.Name] = n
	}
	if !due {
		return
	}
	m.nextInfo = now.Add(infoEvery)
	clear(m.closed)
	for _, p := range partitions {
		if slices.Contains(c.cfg.Partitions, p.Name) && !p.Up {
			m.closed[p.Name] = "partition " + p.Name + " is " + p.State
		}
	}
}

// Vacate lists the nodes that fill jobs must leave because a pending main job
// waits for memory there: those whose memory, with what fill jobs hold, would do
// for one of its nodes. Only main jobs that wait for resources count.
func Vacate(pending []slurm.Job, nodes []slurm.Node, _ []string) map[string]bool {
	vacate := map[string]bool{}
	for _, j := range pending {
		if j.Reason != "Resources" || j.MemBytes == 0 && j.NodeCount == 0 {
			continue
		}
		perNode := j.MemBytes / max(j.NodeCount, 1)
		for _, n := range nodes {
			if n.Down || !inPartition(n, j.Partition) {
				continue
			}
			if n.FreeBytes < perNode && perNode <= n.MemBytes {
				vacate[n.Name] = true
			}
		}
	}
	return vacate
}

func inPartition(n slurm.Node, partitions string) bool {
	if len(n.Partitions) == 0 {
		return true
	}
	for p := range strings.SplitSeq(partitions, ",") {
		if slices.Contains(n.Partitions, p) {
			return true
		}
	}
	return false
}
