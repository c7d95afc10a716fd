package controller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
)

// opsOf is a profile of ops of 4 ms, as many as are named.
func opsOf(name string, ops int) string {
	var text []string
	for i := range ops {
		text = append(text, fmt.Sprintf(`{"name":"op%d","time_ns":4000000,"peak_bytes":0}`, i))
	}
	return fmt.Sprintf(`{"version":1,"name":%q,"kind":"inference","device":"cpu","configs":[{"batch_size":1,`+
		`"technique":{"checkpoint":false,"offload":"none"},"resident_bytes":0,"swap_in_ns":0,"swap_out_ns":0,"ops":[%s]}]}`, name, strings.Join(text, ","))
}

func bubbleOf(ms int64) pipefill.BubbleCycle {
	return pipefill.BubbleCycle{Version: 1, IterationNs: 100e6, Bubbles: []pipefill.Bubble{{Index: 3, Kind: "fwd-bwd", StartNs: 1e6, DurationNs: ms * 1e6}}}
}

// follower is a world in which job 100 runs under its plan on n0.
func follower(t *testing.T, options string) (*world, *worldNode) {
	t.Helper()
	d := newDesk(t)
	w := d.world
	answer := d.ask(1000, http.MethodPost, "/v1/profiles", opsOf("some", 12))
	var kept api.Profile
	if err := json.Unmarshal(answer.Body.Bytes(), &kept); err != nil {
		t.Fatal(err)
	}
	w.jobs[100].Options, w.jobs[100].workS = options+kept.Digest, 1000
	n := w.nodes["n0"]
	n.main.Cycle = bubbleOf(20)
	w.nodes["n1"].hasMain = false
	delete(w.jobs, 101)
	for range 8 {
		w.second()
	}
	if len(n.records) != 1 {
		t.Fatalf("the job does not run: %+v", n.records)
	}
	return w, n
}

func handedOver(t *testing.T, p api.Plan) plan.Handed {
	t.Helper()
	var h plan.Handed
	if err := json.Unmarshal(p.Text, &h); err != nil || p.ID != plan.HandedID(p.Text) {
		t.Fatalf("plan %d: %v", p.ID, err)
	}
	return h
}

// A chunked job's plan comes to its node once, and again after the controller's
// restart only where it is another one.
func TestHandover_APlanReachesTheNode(t *testing.T) {
	w, n := follower(t, "fill,mode=chunked,profile=")
	if len(n.plans) != 1 {
		t.Fatalf("%d plans came", len(n.plans))
	}
	h := handedOver(t, n.plans[0])
	if h.Job != "some" || h.Cycle.Bubbles[0].Index != 3 || len(h.Configs) != 1 || len(h.Chunks) == 0 || h.Chunks[0] != (plan.HandedChunk{0, 3, 0, 0, 5}) {
		t.Errorf("%+v", h)
	}
	w.boot()
	for range 4 {
		w.second()
	}
	if len(n.plans) != 1 {
		t.Errorf("a restart sent %d plans more", len(n.plans)-1)
	}
	// A daemon of an older release is told none.
	if plans := w.ctl.plansFor(&api.NodeSync{Node: "n0", Assignments: n.view()}); len(plans) > 0 {
		t.Errorf("%d plans to a node that takes none", len(plans))
	}
}

func (n *worldNode) view() []api.NodeAssignment {
	var all []api.NodeAssignment
	for _, r := range n.records {
		r.Plan = 0
		all = append(all, r)
	}
	return all
}

// Jobs that do not follow plans get none.
func TestHandover_OthersGetNone(t *testing.T) {
	for _, options := range []string{"fill,profile=", "fill,mode=signal,profile="} {
		if _, n := follower(t, options); len(n.plans) > 0 {
			t.Errorf("%s: %d plans came", options, len(n.plans))
		}
	}
}

// Bubbles that drift by more than the threshold bring a new plan, which begins
// where the job says that it is; ones that drift by less bring none, and no job
// gets them faster than its node learns.
func TestHandover_AnotherPlanOnDrift(t *testing.T) {
	w, n := follower(t, "fill,mode=chunked,profile=")
	first := n.plans[0].ID
	for id, r := range n.records {
		r.At = api.PlanPosition{Plan: first, Config: 0, Op: 7}
		n.records[id] = r
	}
	n.main.Cycle.Bubbles[0].DurationNs = 21e6
	for range 15 {
		w.second()
	}
	if len(n.plans) != 1 {
		t.Fatalf("a drift of 5 %% brought %d plans", len(n.plans)-1)
	}
	n.main.Cycle = bubbleOf(14)
	for range 3 {
		w.second()
	}
	if len(n.plans) != 2 {
		t.Fatalf("%d plans", len(n.plans))
	}
	h := handedOver(t, n.plans[1])
	if len(h.LeadIn) == 0 || h.LeadIn[0] != (plan.HandedChunk{0, 3, 0, 7, 3}) {
		t.Errorf("the job is at op 7, and goes on with %v", h.LeadIn)
	}
	// What a job says of itself that cannot be is not believed.
	for id, r := range n.records {
		r.At = api.PlanPosition{Plan: n.plans[1].ID, Config: 9, Op: 1 << 30}
		n.records[id] = r
	}
	n.main.Cycle = bubbleOf(30)
	w.second()
	w.second()
	if len(n.plans) != 2 {
		t.Error("a plan followed at once on another")
	}
	for range 12 {
		w.second()
	}
	if len(n.plans) != 3 || len(handedOver(t, n.plans[2]).LeadIn) != 0 {
		t.Fatalf("%d plans, %+v", len(n.plans), handedOver(t, n.plans[len(n.plans)-1]))
	}
	// Where nothing fits the plan before stays.
	n.main.Cycle = bubbleOf(2)
	for range 12 {
		w.second()
	}
	row, err := w.ctl.Queue(t.Context(), "")
	if err != nil || !strings.Contains(row[0].Reason, "samples/s") || !strings.Contains(row[0].Reason, "the 3. plan; its bubbles have changed since") {
		t.Errorf("the queue says %+v, %v", row, err)
	}
	w.ctl.mu.Lock()
	defer w.ctl.mu.Unlock()
	for _, p := range w.ctl.plans {
		if len(n.plans) != 3 || p.ID != n.plans[2].ID || !strings.Contains(p.Why, "2.00") {
			t.Errorf("%d plans, %d in force, %q", len(n.plans), p.ID, p.Why)
		}
	}
}

