package executor

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/executor/device"
)

// moving is gpuNode where the main job's program could move 2 GiB, and a plan
// that counts on one of them.
func moving(t *testing.T) (*node, *fakeMeter, *fillJob, api.Plan) {
	t.Helper()
	n, m, f, _ := gpuNode(t, pipefill.ModeChunked)
	n.cfg.MoveState = movePlan
	page := f.devices[0].main.at
	page.Pid.Store(1)
	page.MoveOutNs.Store(40e6)
	page.MoveInNs.Store(50e6)
	page.MoveBytes.Store(2 << 30)
	n.tickMain(n.mains[100])
	return n, m, f, api.Plan{Assignment: 7, ID: 11, Text: json.RawMessage(`{}`), Move: &api.PlanMove{Kind: api.MoveOptimizer, Out: 2, In: 5, Bytes: 1 << 30}}
}

const movesNow = moveTell | moveOut | 2<<moveOutShift | 5<<moveInShift

func TestMove_ThePlanWaitsForTheState(t *testing.T) {
	n, m, f, plan := moving(t)
	main, d := n.mains[100], f.devices[0]
	if told := n.mainDevices(main)[0].Movable; len(told) != 1 || told[0] != (api.Movable{Kind: api.MoveOptimizer, Bytes: 2 << 30, OutNs: 40e6, InNs: 50e6}) {
		t.Fatalf("%+v is told", told)
	}
	c := d.control.at
	n.takePlan(plan)
	n.tickMain(main)
	if c.Move.Load() != movesNow || c.Plan.Load() != 0 || f.planID() != 11 || f.mayHold() != 4<<30 {
		t.Errorf("move %#x, plan %d on the page, %d taken, it may hold %d", c.Move.Load(), c.Plan.Load(), f.planID(), f.mayHold())
	}
	var onDisk fillRecord
	if err := readRecord(filepath.Join(n.cfg.StateDir, "assignment-7.json"), &onDisk); err != nil || onDisk.Move == nil || *onDisk.Move != *plan.Move {
		t.Errorf("on disk: %+v, %v", onDisk.Move, err)
	}
	d.main.at.MoveTimes.Store(1)
	n.tickMain(main)
	if c.Plan.Load() != 11 || f.mayHold() != 5<<30 {
		t.Errorf("plan %d once the state has left, the job may hold %d", c.Plan.Load(), f.mayHold())
	}
	n.metered()
	if len(m.limits) != 1 || !strings.HasSuffix(m.limits[0], " 5368709120") {
		t.Errorf("the driver is told %q", m.limits)
	}
	// What leaving takes of its bubble is not of the cycle that is told.
	cycle := d.unmoved(pipefill.BubbleCycle{Bubbles: []pipefill.Bubble{{Index: 1, DurationNs: 9e6}, {Index: 2, DurationNs: 60e6}}})
	if cycle.Bubbles[0].DurationNs != 9e6 || cycle.Bubbles[1].DurationNs != 60e6+36e6 {
		t.Errorf("%+v", cycle.Bubbles)
	}
	// A daemon that starts again gets the same plan once more: it is in force.
	f.plan.close()
	f.moved = 0
	n.takePlan(plan)
	if f.plan.file == nil || c.Move.Load() != movesNow {
		t.Errorf("after a restart: move %#x", c.Move.Load())
	}
	f.plan.close()
}

// The room that the main job's state leaves is no breach, and more is.
func TestMove_TheFenceKnowsOfTheRoom(t *testing.T) {
	for extra, ends := range map[int64]bool{1 << 30: false, 1<<30 + 1<<20: true} {
		n, m, f, pid := gpuNode(t, pipefill.ModeChunked)
		n.mains[100].rec.Devices[0].HighBytes = 74 << 30 // of 80, less 2 and the job's 4
		f.rec.Move = &api.PlanMove{Kind: api.MoveOptimizer, Bytes: 1 << 30}
		m.uses = []device.Use{{Pid: pid, Bytes: 4<<30 + extra}}
		n.lookAtMemory()
		if (f.rec.Stopping != "") != ends {
			t.Errorf("%d bytes beyond its own: %q", extra, f.rec.Assignment.Reason)
		}
	}
}

