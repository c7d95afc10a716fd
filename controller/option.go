package controller

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pipefill"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// fillJob turns Slurm's word into a row.
func fillJob(cluster string, j slurm.Job) store.FillJob {
	limitMs := int64(0)
	if j.TimeLimitMin > 0 && j.TimeLimitMin < slurm.Infinite {
		limitMs = j.TimeLimitMin * 60_000
	}
	return store.FillJob{
		Cluster: cluster, JobID: j.ID, SubmitMs: j.SubmitMs, Restarts: j.Restarts, ArrayTask: j.ArrayTask, Name: j.Name,
		UID: j.UID, User: j.User, Account: j.Account, Partition: j.Partition, MemBytes: optionMem(j.Options), LimitMs: limitMs, GPUs: j.RequestedGPUs,
		Mode: optionMode(j.Options), Devices: devicesOf(j),
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
		return fmt.Sprintf("it asks for %d nodes; a fill job runs on devices of one node: submit an array with a task for each", j.NodeCount)
	case optionMode(j.Options).GangObstacle(devicesOf(j)) != "":
		return optionMode(j.Options).GangObstacle(devicesOf(j))
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

// devicesOf is how many devices a job wants at once: devices=, else the most that
// any of its requests for GPUs names; one where it names none. What does not fit
// an int is more than there are.
func devicesOf(j slurm.Job) int {
	const most = 1 << 20
	if n, err := strconv.Atoi(option(j.Options, "devices")); err == nil && n > 0 {
		return min(n, most)
	}
	devices := 1
	for request := range strings.SplitSeq(j.RequestedGPUs, ",") {
		count := request[strings.LastIndexAny(request, ":=")+1:]
		if strings.Trim(count, "0123456789") != "" || count == "" {
			continue // "gres:gpu" or a type alone
		}
		n, err := strconv.Atoi(count)
		if err != nil {
			n = most
		}
		devices = max(devices, min(n, most))
	}
	return devices
}

// optionMode is mode=.
func optionMode(options string) pipefill.Mode {
	if mode := pipefill.Mode(option(options, "mode")); slices.Contains(pipefill.Modes, mode) {
		return mode
	}
	return ""
}
