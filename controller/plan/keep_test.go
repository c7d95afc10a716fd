package plan

import (
	"encoding/json"
	"testing"

	"pipefill"
)

// roomy is a job of which a batch of 4 fits what is free, and one of 8 what is
// free with 1 GiB of the main job's state away.
func roomy() Profile {
	p := Profile{Version: Version, Name: "job", Kind: Inference, Device: "gpu"}
	for i, peak := range []int64{1 << 30, 2 << 30} {
		c := Config{BatchSize: int64(4 << i), Technique: Technique{Offload: "none"}}
		for range 8 {
			c.Ops = append(c.Ops, Op{Name: "op", TimeNs: 10e6, PeakBytes: peak})
		}
		p.Configs = append(p.Configs, c)
	}
	return p
}

// long is a cycle of a GPU of 2 s, with three bubbles.
func long() pipefill.BubbleCycle {
	return pipefill.BubbleCycle{Version: Version, IterationNs: 2000e6, AlwaysFreeBytes: 3 << 29, Bubbles: []pipefill.Bubble{
		{Index: 1, Kind: "fill-drain", StartNs: 0, DurationNs: 200e6, FreeBytes: 3 << 29},
		{Index: 4, Kind: "fwd-bwd", StartNs: 600e6, DurationNs: 500e6, FreeBytes: 3 << 29},
		{Index: 7, Kind: "steady", StartNs: 1600e6, DurationNs: 100e6, FreeBytes: 3 << 29},
	}}
}

func movable() Movable {
	return Movable{States: []MainState{{Name: "optimizer", Bytes: 1 << 30, OutNs: 40e6, InNs: 60e6, Hidden: true}}, Budget: 0.01, Devices: 8}
}

// cached is movable with blocks that the main job's allocator keeps, over bubble
// 4 alone, instead.
func cached() Movable {
	m := movable()
	m.States[0] = MainState{Name: "cache", Bytes: 1 << 30, OutNs: 5e6, InNs: 6e6, Hidden: true, Over: []int{4}}
	return m
}

func TestKept_MovesStateWhereThatPays(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Movable, *pipefill.BubbleCycle)
		moves  *MainOffload
	}{
		"it pays":                             {func(*Movable, *pipefill.BubbleCycle) {}, &MainOffload{"optimizer", 1 << 30, 1, 7}},
		"nothing can be moved":                {func(m *Movable, _ *pipefill.BubbleCycle) { *m = Movable{} }, nil},
		"too little to help":                  {func(m *Movable, _ *pipefill.BubbleCycle) { m.States[0].Bytes = 1 << 28 }, nil},
		"beyond the budget":                   {func(m *Movable, _ *pipefill.BubbleCycle) { m.Budget = 0.004 }, nil},
		"many devices wait for it":            {func(m *Movable, _ *pipefill.BubbleCycle) { m.Devices = 1000 }, nil},
		"a longer way out than half of any":   {func(m *Movable, _ *pipefill.BubbleCycle) { m.States[0].OutNs = 251e6 }, nil},
		"only the long bubble has the time":   {func(m *Movable, _ *pipefill.BubbleCycle) { m.States[0].OutNs = 101e6 }, &MainOffload{"optimizer", 1 << 30, 4, 7}},
		"back before the iteration ends":      {func(m *Movable, _ *pipefill.BubbleCycle) { m.States[0].InNs = 151e6 }, &MainOffload{"optimizer", 1 << 30, 1, 4}},
		"never back in time":                  {func(m *Movable, _ *pipefill.BubbleCycle) { m.States[0].InNs = 901e6 }, nil},
		"cached blocks, over their bubble":    {func(m *Movable, _ *pipefill.BubbleCycle) { *m = cached() }, &MainOffload{"cache", 1 << 30, 4, 4}},
		"which is not there":                  {func(m *Movable, _ *pipefill.BubbleCycle) { *m = cached(); m.States[0].Over[0] = 5 }, nil},
		"the main job waits for them":         {func(m *Movable, _ *pipefill.BubbleCycle) { *m = cached(); m.States[0].InNs = 9e6 }, nil},
		"longer to give back than half of it": {func(m *Movable, _ *pipefill.BubbleCycle) { *m = cached(); m.States[0].OutNs = 251e6 }, nil},
		"what gives more of the two":          {func(m *Movable, _ *pipefill.BubbleCycle) { m.States = append(cached().States, m.States...) }, &MainOffload{"optimizer", 1 << 30, 1, 7}},
		"the other, where one costs too much": {
			func(m *Movable, _ *pipefill.BubbleCycle) {
				m.States[0].OutNs = 251e6
				m.States = append(m.States, cached().States...)
			},
			&MainOffload{"cache", 1 << 30, 4, 4},
		},
		"half of it has room as it is": {func(_ *Movable, c *pipefill.BubbleCycle) {
			for i := range c.Bubbles {
				c.Bubbles[i].FreeBytes = 2 << 30
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m, cycle := movable(), long()
			c.change(&m, &cycle)
			var none *Kept
			k, _ := none.Look(cycle, m, roomy(), Position{}, 0, 0)
			if k.ID == 0 || (k.Move == nil) != (c.moves == nil) || k.Move != nil && *k.Move != *c.moves {
				t.Fatalf("%+v, %q", k.Move, k.Why)
			}
			var h Handed
			if err := json.Unmarshal(k.Text, &h); err != nil {
				t.Fatal(err)
			}
			if c.moves == nil {
				if h.MainOffload != nil || h.Cycle.Bubbles[0] != cycle.Bubbles[0] {
					t.Errorf("%+v", h)
				}
				return
			}
			// The job is told of the room, and of the time that leaving takes.
			for _, b := range h.Cycle.Bubbles {
				away := b.Index >= c.moves.OutBubble && b.Index <= c.moves.InBubble
				if (b.FreeBytes == 5<<29) != away {
					t.Errorf("bubble %d has %d bytes", b.Index, b.FreeBytes)
				}
				if b.Index == c.moves.OutBubble && b.DurationNs%100e6 == 0 {
					t.Errorf("bubble %d of %d ns has lost nothing", b.Index, b.DurationNs)
				}
			}
			if h.Configs[len(h.Configs)-1].BatchSize != 8 || h.MainOffload[0] != *c.moves {
				t.Errorf("%+v", h.Configs)
			}
		})
	}
}

