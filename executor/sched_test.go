package executor

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGroup_SchedulesWhatIsMovedIn(t *testing.T) {
	for _, sched := range []fillSched{schedIdle, schedNormal} {
		t.Run(string(sched), func(t *testing.T) {
			g := realGroup(t, 3)
			c, err := findCgroups("unused")
			if err != nil {
				t.Fatal(err)
			}
			g.sched = sched
			if sched == schedIdle && c.cpu != "" {
				g.cpu = c.cpu + "/" + "executor_sched_test/assignment_3"
				if err := g.create(nil); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.Remove(c.cpu + "/executor_sched_test") })
				t.Cleanup(func() { _ = os.Remove(g.cpu) })
				idle, err := os.ReadFile(g.cpu + "/cpu.idle")
				if err != nil || string(idle) != "1\n" {
					t.Errorf("cpu.idle is %q, %v", idle, err)
				}
			}
			pid := spinner(t)
			if err := g.add(pid); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = g.kill()
				within(t, 5e9, "the processes to die", func() bool { p, _ := g.pids(); return len(p) == 0 })
			})
			attr, err := unix.SchedGetAttr(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			switch sched {
			case schedIdle:
				if attr.Policy != unix.SCHED_IDLE {
					t.Errorf("policy %d, want SCHED_IDLE", attr.Policy)
				}
			case schedNormal:
				own, err := unix.SchedGetAttr(0, 0)
				if err != nil {
					t.Fatal(err)
				}
				// Kernels before 6.12 have no slices of a task's own, and say 0.
				if attr.Policy != unix.SCHED_BATCH || attr.Nice != own.Nice || attr.Runtime != 0 && attr.Runtime != uint64(fillSlice) {
					t.Errorf("policy %d, slice %d ns", attr.Policy, attr.Runtime)
				}
			}
		})
	}
}