func TestMove_NotWhereItMayNot(t *testing.T) {
	for name, change := range map[string]func(*node, *fillJob, *api.Plan){
		"the site does not let it": func(n *node, _ *fillJob, _ *api.Plan) { n.cfg.MoveState = moveOff },
		"the owner said no":        func(n *node, _ *fillJob, _ *api.Plan) { n.mains[100].options = n.cfg.mainOptions("move=off") },
		"nothing could leave":      func(_ *node, f *fillJob, _ *api.Plan) { f.devices[0].main.at.MoveBytes.Store(0) },
		"less could leave":         func(_ *node, f *fillJob, _ *api.Plan) { f.devices[0].main.at.MoveBytes.Store(1<<30 - 1) },
		"of no bytes":              func(_ *node, _ *fillJob, p *api.Plan) { p.Move.Bytes = 0 },
		"the bubbles are wrong":    func(_ *node, _ *fillJob, p *api.Plan) { p.Move.Out = 6 },
		"and beyond all":           func(_ *node, _ *fillJob, p *api.Plan) { p.Move.In = 256 },
		"and negative":             func(_ *node, _ *fillJob, p *api.Plan) { p.Move.Out = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			n, _, f, plan := moving(t)
			change(n, f, &plan)
			n.takePlan(plan)
			n.tickMain(n.mains[100])
			c := f.devices[0].control.at
			if c.Move.Load()&moveOut != 0 || f.rec.Move != nil || c.Plan.Load() != 0 || f.planID() != 11 || f.rec.Stopping != "" {
				t.Errorf("move %#x, plan %d taken, %q", c.Move.Load(), f.planID(), f.rec.Stopping)
			}
			told := n.mainDevices(n.mains[100])[0].Movable
			if asks := c.Move.Load() == moveTell; asks != (n.cfg.MoveState == movePlan && !n.mains[100].options.stay) || !asks && told != nil {
				t.Errorf("move %#x, told %+v", c.Move.Load(), told)
			}
		})
	}
}

// Cached blocks leave where the main job's owner permits it, over the one bubble
// that its program tells of, and by their own words in the pages.
func TestMove_CachedBlocks(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		bubble  uint32
		moves   bool
	}{
		"the owner permits it":        {"move=cache", 2, true},
		"nobody has said so":          {"", 2, false},
		"as the site has it":          {"move=on", 2, false},
		"over another bubble by then": {"move=cache", 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			n, _, f, plan := moving(t)
			main, d := n.mains[100], f.devices[0]
			main.options = n.cfg.mainOptions(c.options)
			page := d.main.at
			page.CacheOutNs.Store(4e6)
			page.CacheInNs.Store(3e6)
			page.CacheBubble.Store(c.bubble)
			page.CacheBytes.Store(3 << 30)
			n.tickMain(main)
			told := n.mainDevices(main)[0].Movable
			permits := c.options == "move=cache"
			if len(told) == 2 != permits || told[0].Kind != api.MoveOptimizer || permits && (told[1].Kind != api.MoveCache || told[1].Bytes != 3<<30 || *told[1].Bubble != int(c.bubble)) {
				t.Errorf("%+v is told", told)
			}
			plan.Move = &api.PlanMove{Kind: api.MoveCache, Out: 2, In: 2, Bytes: 3 << 30}
			n.takePlan(plan)
			n.tickMain(main)
			word := uint32(0)
			switch {
			case c.moves:
				word = moveTell | moveOut | 2<<moveOutShift | 2<<moveInShift
			case permits:
				word = moveTell
			}
			if at := d.control.at; at.Cache.Load() != word || at.Move.Load() != moveTell || at.Plan.Load() != 0 {
				t.Errorf("cache %#x, move %#x, plan %d", at.Cache.Load(), at.Move.Load(), at.Plan.Load())
			}
			if !c.moves {
				return
			}
			page.MoveTimes.Store(1) // of something else
			n.tickMain(main)
			if d.control.at.Plan.Load() != 0 {
				t.Error("handed out before")
			}
			page.CacheTimes.Store(1)
			n.tickMain(main)
			if d.control.at.Plan.Load() != 11 || f.mayHold() != 7<<30 {
				t.Errorf("plan %d, the job may hold %d", d.control.at.Plan.Load(), f.mayHold())
			}
			defer f.plan.close()
			if cycle := d.unmoved(pipefill.BubbleCycle{Bubbles: []pipefill.Bubble{{Index: 2, DurationNs: 60e6}}}); cycle.Bubbles[0].DurationNs != 60e6+3.6e6 {
				t.Errorf("%+v", cycle.Bubbles)
			}
			page.CacheBytes.Store(1 << 30) // a little less, and the controller will see
			n.tickMain(main)
			if d.control.at.Cache.Load() != word || f.rec.Stopping != "" {
				t.Errorf("cache %#x, %q", d.control.at.Cache.Load(), f.rec.Assignment.Reason)
			}
			page.CacheBytes.Store(0)
			n.tickMain(main)
			if d.control.at.Cache.Load() != 0 || !strings.Contains(f.rec.Assignment.Reason, "cached blocks, which stay on the device") || f.killNs > n.mono() {
				t.Errorf("cache %#x, %q", d.control.at.Cache.Load(), f.rec.Assignment.Reason)
			}
		})
	}
}

