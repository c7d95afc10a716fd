package executor

import (
	"time"

	"pipefill"
	"pipefill/api"
)

// A bubble cycle is most of a sync, and a quantile of the last iterations that
// moves a little with each. The controller gets it again where it has changed
// by more than a plan would notice, and now and then.
const (
	cycleEvery  = 5 * time.Minute
	cycleChange = 0.02
)

// toldCycle is the cycle that the controller has of a device.
type toldCycle struct {
	cycle pipefill.BubbleCycle
	at    time.Time
}

// has tells whether the controller needs not be sent a cycle.
func (t *toldCycle) has(c *pipefill.BubbleCycle, now time.Time) bool {
	old := &t.cycle
	if t.at.IsZero() || now.Sub(t.at) >= cycleEvery || now.Before(t.at) || len(old.Bubbles) != len(c.Bubbles) ||
		!near(old.IterationNs, c.IterationNs) || !near(old.AlwaysFreeBytes, c.AlwaysFreeBytes) {
		return false
	}
	for i := range c.Bubbles {
		a, b := &old.Bubbles[i], &c.Bubbles[i]
		if a.Index != b.Index || a.Kind != b.Kind || !near(a.DurationNs, b.DurationNs) || !near(a.FreeBytes, b.FreeBytes) ||
			!near(c.IterationNs+a.StartNs, c.IterationNs+b.StartNs) {
			return false
		}
	}
	return true
}

func near(a, b int64) bool {
	return max(a, b)-min(a, b) <= int64(cycleChange*float64(max(min(a, b), 0)))
}

// leaveOut takes the cycles out of a sync that the controller has.
func (n *node) leaveOut(s *api.NodeSync) {
	now := n.now()
	n.eachDevice(s, func(d *mainDevice, m *api.MainDevice) {
		if n.takesKept && d.told.has(&m.Cycle, now) {
			m.Cycle, m.CycleKept = pipefill.BubbleCycle{}, true
		}
	})
}

// wasTold notes what a sync that was answered has told, or that the controller
// lacks what it was not sent.
func (n *node) wasTold(s *api.NodeSync, answer *api.NodeOrders) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.takesKept = answer.TakesKept
	now := n.now()
	n.eachDevice(s, func(d *mainDevice, m *api.MainDevice) {
		switch {
		case answer.Whole:
			d.told = toldCycle{}
		case !m.CycleKept:
			d.told = toldCycle{m.Cycle, now}
		}
	})
}

// eachDevice finds the devices that a sync is about.
func (n *node) eachDevice(s *api.NodeSync, do func(*mainDevice, *api.MainDevice)) {
	for i := range s.Mains {
		m := &s.Mains[i]
		job := n.mains[m.Job.JobID]
		if job == nil || job.rec.Job != m.Job {
			continue
		}
		for _, d := range job.devices {
			if d.device.ID == m.Device {
				do(d, m)
			}
		}
	}
}
