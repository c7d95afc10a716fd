package executor

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/executor/device"
)

// A cycle is sent again when it is old or has changed by more than a little.
func TestTold_Has(t *testing.T) {
	now := time.Unix(1000, 0)
	cycle := func(change func(*pipefill.BubbleCycle)) pipefill.BubbleCycle {
		c := pipefill.BubbleCycle{Version: 1, IterationNs: 4e9, AlwaysFreeBytes: 1 << 30, Bubbles: []pipefill.Bubble{
			{Index: 0, Kind: "fwd-bwd", DurationNs: 3e7, FreeBytes: 8 << 30}, {Index: 1, Kind: "flush", DurationNs: 5e8, FreeBytes: 8 << 30},
		}}
		if change != nil {
			change(&c)
		}
		return c
	}
	had := toldCycle{cycle: cycle(nil), at: now}
	for name, c := range map[string]struct {
		told   toldCycle
		after  time.Duration
		change func(*pipefill.BubbleCycle)
		want   bool
	}{
		"never sent":             {toldCycle{}, 0, nil, false},
		"the same":               {had, 5 * time.Second, nil, true},
		"five minutes old":       {had, 5 * time.Minute, nil, false},
		"a clock that went back": {had, -time.Hour, nil, false},
		"a little longer":        {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].DurationNs += 9e6 }, true},
		"longer":                 {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].DurationNs += 11e6 }, false},
		"shorter":                {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].DurationNs -= 11e6 }, false},
		"a little later":         {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].StartNs += 7e7 }, true},
		"later":                  {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].StartNs += 9e7 }, false},
		"gone":                   {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[0].DurationNs = 0 }, false},
		"another kind":           {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[0].Kind = "other" }, false},
		"one fewer":              {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles = c.Bubbles[:1] }, false},
		"less memory":            {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[0].FreeBytes = 7 << 30 }, false},
		"less between bubbles":   {had, time.Second, func(c *pipefill.BubbleCycle) { c.AlwaysFreeBytes = 0 }, false},
		"a longer iteration":     {had, time.Second, func(c *pipefill.BubbleCycle) { c.IterationNs = 5e9 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := cycle(c.change)
			if got := c.told.has(&is, now.Add(c.after)); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// A cycle is left out for a controller that has said that it takes that: not for
// one of an earlier release, nor for the one that comes after it. Who does not
// understand us is told apart from who is not there.
func TestNode_LeavesOutWhatTheControllerTakes(t *testing.T) {
	now := time.Unix(1000, 0)
	key := pipefill.JobKey{Cluster: "test", JobID: 7, SubmitMs: 1}
	n := &node{now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler), faults: map[string]string{}, mains: map[int64]*mainJob{
		7: {rec: mainRecord{Job: key}, devices: []*mainDevice{{device: device.Device{ID: "cpu:0"}}}},
	}}
	send := func() *api.NodeSync {
		s := &api.NodeSync{Mains: []api.MainDevice{{Job: key, Device: "cpu:0", Cycle: pipefill.BubbleCycle{IterationNs: 4e9}}}}
		n.leaveOut(s)
		return s
	}
	older, newer := &api.NodeOrders{}, &api.NodeOrders{TakesKept: true}
	gone := errors.New("gone")
	for i, step := range []struct {
		answer *api.NodeOrders
		err    error
		kept   bool // is left out of the sync that is answered so
		fault  string
	}{
		{answer: older},
		{answer: older},
		{answer: newer},
		{answer: newer, kept: true},
		{answer: newer, kept: true},
		{err: gone, kept: true, fault: "not reached"},
		{answer: newer},
		{answer: newer, kept: true},
		{err: pipefill.Errorf(pipefill.CodeInvalid, "unknown key"), kept: true, fault: "upgrade and restart it first: unknown key"},
		{answer: older},
		{answer: older},
		{answer: newer},
		{answer: &api.NodeOrders{TakesKept: true, Whole: true}, kept: true},
		{answer: newer},
	} {
		s := send()
		if got := s.Mains[0].CycleKept; got != step.kept || got != (s.Mains[0].Cycle.IterationNs == 0) {
			t.Fatalf("sync %d: left out %v, want %v", i, got, step.kept)
		}
		if step.err != nil {
			n.notHeard(t.Context(), step.err)
		} else {
			delete(n.faults, "controller") // as obey does
			n.wasTold(s, step.answer)
		}
		if got := n.faults["controller"]; !strings.Contains(got, step.fault) || (got == "") != (step.fault == "") {
			t.Errorf("sync %d: fault %q, want %q", i, got, step.fault)
		}
	}
}
