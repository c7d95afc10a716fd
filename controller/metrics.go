package controller

import (
	"sync"
	"time"

	"pipefill"
	"pipefill/metrics"
)

// tallies are what the controller counts for Prometheus since its start.
type tallies struct {
	mu      sync.Mutex
	ended   map[pipefill.Outcome]int64
	rounds  int64
	roundNs int64
	slurm   map[slurmCall]callTally
}

type slurmCall struct{ call, result string }

type callTally struct {
	n  int64
	ns int64
}

func newTallies() *tallies {
	t := &tallies{ended: map[pipefill.Outcome]int64{}, slurm: map[slurmCall]callTally{}}
	for _, o := range []pipefill.Outcome{
		pipefill.OutcomeCompleted, pipefill.OutcomeFailed, pipefill.OutcomeCancelled, pipefill.OutcomeEvicted, pipefill.OutcomeLost,
	} {
		t.ended[o] = 0
	}
	return t
}

func (t *tallies) end(o pipefill.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[o]++
}

func (t *tallies) round(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rounds++
	t.roundNs += int64(took)
}

// call is slurm.Config.Observe.
func (t *tallies) call(call string, took time.Duration, err error) {
	key := slurmCall{call, "ok"}
	if err != nil {
		key.result = string(pipefill.ErrorCode(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tally := t.slurm[key]
	t.slurm[key] = callTally{tally.n + 1, tally.ns + int64(took)}
}

// families are the controller's metrics. Slurm is never asked for a scrape.
func (c *Controller) families() []metrics.Family {
	return append([]metrics.Family{
		metrics.Gauge("fill_jobs", "fill jobs that have not ended, by state", []string{"state"}, func(emit func(float64, ...string)) {
			for state, n := range c.store.Counts() {
				emit(float64(n), state)
			}
		}),
		metrics.Gauge("slots", "devices of running main jobs: filled, free, or not offered", []string{"state"}, c.countSlots),
		metrics.Gauge("nodes", "nodes that report, and nodes that were heard before and do not", []string{"state"}, c.countNodes),
		metrics.Gauge("faults", "things that a person should look at: pipefill-cli doctor names them", nil, func(emit func(float64, ...string)) {
			c.mu.Lock()
			defer c.mu.Unlock()
			emit(float64(len(c.faults)))
		}),
	}, c.tallies.families()...)
}

func (c *Controller) countSlots(emit func(float64, ...string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := map[string]int{"filled": 0, "free": 0, "off": 0}
	for _, n := range c.nodes {
		held := map[pipefill.DeviceID]bool{}
		for _, a := range n.said.Assignments {
			if a.State != pipefill.AssignmentEnded {
				held[a.Device] = true
				for _, d := range a.Others.List() {
					held[d] = true
				}
			}
		}
		for _, m := range n.said.Mains {
			switch {
			case held[m.Device]:
				counts["filled"]++
			case m.Enabled:
				counts["free"]++
			default:
				counts["off"]++
			}
		}
	}
	for state, n := range counts {
		emit(float64(n), state)
	}
}

func (c *Controller) countNodes(emit func(float64, ...string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	here := 0
	for _, n := range c.nodes {
		if c.now().UnixMilli()-n.seenMs <= c.cfg.NodeLostS*1000 {
			here++
		}
	}
	emit(float64(here), "here")
	emit(float64(len(c.nodes)-here), "lost")
}

func (t *tallies) families() []metrics.Family {
	counter := func(name, help string, labels []string, each func(emit func(float64, ...string))) metrics.Family {
		return metrics.Counter(name, help, labels, func(emit func(float64, ...string)) {
			t.mu.Lock()
			defer t.mu.Unlock()
			each(emit)
		})
	}
	return []metrics.Family{
		counter("assignments_ended_total", "assignments that have ended, by outcome", []string{"outcome"}, func(emit func(float64, ...string)) {
			for outcome, n := range t.ended {
				emit(float64(n), string(outcome))
			}
		}),
		counter("rounds_total", "rounds of looking at Slurm and deciding", nil, func(emit func(float64, ...string)) { emit(float64(t.rounds)) }),
		counter("round_seconds_total", "time that the rounds took", nil, func(emit func(float64, ...string)) { emit(float64(t.roundNs) / 1e9) }),
		counter("slurm_calls_total", "requests to slurmrestd and calls of scontrol, by result", []string{"call", "result"}, func(emit func(float64, ...string)) {
			for key, tally := range t.slurm {
				emit(float64(tally.n), key.call, key.result)
			}
		}),
		counter("slurm_call_seconds_total", "time that those took", []string{"call", "result"}, func(emit func(float64, ...string)) {
			for key, tally := range t.slurm {
				emit(float64(tally.ns)/1e9, key.call, key.result)
			}
		}),
	}
}
