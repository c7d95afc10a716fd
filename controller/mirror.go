package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"pipefill"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// mirror writes what Slurm says of the fill partitions' jobs that matter:
// those not ended, and those that ended while we know them.
func (c *Controller) mirror(ctx context.Context, jobs []slurm.Job) error {
	open, err := c.store.OpenJobs(ctx)
	if err != nil {
		return err
	}
	known := map[int64]bool{}
	for _, j := range open {
		known[j.JobID] = true
	}
	var seen []store.FillJob
	for _, j := range jobs {
		if !j.Ended() || known[j.ID] {
			seen = append(seen, fillJob(c.cfg.Cluster, j))
		}
	}
	if len(seen) == 0 {
		return nil
	}
	return c.store.SeeJobs(ctx, c.now().UnixMilli(), seen)
}

// fillJob turns Slurm's word into a row.
func fillJob(cluster string, j slurm.Job) store.FillJob {
	limitMs := int64(0)
	if j.TimeLimitMin > 0 && j.TimeLimitMin < slurm.Infinite {
		limitMs = j.TimeLimitMin * 60_000
	}
	return store.FillJob{
		Cluster: cluster, JobID: j.ID, SubmitMs: j.SubmitMs, Restarts: j.Restarts, ArrayTask: j.ArrayTask, Name: j.Name,
		UID: j.UID, User: j.User, Account: j.Account, Partition: j.Partition, MemBytes: optionMem(j.Options), LimitMs: limitMs, GPUs: j.RequestedGPUs,
		Mode:    optionMode(j.Options),
		Requeue: j.Requeue, RequiredNodes: j.RequestedNodes, ExcludedNodes: j.ExcludedNodes, Unfit: Unfit(j),
	}
}

// Unfit tells why a job can never be a fill job, "" where it can. Such jobs
// stay held, with this as the reason in the queue.
func Unfit(j slurm.Job) string {
	switch {
	case j.Het:
		return "it is heterogeneous, and its parts cannot be held together; submit single jobs"
	case !j.Batch:
		return "it is no batch job, and cannot be requeued; use sbatch"
	case j.NodeCount > 1:
		return fmt.Sprintf("it asks for %d nodes; a fill job runs on one device of one node", j.NodeCount)
	case strings.Contains(j.Partition, ","):
		return "it lists several partitions (" + j.Partition + "); name one fill partition"
	}
	return ""
}

// option finds a key of a fill job's options, checked by the plugin at
// submission; "" where it is not given.
func option(options, key string) string {
	for pair := range strings.SplitSeq(options, ",") {
		if value, found := strings.CutPrefix(pair, key+"="); found {
			return value
		}
	}
	return ""
}

// optionMem is mem=: device memory in bytes, 0 where there is none.
func optionMem(options string) int64 {
	bytes, err := pipefill.ParseSize(option(options, "mem"))
	if err != nil {
		return 0
	}
	return bytes
}

// optionMode is mode=.
func optionMode(options string) pipefill.Mode {
	if mode := pipefill.Mode(option(options, "mode")); slices.Contains(pipefill.Modes, mode) {
		return mode
	}
	return ""
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