// When the fill job leaves its allocator keeps what it has again.
func TestMove_CachedBlocksStayOnceTheJobHasLeft(t *testing.T) {
	n, _, f, _ := moving(t)
	main, d := n.mains[100], f.devices[0]
	main.options = n.cfg.mainOptions("move=cache")
	d.main.at.CacheBytes.Store(1 << 30)
	f.rec.Move = &api.PlanMove{Kind: api.MoveCache, Out: 0, In: 0, Bytes: 1 << 30}
	n.tickMain(main)
	if d.control.at.Cache.Load()&moveOut == 0 {
		t.Errorf("cache %#x", d.control.at.Cache.Load())
	}
	n.unbind(f)
	n.tickMain(main)
	if d.control.at.Cache.Load() != moveTell {
		t.Errorf("cache %#x once it has left", d.control.at.Cache.Load())
	}
}

// inForce is moving with the plan handed out.
func inForce(t *testing.T) (*node, *fillJob) {
	t.Helper()
	n, _, f, plan := moving(t)
	n.takePlan(plan)
	f.devices[0].main.at.MoveTimes.Store(1)
	n.tickMain(n.mains[100])
	if f.plan.file == nil {
		t.Fatal("the plan was not handed out")
	}
	t.Cleanup(f.plan.close)
	return n, f
}

func TestMove_TakenBack(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*node, *fillJob)
		word   uint32
		ends   string // the fill job, why
		now    bool   // without a grace
		stays  bool   // from now on
	}{
		"nothing happens": {func(*node, *fillJob) {}, movesNow, "", false, false},
		"its program keeps it": {
			func(_ *node, f *fillJob) { f.devices[0].main.at.MoveBytes.Store(0) }, 0, "its program keeps it there", true, true,
		},
		"the governor cuts": {func(_ *node, f *fillJob) { f.devices[0].governor.cuts++ }, 0, "slowed the main job", false, true},
		"filling is disabled": {
			func(_ *node, f *fillJob) { f.devices[0].governor.disabled = "too slow" }, moveTell, "", false, false,
		},
		"the fill job has left": {func(n *node, f *fillJob) { n.unbind(f) }, moveTell, "", false, false},
		"the main job ends":     {func(n *node, _ *fillJob) { n.mains[100].ending = true }, 0, "", false, false},
		"its program ended":     {func(_ *node, f *fillJob) { f.devices[0].main.at.Pid.Store(0); f.devices[0].main.at.MoveBytes.Store(0) }, movesNow, "", false, false},
		"a plan without comes, and is not followed yet": {func(n *node, f *fillJob) {
			f.page.at.Plan.Store(11)
			n.takePlan(api.Plan{Assignment: 7, ID: 12, Text: json.RawMessage(`{}`)})
		}, movesNow, "", false, false},
		"a plan without is followed": {func(n *node, f *fillJob) {
			n.takePlan(api.Plan{Assignment: 7, ID: 12, Text: json.RawMessage(`{}`)})
			f.page.at.Plan.Store(12)
		}, moveTell, "", false, false},
		"the plan is left": {func(n *node, f *fillJob) {
			f.page.at.Plan.Store(11)
			n.tickMain(n.mains[100])
			f.page.at.Plan.Store(0)
		}, moveTell, "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			n, f := inForce(t)
			d := f.devices[0]
			c.change(n, f)
			n.tickMain(n.mains[100])
			if got := d.control.at.Move.Load(); got != c.word {
				t.Errorf("move is %#x, want %#x", got, c.word)
			}
			if !strings.Contains(f.rec.Assignment.Reason, c.ends) || (f.rec.Stopping != "") != (c.ends != "") || c.ends != "" && (f.killNs <= n.mono()) != c.now {
				t.Errorf("the fill job: %q, %q, %v to its end", f.rec.Stopping, f.rec.Assignment.Reason, time.Duration(f.killNs-n.mono()))
			}
			if (d.noMove != "") != c.stays || c.stays && n.mainDevices(n.mains[100])[0].Movable != nil {
				t.Errorf("stays: %q", d.noMove)
			}
		})
	}
}

