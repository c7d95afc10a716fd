package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/munge"
)

// fleet is the node daemons of a cluster, as the controller knows them: each
// sends its whole state and holds what it is told to.
type fleet struct {
	controller, munge string
	every             time.Duration // between reports
	devices           int
	nodes             []*fleetNode
	reports           atomic.Int64
	failures          atomic.Int64
	orders            chan ordered
}

// ordered is a new assignment, as it reached its node.
type ordered struct {
	node string
	at   time.Time
}

type fleetNode struct {
	mu      sync.Mutex
	name    string
	seq     int64
	seen    int64
	mains   []api.MainDevice
	held    map[int64]*api.NodeAssignment
	usage   []pipefill.Usage
	records int64
	charged time.Time
	told    time.Time
	poke    chan struct{}
}

// bubblesOf is how many bubbles a device's cycle has.
const bubblesOf = 32

func newFleet(controller, mungeSocket string, nodes, devices int, every time.Duration) *fleet {
	f := &fleet{controller: controller, munge: mungeSocket, every: every, devices: devices, orders: make(chan ordered, nodes*devices)}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range nodes {
		n := &fleetNode{name: fmt.Sprintf("n%04d", i), held: map[int64]*api.NodeAssignment{}, poke: make(chan struct{}, 1)}
		for d := range devices {
			m := api.MainDevice{
				Job: pipefill.JobKey{Cluster: "big", JobID: int64(10_000_000 + i/16), SubmitMs: 1}, UID: 0, Device: pipefill.DeviceID(fmt.Sprintf("cpu:%d", d)),
				Stage: i % 16, Options: "budget=1%", StartedMs: 1, Enabled: true,
				Cycle: pipefill.BubbleCycle{Version: 1, IterationNs: 4e9},
			}
			for b := range bubblesOf {
				m.Cycle.Bubbles = append(m.Cycle.Bubbles, pipefill.Bubble{
					Index: b, Kind: "fwd-bwd", StartNs: int64(b) * 1e8, DurationNs: 3e7 + rng.Int64N(1e6), FreeBytes: 8<<30 + rng.Int64N(1<<20),
				})
			}
			n.mains = append(n.mains, m)
		}
		f.nodes = append(f.nodes, n)
	}
	return f
}

// run reports for every node until ctx ends.
func (f *fleet) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for i, n := range f.nodes {
		client, err := api.NewNodeClient(f.controller, munge.New(f.munge))
		if err != nil {
			return err
		}
		wg.Go(func() {
			// As nodes that were not started all at once.
			wait(ctx, f.every*time.Duration(i)/time.Duration(len(f.nodes)), nil)
			for ctx.Err() == nil {
				f.report(ctx, client, n)
			}
		})
	}
	wg.Wait()
	return nil
}

func wait(ctx context.Context, d time.Duration, poke <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-poke:
	}
}

func (f *fleet) report(ctx context.Context, client *api.Client, n *fleetNode) {
	call, cancel := context.WithTimeout(ctx, f.every+20*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { // as the daemon: news cut the wait short
		select {
		case <-done:
		case <-call.Done():
		case <-n.poke:
			select {
			case <-done:
			case <-time.After(100 * time.Millisecond):
				cancel()
			}
		}
	}()
	state := n.state(f.every)
	orders, err := client.Sync(call, state)
	close(done)
	switch {
	case err == nil && orders.Whole:
		n.tell(time.Time{})
	case err == nil:
		if !orders.TakesKept {
			n.tell(time.Time{})
		} else if len(state.Mains) > 0 && !state.Mains[0].CycleKept {
			n.tell(time.Now())
		}
		f.reports.Add(1)
		f.obey(n, orders)
	case ctx.Err() == nil && call.Err() == nil:
		f.failures.Add(1)
		wait(ctx, 200*time.Millisecond, nil)
	}
}

// chargeEvery and cycleEvery are as in the node daemon; no cycle changes by more
// than a little.
const (
	chargeEvery = 30 * time.Second
	cycleEvery  = 5 * time.Minute
)

func (n *fleetNode) state(every time.Duration) api.NodeSync {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	n.seq++
	whole := now.Sub(n.told) >= cycleEvery
	s := api.NodeSync{
		Node: n.name, Version: pipefill.Version(), Run: 1, Seq: n.seq, WaitMs: every.Milliseconds(), OrdersSeen: n.seen,
		Devices: []api.NodeDevice{}, Assignments: []api.NodeAssignment{}, Faults: []string{},
	}
	due := now.Sub(n.charged) > chargeEvery
	if due {
		n.charged = now
	}
	for i := range n.mains {
		m := &n.mains[i]
		m.Totals.Iterations++
		m.Totals.BubbleNs += 1e9
		s.Devices = append(s.Devices, api.NodeDevice{Device: m.Device})
		s.Mains = append(s.Mains, *m)
		if !whole {
			last := &s.Mains[i]
			last.Cycle, last.CycleKept = pipefill.BubbleCycle{}, true
		}
	}
	for _, a := range n.held {
		s.Assignments = append(s.Assignments, *a)
		if due && a.State == pipefill.AssignmentRunning {
			n.records++
			n.usage = append(n.usage, pipefill.Usage{
				Ledger: n.name, Seq: n.records, AssignmentID: a.ID, FromMs: now.Add(-chargeEvery).UnixMilli(), ToMs: now.UnixMilli(),
				DeviceNs: 1e9, CPUNs: 1e9, Openings: 100,
			})
		}
	}
	s.Usage = append([]pipefill.Usage{}, n.usage...)
	return s
}

// tell notes when the controller got the cycles.
func (n *fleetNode) tell(at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = at
}

func (f *fleet) obey(n *fleetNode, o api.NodeOrders) {
	n.mu.Lock()
	defer n.mu.Unlock()
	kept := n.usage[:0]
	for _, u := range n.usage {
		if u.Seq > o.UsageAck[u.Ledger] {
			kept = append(kept, u)
		}
	}
	n.usage = kept
	listed := map[int64]bool{}
	fresh := o.Serial != n.seen
	n.seen = o.Serial
	for _, a := range o.Assignments {
		listed[a.ID] = true
		if n.held[a.ID] == nil {
			n.held[a.ID] = &api.NodeAssignment{ID: a.ID, Job: a.Job, Device: a.Device, State: pipefill.AssignmentReserved}
			f.orders <- ordered{n.name, time.Now()}
		}
	}
	for id := range n.held {
		if !listed[id] {
			delete(n.held, id)
		}
	}
	if fresh {
		n.changed()
	}
}

func (n *fleetNode) changed() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// start lets the jobs that Slurm starts run on their nodes.
func (f *fleet) start(s started) {
	var i int
	if _, err := fmt.Sscanf(s.node, "n%d", &i); err != nil || i >= len(f.nodes) {
		return
	}
	n := f.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.held {
		if a.Job.JobID == s.id {
			a.State = pipefill.AssignmentRunning
			n.changed()
		}
	}
}

// enable turns a device of a node on or off for fill jobs.
func (n *fleetNode) enable(device int, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mains[device].Enabled = on
	n.changed()
}
