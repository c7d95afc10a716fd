package schedule

import (
	"fmt"
	"strings"

	"pipefill"
	"pipefill/controller/store"
)

// Obstacle tells why a job may not have a slot, "" where it may.
func Obstacle(j store.FillJob, s Slot) string {
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

// allows reads the list of allow=user:NAME+account:NAME.
func allows(list, user, account string) bool {
	for who := range strings.SplitSeq(list, "+") {
		if who == "user:"+user || (account != "" && who == "account:"+account) {
			return true
		}
	}
	return false
}
