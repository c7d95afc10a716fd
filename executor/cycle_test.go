package executor

import (
	"testing"
	"time"

	"pipefill"
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
		"half a minute old":      {had, 30 * time.Second, nil, false},
		"a clock that went back": {had, -time.Hour, nil, false},
		"a little longer":        {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].DurationNs += 9e6 }, true},
		"longer":                 {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].DurationNs += 11e6 }, false},
		"shorter":                {had, time.Second, func(c *pipefill.BubbleCycle) { c.Bubbles[1].DurationNs -= 11e6 }, false},
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
