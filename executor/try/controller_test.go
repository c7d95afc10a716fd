package try

import (
	"context"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
)

func newTest(fills ...string) *controller {
	return newController(Config{Fills: fills, Dir: "/d", Mode: pipefill.ModeSignal, Now: func() time.Time { return time.UnixMilli(5) }})
}

func slot(device pipefill.DeviceID, enabled bool) api.MainDevice {
	return api.MainDevice{Job: pipefill.JobKey{Cluster: cluster, JobID: mainJob}, Device: device, Enabled: enabled}
}

func tell(t *testing.T, c *controller, state api.NodeSync) api.NodeOrders {
	t.Helper()
	return c.sync(t.Context(), state)
}

func TestController_OneFillJobADeviceInOrder(t *testing.T) {
	c := newTest("a", "b", "c")
	if o := tell(t, c, api.NodeSync{Mains: []api.MainDevice{slot("cpu:0", false)}}); len(o.Assignments) != 0 {
		t.Errorf("a device that is not open is filled: %+v", o.Assignments)
	}
	both := []api.MainDevice{slot("cpu:0", true), slot("cpu:1", true)}
	o := tell(t, c, api.NodeSync{Mains: both})
	if len(o.Assignments) != 2 || o.Assignments[0].ID != 2 || o.Assignments[0].Device != "cpu:0" || o.Assignments[1].Device != "cpu:1" {
		t.Fatalf("%+v", o.Assignments)
	}
	if len(c.ready) != 0 {
		t.Error("started before the node knows")
	}
	known := []api.NodeAssignment{{ID: 2, State: pipefill.AssignmentReserved}}
	tell(t, c, api.NodeSync{Mains: both, Assignments: known})
	tell(t, c, api.NodeSync{Mains: both, Assignments: known})
	if len(c.ready) != 1 {
		t.Errorf("%d starts of one job", len(c.ready))
	}
	ended := []api.NodeAssignment{{ID: 2, State: pipefill.AssignmentEnded, Outcome: pipefill.OutcomeFailed, Reason: "exit status 3", ExitCode: 3}}
	o = tell(t, c, api.NodeSync{Mains: both, Assignments: ended})
	if len(o.Forget) != 1 || len(o.Assignments) != 2 || o.Assignments[1].ID != 4 || o.Assignments[1].Device != "cpu:0" {
		t.Errorf("%+v", o)
	}
	// What is said again changes nothing.
	tell(t, c, api.NodeSync{Mains: both, Assignments: ended})
	if f := c.fills(); f[0].State != "failed" || f[0].ExitCode != 3 || f[2].State != "reserved" {
		t.Errorf("%+v", f)
	}
}

func TestController_NothingStartsAfterTheMainJob(t *testing.T) {
	c := newTest("a")
	c.finish()
	if o := tell(t, c, api.NodeSync{Mains: []api.MainDevice{slot("cpu:0", true)}}); len(o.Assignments) != 0 {
		t.Errorf("%+v", o.Assignments)
	}
	if !func() bool { tell(t, c, api.NodeSync{}); return c.settled() }() {
		t.Error("not settled with nothing under way")
	}
}

func TestController_UsageCountsOnce(t *testing.T) {
	c := newTest("a")
	usage := []pipefill.Usage{{Ledger: "x", Seq: 1, AssignmentID: 2, DeviceNs: 5, CPUNs: 4}, {Ledger: "x", Seq: 2, AssignmentID: 2, DeviceNs: 7}}
	if o := tell(t, c, api.NodeSync{Usage: usage}); o.UsageAck["x"] != 2 {
		t.Errorf("%+v", o.UsageAck)
	}
	if c.settled() {
		t.Error("settled with usage that is not known to be acknowledged")
	}
	tell(t, c, api.NodeSync{Usage: usage})
	if f := c.fills()[0]; f.DeviceNs != 12 || f.CPUNs != 4 {
		t.Errorf("%+v", f)
	}
}

func TestController_HoldsAnAnswerUntilSomethingIsNew(t *testing.T) {
	c := newTest("a")
	first := tell(t, c, api.NodeSync{})
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan api.NodeOrders)
	go func() { answered <- c.sync(ctx, api.NodeSync{OrdersSeen: first.Serial, WaitMs: 60_000}) }()
	c.failed(2, context.Canceled)
	if o := <-answered; o.Serial == first.Serial {
		t.Error("an answer with nothing new")
	}
	cancel()
	if f := c.fills()[0]; f.State != "failed" || f.Reason != context.Canceled.Error() {
		t.Errorf("%+v", f)
	}
}

// A fill job's plan comes with the orders until the daemon has it, and another
// one when its bubbles change.
func TestController_HandsPlansOut(t *testing.T) {
	c := newTest("a")
	nowMs := int64(0)
	c.cfg.Now, c.cfg.Say = func() time.Time { return time.UnixMilli(nowMs) }, func(string, ...any) {}
	c.cfg.Profile = &plan.Profile{Version: plan.Version, Name: "a", Kind: plan.Inference, Configs: []plan.Config{
		{BatchSize: 1, Technique: plan.Technique{Offload: "none"}, Ops: []plan.Op{{Name: "all", TimeNs: 1e6}}},
	}}
	slot := slot("cpu:0", true)
	state := api.NodeSync{Mains: []api.MainDevice{slot}}
	tell(t, c, state)
	state.Assignments = []api.NodeAssignment{{ID: 2, Device: "cpu:0", State: pipefill.AssignmentRunning}}
	if o := tell(t, c, state); len(o.Plans) != 0 {
		t.Errorf("a plan for bubbles that nobody knows: %+v", o.Plans)
	}
	say := func(ms int64) []api.Plan {
		nowMs += 10_000
		state.Mains[0].Cycle = pipefill.BubbleCycle{Version: 1, IterationNs: 100e6, Bubbles: []pipefill.Bubble{{Index: 1, Kind: "fwd-bwd", DurationNs: ms * 1e6}}}
		state.OrdersSeen = -1
		return tell(t, c, state).Plans
	}
	first := say(10)
	if len(first) != 1 || first[0].Assignment != 2 || first[0].ID == 0 {
		t.Fatalf("%+v", first)
	}
	state.Assignments[0].Plan = first[0].ID
	if again := say(10); len(again) != 0 {
		t.Errorf("it is sent again: %+v", again)
	}
	if other := say(20); len(other) != 1 || other[0].ID == first[0].ID {
		t.Errorf("bubbles of twice the length: %+v", other)
	}
}