func TestKept_PlansAnewWhenWhatCanBeMovedChanges(t *testing.T) {
	var none *Kept
	p, c := roomy(), long()
	stays, _ := none.Look(c, Movable{}, p, Position{}, 0, 0)
	if next, _ := stays.Look(c, movable(), p, Position{}, 0, 4999); next != nil {
		t.Error("within five seconds")
	}
	moves, drift := stays.Look(c, movable(), p, Position{}, 0, 5000)
	if moves == nil || moves.Move == nil || drift != 0 || moves.Times != 2 || moves.Rate <= stays.Rate {
		t.Fatalf("%+v", moves)
	}
	if next, _ := moves.Look(c, movable(), p, Position{}, 0, 20000); next != nil {
		t.Error("nothing has changed")
	}
	// It turns out to take longer, and the plan with it.
	slower := movable()
	slower.States[0].OutNs = 101e6
	if next, _ := moves.Look(c, slower, p, Position{}, 0, 20000); next == nil || next.Move == nil || next.Move.OutBubble != 4 {
		t.Errorf("%+v", next)
	}
	// The main job keeps it: a plan without, if there is any.
	if next, _ := moves.Look(c, Movable{}, p, Position{}, 0, 20000); next == nil || next.Move != nil || next.ID == 0 {
		t.Errorf("%+v", next)
	}
	// Cached blocks are to be had as well, and over another bubble then.
	both := movable()
	both.States = append(both.States, cached().States...)
	next, _ := moves.Look(c, both, p, Position{}, 0, 20000)
	if next == nil || next.Move.Name != "optimizer" {
		t.Fatalf("%+v", next)
	}
	if again, _ := next.Look(c, both, p, Position{}, 0, 30000); again != nil {
		t.Errorf("nothing has changed: %+v", again)
	}
	other := movable()
	other.States = append(other.States, cached().States...)
	other.States[1].Over = []int{7}
	if again, _ := next.Look(c, other, p, Position{}, 0, 30000); again == nil {
		t.Error("another bubble is not seen")
	}
	p.Configs = p.Configs[1:]
	only, _ := none.Look(c, movable(), p, Position{}, 0, 0)
	if only.Move == nil {
		t.Fatalf("%q", only.Why)
	}
	if next, _ := only.Look(c, Movable{}, p, Position{}, 0, 20000); next == nil || next.ID != 0 || next.Move != nil || next.Why == "" {
		t.Errorf("a plan that counts on what stays: %+v", next)
	}
	// No plan fits bubbles that have become short: the one before stays, unless what
	// it counts on is of another bubble now.
	blocks, _ := none.Look(c, cached(), p, Position{}, 0, 0)
	if blocks.Move == nil || blocks.Move.Name != "cache" {
		t.Fatalf("%+v", blocks)
	}
	short, elsewhere := long(), cached()
	for i := range short.Bubbles {
		short.Bubbles[i].DurationNs = 1e6
	}
	elsewhere.States[0].Over = []int{7}
	if next, _ := blocks.Look(short, cached(), p, Position{}, 0, 20000); next == nil || next.ID != blocks.ID {
		t.Errorf("%+v", next)
	}
	if next, _ := blocks.Look(short, elsewhere, p, Position{}, 0, 20000); next == nil || next.ID != 0 {
		t.Errorf("%+v", next)
	}
}

// What moves already stays for half of the gain that it takes to begin.
func TestMovable_PaysNotNowAndThen(t *testing.T) {
	m, c := movable(), long()
	for _, x := range []struct {
		with    float64
		already bool
		want    bool
	}{{1.11e9, false, true}, {1.09e9, false, false}, {1.09e9, true, true}, {1.04e9, true, false}} {
		if got := m.pays(&m.States[0], c, x.with, 1e9, x.already); got != x.want {
			t.Errorf("%+v: %v", x, got)
		}
	}
}
