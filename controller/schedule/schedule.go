// Package schedule decides which fill job gets which free slot. It is pure: jobs
// and slots in, pairs out.
package schedule

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"pipefill"
	"pipefill/controller/store"
)

// Policy orders the queue.
type Policy string

// The policies: first come first served, and shortest job first.
const (
	FIFO Policy = "fifo"
	SJF  Policy = "sjf"
)

// Policies lists what a configuration may name.
var Policies = []Policy{FIFO, SJF}

// Slot is a free device of a running main job.
type Slot struct {
	Node      string
	Device    pipefill.DeviceID
	Main      pipefill.JobKey
	Options   string // of the main job's --pipefill: its allow= is kept
	FreeBytes int64  // device memory for fill jobs; 0: unknown
	Launches  bool   // mode launch is let in
}

// Pair is a decision.
type Pair struct {
	Job  store.FillJob
	Slot Slot
}

// Expected is the device time that a job is thought to take, in ms, and where
// the figure is from: "history" of the same user and name, or the "limit".
func Expected(j store.FillJob) (ms int64, source string) {
	if j.ExpectMs > 0 {
		return j.ExpectMs, "history"
	}
	return j.LimitMs, "limit"
}

// Order returns the jobs in the order in which they are served: an operator's
// priority first, then those that were evicted, then the policy. A user's own
// priorities only permute the places that the user's jobs have.
func Order(policy Policy, jobs []store.FillJob) []store.FillJob {
	ordered := slices.Clone(jobs)
	slices.SortStableFunc(ordered, func(a, b store.FillJob) int {
		return cmp.Or(cmp.Compare(b.SitePriority, a.SitePriority), front(a, b), byPolicy(policy, a, b), cmp.Compare(a.JobID, b.JobID))
	})
	places := map[string][]int{}
	for i, j := range ordered {
		places[j.User] = append(places[j.User], i)
	}
	for _, own := range places {
		mine := make([]store.FillJob, len(own))
		for i, place := range own {
			mine[i] = ordered[place]
		}
		slices.SortStableFunc(mine, func(a, b store.FillJob) int { return cmp.Compare(b.Priority, a.Priority) })
		for i, place := range own {
			ordered[place] = mine[i]
		}
	}
	return ordered
}

func front(a, b store.FillJob) int {
	switch {
	case a.Front == b.Front:
		return 0
	case a.Front:
		return -1
	}
	return 1
}

func byPolicy(policy Policy, a, b store.FillJob) int {
	if policy == SJF {
		x, _ := Expected(a)
		y, _ := Expected(b)
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(a.FirstMs, b.FirstMs)
}

// Assign pairs free slots with jobs that may run, each once.
func Assign(policy Policy, jobs []store.FillJob, slots []Slot) []Pair {
	free := slices.Clone(slots)
	slices.SortFunc(free, func(a, b Slot) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Device, b.Device))
	})
	var pairs []Pair
	for _, j := range Order(policy, jobs) {
		if len(free) == 0 {
			break
		}
		if j.UserHeld || j.Unfit != "" || j.Outcome != "" {
			continue
		}
		i := slices.IndexFunc(free, func(s Slot) bool { return Obstacle(j, s) == "" })
		if i < 0 {
			continue
		}
		pairs = append(pairs, Pair{j, free[i]})
		free = slices.Delete(free, i, i+1)
	}
	return pairs
}

// Obstacle tells why a job may not have a slot, "" where it may.
func Obstacle(j store.FillJob, s Slot) string {
	switch {
	case !allowed(s.Options, j.User, j.Account):
		return fmt.Sprintf("main job %d allows others only", s.Main.JobID)
	case j.GPUs != "" && s.Device.Kind() != pipefill.KindGPU:
		return fmt.Sprintf("asks for a GPU (%s), %s %s is none", j.GPUs, s.Node, s.Device)
	case j.Mode.Obstacle(s.Device, s.Launches) != "":
		return fmt.Sprintf("%s %s: %s", s.Node, s.Device, j.Mode.Obstacle(s.Device, s.Launches))
	case j.MemBytes > 0 && s.FreeBytes > 0 && j.MemBytes > s.FreeBytes:
		return fmt.Sprintf("asks for %d bytes of device memory, %s %s has %d", j.MemBytes, s.Node, s.Device, s.FreeBytes)
	case j.Attempts > 0 && !j.Requeue:
		return "was started once and may not be restarted"
	}
	return ""
}

// Why tells why a job waits. slots are all that there are, free or not.
func Why(j store.FillJob, slots []Slot) string {
	if len(slots) == 0 {
		return "no running main job offers bubbles"
	}
	obstacle := ""
	for _, s := range slots {
		if obstacle = Obstacle(j, s); obstacle == "" {
			return "waits for a slot that suits it"
		}
	}
	if len(slots) == 1 {
		return obstacle
	}
	return fmt.Sprintf("suits none of %d slots; of the last: %s", len(slots), obstacle)
}

// allowed reads allow=user:NAME+account:NAME among a main job's options; without
// it everybody is.
func allowed(options, user, account string) bool {
	for pair := range strings.SplitSeq(options, ",") {
		list, found := strings.CutPrefix(pair, "allow=")
		if !found {
			continue
		}
		for who := range strings.SplitSeq(list, "+") {
			if who == "user:"+user || (account != "" && who == "account:"+account) {
				return true
			}
		}
		return false
	}
	return true
}