// While the state has not left yet the fill job counts on nothing.
func TestMove_FailsBeforeItBegan(t *testing.T) {
	n, _, f, plan := moving(t)
	n.takePlan(plan)
	f.devices[0].main.at.MoveBytes.Store(0)
	n.tickMain(n.mains[100])
	if f.rec.Stopping != "" || f.devices[0].noMove == "" || f.planID() != 11 || f.devices[0].control.at.Plan.Load() != 0 {
		t.Errorf("%q, %q, plan %d", f.rec.Stopping, f.devices[0].noMove, f.planID())
	}
}

// All of it over the wire, with the pages of a daemon that is started again in
// between; this test is the main job's program.
func TestDaemon_HasStateMovedForAPlan(t *testing.T) {
	s := newSiteWith(t, func(c *config) { c.MoveState = movePlan })
	main, _ := s.fillRuns(t, "sleep 60")
	main.at.Pid.Store(uint32(s.node.self.Pid))
	main.at.MoveOutNs.Store(1e6)
	main.at.MoveBytes.Store(1 << 30)
	s.node.changed()
	within(t, 5*time.Second, "what could be moved to be told", func() bool {
		mains := s.sync().Mains
		return len(mains) == 1 && len(mains[0].Movable) == 1 && mains[0].Movable[0].Bytes == 1<<30
	})
	word := func() uint32 {
		s.node.mu.Lock()
		defer s.node.mu.Unlock()
		return s.node.fills[7].devices[0].control.at.Move.Load()
	}
	s.order(func(o *api.NodeOrders) {
		o.Plans = []api.Plan{{Assignment: 7, ID: 11, Text: json.RawMessage(`{"version":1}`), Move: &api.PlanMove{Kind: api.MoveOptimizer, Out: 2, In: 5, Bytes: 1 << 30}}}
	})
	within(t, 5*time.Second, "the order to move", func() bool { return word() == movesNow })
	if answer, _ := s.askPlan(t, 0); answer != "none\n" {
		t.Errorf("handed out before: %q", answer)
	}
	main.at.MoveTimes.Store(1)
	handed := func() bool { answer, _ := s.askPlan(t, 0); return answer == "ok\nplan=11\n" }
	within(t, 5*time.Second, "the plan to be handed out", handed)

	s.stop()
	s.order(func(o *api.NodeOrders) { o.Plans = nil })
	s.start(t)
	within(t, 5*time.Second, "the move to go on after a restart", func() bool { return s.assignment().ID == 7 && word() == movesNow })
	main.at.MoveBytes.Store(0)
	if a := s.awaitEnd(t, pipefill.OutcomeEvicted); !strings.Contains(a.Reason, "its program keeps it there") {
		t.Errorf("%q", a.Reason)
	}
}
