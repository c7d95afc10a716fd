package schedule

import (
	"cmp"
	"fmt"
	"strings"

	"pipefill"
	"pipefill/controller/hostlist"
	"pipefill/controller/store"
)

// Obstacle tells why a job may not have a slot, "" where it may.
func Obstacle(j store.FillJob, s Slot) string { return obstacle(&j, &s, whereOf(&j)) }

func obstacle(j *store.FillJob, s *Slot, w *where) string {
	allow := allowOf(s.Options)
	switch {
	case allow != "" && !allows(allow, j.User, j.Account):
		return fmt.Sprintf("main job %d allows others only", s.Main.JobID)
	case j.GPUs != "" && s.Device.Kind() != pipefill.KindGPU:
		return fmt.Sprintf("asks for a GPU (%s), %s %s is none", j.GPUs, s.Node, s.Device)
	case j.Mode.Obstacle(s.Device, s.Launches) != "":
		return fmt.Sprintf("%s %s: %s", s.Node, s.Device, j.Mode.Obstacle(s.Device, s.Launches))
	case j.MemBytes > 0 && s.FreeBytes > 0 && j.MemBytes > s.FreeBytes:
		return fmt.Sprintf("asks for %d bytes of device memory, %s %s has %d", j.MemBytes, s.Node, s.Device, s.FreeBytes)
	case j.Devices > 1 && s.Alone:
		return fmt.Sprintf("asks for %d devices at once, and the pipefilld of %s gives a job one: install this release there", j.Devices, s.Node)
	case j.Attempts > 0 && !j.Requeue:
		return "was started once and may not be restarted"
	}
	return w.obstacle(s.Node)
}

// where is the nodes that a job may be on: its user's --nodelist and --exclude.
type where struct {
	required, excluded string
	only, never        map[string]bool
	bad                error
}

// whereOf is nil for a job that may be anywhere.
func whereOf(j *store.FillJob) *where {
	if j.RequiredNodes == "" && j.ExcludedNodes == "" {
		return nil
	}
	w := &where{required: j.RequiredNodes, excluded: j.ExcludedNodes}
	read := func(list string) map[string]bool {
		if list == "" {
			return nil
		}
		names, err := hostlist.Expand(list)
		if err != nil && w.bad == nil {
			w.bad = err
		}
		out := make(map[string]bool, len(names))
		for _, name := range names {
			out[name] = true
		}
		return out
	}
	w.only, w.never = read(w.required), read(w.excluded)
	return w
}

func (w *where) obstacle(node string) string {
	switch {
	case w == nil:
	case w.bad != nil:
		return w.bad.Error()
	case w.only != nil && !w.only[node]:
		return fmt.Sprintf("asks for %s (--nodelist), which %s is not of", w.required, node)
	case w.never[node]:
		return fmt.Sprintf("excludes %s (--exclude %s)", node, w.excluded)
	}
	return ""
}

// suits is obstacle without the words: it is asked for each slot.
func (w *where) suits(node string) bool {
	return w == nil || w.bad == nil && (w.only == nil || w.only[node]) && !w.never[node]
}

// Why tells why a job waits. slots are all that there are, free or not.
func Why(j store.FillJob, slots []Slot) string {
	if len(slots) == 0 {
		return "no running main job offers bubbles"
	}
	last, w := "", whereOf(&j)
	var suits []Slot
	for i := range slots {
		if no := obstacle(&j, &slots[i], w); no != "" {
			last = no
			continue
		}
		if j.Devices <= 1 {
			return "waits for a slot that suits it"
		}
		suits = append(suits, slots[i])
	}
	if len(suits) > 0 {
		return cmp.Or(tooFew(j.Devices, suits), waitsForSeveral)
	}
	if len(slots) == 1 {
		return last
	}
	return fmt.Sprintf("suits none of %d slots; of the last: %s", len(slots), last)
}

const waitsForSeveral = "waits for several slots of one node at once"

// allows reads the list of allow=user:NAME+account:NAME.
func allows(list, user, account string) bool {
	for who := range strings.SplitSeq(list, "+") {
		if who == "user:"+user || (account != "" && who == "account:"+account) {
			return true
		}
	}
	return false
}