// twoBatches is a profile with a batch that fits 1000 MiB and a larger one that
// fits 1600 MiB.
func twoBatches() string {
	var configs []string
	for batch, mib := range map[int]int{1: 900, 4: 1500} {
		op := fmt.Sprintf(`{"name":"op","time_ns":4000000,"peak_bytes":%d}`, mib<<20)
		configs = append(configs, fmt.Sprintf(`{"batch_size":%d,"technique":{"checkpoint":false,"offload":"none"},"resident_bytes":0,`+
			`"swap_in_ns":0,"swap_out_ns":0,"ops":[%s,%s]}`, batch, op, op))
	}
	return fmt.Sprintf(`{"version":1,"name":"some","kind":"inference","device":"cpu","configs":[%s]}`, strings.Join(configs, ","))
}

// The main job's state leaves where a plan gains by it: for a job that says
// nothing of its memory, and while the node says that it can.
func TestHandover_MainStateLeaves(t *testing.T) {
	over := 3
	for _, c := range []struct {
		options, kind string
		over          *int
		moves         bool
		said          string
	}{
		{"fill,mode=chunked,profile=", api.MoveOptimizer, nil, true, "optimizer state"},
		{"fill,mode=chunked,profile=", api.MoveCache, &over, true, "cached blocks"},
		{"fill,mode=chunked,mem=900MiB,profile=", api.MoveOptimizer, nil, false, ""},
	} {
		options, kind, over, moves := c.options, c.kind, c.over, c.moves
		d := newDesk(t)
		w := d.world
		answer := d.ask(1000, http.MethodPost, "/v1/profiles", twoBatches())
		var kept api.Profile
		if err := json.Unmarshal(answer.Body.Bytes(), &kept); err != nil {
			t.Fatal(err, answer.Body)
		}
		w.jobs[100].Options, w.jobs[100].workS = options+kept.Digest, 1000
		n := w.nodes["n0"]
		n.main.Cycle = bubbleOf(200)
		n.main.Cycle.IterationNs, n.main.Cycle.AlwaysFreeBytes, n.main.Cycle.Bubbles[0].FreeBytes = 2000e6, 1000<<20, 1000<<20
		n.main.Budget, n.main.Movable = 0.01, []api.Movable{{Kind: kind, Bytes: 600 << 20, OutNs: 4e6, InNs: 4e6, Bubble: over}}
		w.nodes["n1"].hasMain = false
		delete(w.jobs, 101)
		for range 8 {
			w.second()
		}
		if len(n.plans) != 1 || (n.plans[0].Move != nil) != moves {
			t.Fatalf("%s: %d plans came, %+v", options, len(n.plans), n.plans)
		}
		h := handedOver(t, n.plans[0])
		if !moves {
			if len(h.MainOffload) > 0 || h.Cycle.Bubbles[0].FreeBytes != 1000<<20 {
				t.Errorf("%+v", h)
			}
			continue
		}
		if *n.plans[0].Move != (api.PlanMove{Kind: kind, Out: 3, In: 3, Bytes: 600 << 20}) || len(h.MainOffload) != 1 || h.Cycle.Bubbles[0].FreeBytes != 1600<<20 {
			t.Errorf("%+v, %+v", n.plans[0].Move, h)
		}
		row, err := w.ctl.Queue(t.Context(), "")
		if err != nil || !strings.Contains(row[0].Reason, "with 0.6 GiB of the main job's "+c.said+" away over bubbles 3 to 3") {
			t.Errorf("the queue says %+v, %v", row, err)
		}
		n.main.Movable = nil // its program keeps it from now on
		for range 8 {
			w.second()
		}
		if len(n.plans) != 2 || n.plans[1].Move != nil || handedOver(t, n.plans[1]).MainOffload != nil {
			t.Errorf("%d plans, %+v", len(n.plans), n.plans[1:])
		}
	}
}
