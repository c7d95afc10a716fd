package executor

import (
	"pipefill"
	"pipefill/api"
	"pipefill/metrics"
)

// deviceTotals are what devices of main jobs that have ended counted: a
// counter must not fall when a job leaves.
type deviceTotals struct {
	api.MainTotals
	used
}

func (t *deviceTotals) add(d *mainDevice, nowNs int64) {
	t.Iterations += d.drain.totals.Iterations
	t.ControlIterations += d.drain.totals.ControlIterations
	t.BubbleNs += d.drain.totals.BubbleNs
	t.OfferedNs += d.drain.totals.OfferedNs
	t.CommNs += d.drain.totals.CommNs
	t.OtherNs += d.drain.totals.OtherNs
	u := d.usedHere
	if d.fill != nil && d.fill.super != nil {
		u = u.plus(d.fill.super.at.used(nowNs))
	}
	t.used = t.plus(u)
}

func (u used) plus(more used) used {
	return used{
		DeviceNs: u.DeviceNs + more.DeviceNs, CPUNs: u.CPUNs + more.CPUNs, OverrunNs: u.OverrunNs + more.OverrunNs, Openings: u.Openings + more.Openings,
	}
}

func (u used) minus(less used) used {
	return u.plus(used{-less.DeviceNs, -less.CPUNs, -less.OverrunNs, -less.Openings})
}

// families are the node's metrics.
func (n *node) families() []metrics.Family {
	device := []string{"device"}
	count := func(name, help string, value func(t *deviceTotals) float64) metrics.Family {
		return metrics.Counter(name, help, device, func(emit func(float64, ...string)) {
			for id, t := range n.deviceTotals() {
				emit(value(t), string(id))
			}
		})
	}
	seconds := func(ns int64) float64 { return float64(ns) / 1e9 }
	return append([]metrics.Family{
		count("iterations_total", "iterations of main jobs", func(t *deviceTotals) float64 { return float64(t.Iterations) }),
		count("control_iterations_total", "iterations in which nothing was offered, for comparison", func(t *deviceTotals) float64 { return float64(t.ControlIterations) }),
		count("bubble_seconds_total", "bubbles announced, control iterations left out", func(t *deviceTotals) float64 { return seconds(t.BubbleNs) }),
		count("offered_seconds_total", "gate open", func(t *deviceTotals) float64 { return seconds(t.OfferedNs) }),
		count("comm_seconds_total", "never offered: waits for the transport and for collectives", func(t *deviceTotals) float64 { return seconds(t.CommNs) }),
		count("other_seconds_total", "never offered: evaluation, checkpoints", func(t *deviceTotals) float64 { return seconds(t.OtherNs) }),
		count("device_seconds_total", "charged to fill jobs: gate open, or not yet stopped", func(t *deviceTotals) float64 { return seconds(t.DeviceNs) }),
		count("overrun_seconds_total", "of device_seconds, after the gate was shut", func(t *deviceTotals) float64 { return seconds(t.OverrunNs) }),
		count("openings_total", "bubbles in which a fill job was let run", func(t *deviceTotals) float64 { return float64(t.Openings) }),
	}, append(n.governorFamilies(), n.stateFamilies()...)...)
}

// deviceTotals sums up all main jobs that the daemon has seen.
func (n *node) deviceTotals() map[pipefill.DeviceID]*deviceTotals {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[pipefill.DeviceID]*deviceTotals{}
	for _, d := range n.devices {
		t := deviceTotals{}
		if past := n.past[d.ID]; past != nil {
			t = *past
		}
		all[d.ID] = &t
	}
	for _, m := range n.mains {
		for _, d := range m.devices {
			all[d.device.ID].add(d, n.mono())
		}
	}
	return all
}

// governorFamilies are how each running main job is treated.
func (n *node) governorFamilies() []metrics.Family {
	gauge := func(name, help string, value func(m *mainJob, d *mainDevice) float64) metrics.Family {
		return metrics.Gauge(name, help, []string{"device"}, func(emit func(float64, ...string)) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, m := range n.mains {
				for _, d := range m.devices {
					emit(value(m, d), string(d.device.ID))
				}
			}
		})
	}
	return []metrics.Family{
		gauge("slowdown_low_ratio", "lower end of the interval of the main job's slow-down, 0.01 is 1 %", func(_ *mainJob, d *mainDevice) float64 {
			low, _ := d.governor.interval()
			return low
		}),
		gauge("slowdown_high_ratio", "upper end of the same interval", func(_ *mainJob, d *mainDevice) float64 {
			_, high := d.governor.interval()
			return high
		}),
		gauge("budget_ratio", "the slow-down that is accepted", func(m *mainJob, _ *mainDevice) float64 { return m.options.budget }),
		gauge("share_ratio", "how much of a bubble is offered", func(_ *mainJob, d *mainDevice) float64 { return d.governor.share }),
		gauge("guard_seconds", "time kept free before a bubble's expected end", func(_ *mainJob, d *mainDevice) float64 { return d.governor.guard.Seconds() }),
		gauge("iteration_seconds", "median of the last iterations", func(_ *mainJob, d *mainDevice) float64 { return float64(d.drain.lengths.quantile(2)) / 1e9 }),
		gauge("filling_enabled", "1: bubbles are offered; 0: turned off, by the trainer or the governor", func(m *mainJob, d *mainDevice) float64 {
			if m.options.off || d.governor.disabled != "" {
				return 0
			}
			return 1
		}),
		gauge("fill_job_attached", "1: a fill job has the device", func(_ *mainJob, d *mainDevice) float64 {
			if d.fill == nil {
				return 0
			}
			return 1
		}),
	}
}

// stateFamilies are the daemon's own.
func (n *node) stateFamilies() []metrics.Family {
	gauge := func(name, help string, value func() float64) metrics.Family {
		return metrics.Gauge(name, help, nil, func(emit func(float64, ...string)) {
			n.mu.Lock()
			defer n.mu.Unlock()
			emit(value())
		})
	}
	return []metrics.Family{
		gauge("main_jobs", "main jobs attached", func() float64 { return float64(len(n.mains)) }),
		gauge("faults", "things that a person should look at: pipefill-cli doctor names them", func() float64 { return float64(len(n.faults)) }),
		gauge("controller_reached", "1: the last sync with pipefillctld worked", func() float64 {
			if n.faults["controller"] != "" || n.syncs == 0 {
				return 0
			}
			return 1
		}),
		gauge("ledger_unsent_records", "usage that pipefillctld has not counted yet", func() float64 { return float64(len(n.ledger.pending)) }),
	}
}
