package controller

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/reconcile"
	"pipefill/controller/store"
)

// totalsEvery bounds how often a main device's totals are written to disk.
const totalsEvery = 5 * time.Second

// node is what a node last said and what it is to hold.
type node struct {
	said   api.NodeSync
	seenMs int64
	saved  time.Time // when its totals were last written
	orders []pipefill.Assignment
	serial int64
	digest string // of orders, to see a change
}

// heard copies what the nodes said, for a decision.
func (c *Controller) heard() map[string]reconcile.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]reconcile.Node, len(c.nodes))
	for name, n := range c.nodes {
		view := reconcile.Node{SeenMs: n.seenMs, Mains: n.said.Mains, Devices: n.said.Devices, Assignments: map[int64]api.NodeAssignment{}}
		for _, a := range n.said.Assignments {
			view.Assignments[a.ID] = a
		}
		out[name] = view
	}
	return out
}

// tell works out what each node is to hold, and wakes the syncs that wait.
func (c *Controller) tell(ctx context.Context) error {
	live, err := c.store.Live(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for name, n := range c.nodes {
		changed = n.order(ordersOf(name, live)) || changed
	}
	if changed {
		close(c.news)
		c.news = make(chan struct{})
	}
	return nil
}

func ordersOf(name string, live []store.Assignment) []pipefill.Assignment {
	orders := []pipefill.Assignment{}
	for _, a := range live {
		if a.Node == name {
			orders = append(orders, a.Assignment)
		}
	}
	return orders
}

// order replaces a node's orders and tells whether they differ in what matters
// to the node; the state is the node's own to tell.
func (n *node) order(orders []pipefill.Assignment) bool {
	plain := slices.Clone(orders)
	for i := range plain {
		plain[i].State = ""
	}
	digest, err := json.Marshal(plain)
	if err != nil || string(digest) == n.digest {
		return false
	}
	n.orders, n.digest = orders, string(digest)
	n.serial++
	return true
}

// Sync takes in a node's state and answers with its orders, at once if there is
// something new for it, else after at most state.WaitMs.
func (c *Controller) Sync(ctx context.Context, state api.NodeSync) (api.NodeOrders, error) {
	if state.Node == "" {
		return api.NodeOrders{}, pipefill.Errorf(pipefill.CodeInvalid, "sync: the node has no name")
	}
	ack, err := c.store.TakeUsage(ctx, state.Node, state.Usage)
	if err != nil {
		return api.NodeOrders{}, err
	}
	if err := c.hear(ctx, state); err != nil {
		return api.NodeOrders{}, err
	}
	forget, err := c.forget(ctx, state)
	if err != nil {
		return api.NodeOrders{}, err
	}
	wait := time.NewTimer(time.Duration(min(max(state.WaitMs, 0), 60_000)) * time.Millisecond)
	defer wait.Stop()
	for {
		orders, news := c.orders(state)
		orders.UsageAck, orders.Forget = ack, forget
		if orders.Serial != state.OrdersSeen || len(ack) > 0 || len(forget) > 0 || orders.Refused != nil {
			return orders, nil
		}
		select {
		case <-news:
		case <-wait.C:
			orders, _ = c.orders(state)
			return orders, nil
		case <-ctx.Done():
			return orders, nil
		}
	}
}

// hear remembers a node's state; the loop looks at once where it is news.
func (c *Controller) hear(ctx context.Context, state api.NodeSync) error {
	now := c.now()
	c.mu.Lock()
	n, known := c.nodes[state.Node]
	if known && state.Run == n.said.Run && state.Seq < n.said.Seq {
		c.mu.Unlock()
		return pipefill.Errorf(pipefill.CodeConflict, "sync %d of node %s came after sync %d: it is not heard", state.Seq, state.Node, n.said.Seq)
	}
	if !known {
		n = &node{orders: []pipefill.Assignment{}, serial: now.UnixMilli()}
		c.nodes[state.Node] = n
	}
	news := !known || state.WantsJob != nil || !sameNews(n.said, state)
	ended := mainsThatLeft(n.said, state)
	save := news || now.Sub(n.saved) > totalsEvery
	state.Usage = nil
	n.said, n.seenMs = state, now.UnixMilli()
	if save {
		n.saved = now
	}
	c.mu.Unlock()
	if !known {
		if err := c.tell(ctx); err != nil {
			return err
		}
	}
	if news {
		c.Kick()
	}
	if !save {
		return nil
	}
	mains := append(slices.Clone(state.Mains), ended...)
	return c.store.SeeMains(ctx, state.Node, state.Run, mains, c.owners(mains), now.UnixMilli())
}

// sameNews tells whether nothing changed that a decision rests on.
func sameNews(a, b api.NodeSync) bool {
	type main struct {
		job     pipefill.JobKey
		device  pipefill.DeviceID
		enabled bool
	}
	mains := func(s api.NodeSync) map[main]bool {
		out := map[main]bool{}
		for _, m := range s.Mains {
			out[main{m.Job, m.Device, m.Enabled}] = true
		}
		return out
	}
	states := func(s api.NodeSync) map[int64]pipefill.AssignmentState {
		out := map[int64]pipefill.AssignmentState{}
		for _, x := range s.Assignments {
			out[x.ID] = x.State
		}
		return out
	}
	return maps.Equal(mains(a), mains(b)) && maps.Equal(states(a), states(b))
}

// mainsThatLeft are the main devices of before that are gone now: their last
// totals are the final ones.
func mainsThatLeft(before, after api.NodeSync) []api.MainDevice {
	var left []api.MainDevice
	for _, m := range before.Mains {
		if !slices.ContainsFunc(after.Mains, func(x api.MainDevice) bool { return x.Job == m.Job && x.Device == m.Device }) {
			left = append(left, m)
		}
	}
	return left
}

// forget lists the node's assignments that ended here too.
func (c *Controller) forget(ctx context.Context, state api.NodeSync) ([]int64, error) {
	var ids []int64
	for _, a := range state.Assignments {
		if a.State == pipefill.AssignmentEnded {
			ids = append(ids, a.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	ended, err := c.store.Ended(ctx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(id int64) bool { return !ended[id] }), nil
}

// orders is the answer for a node now, and a channel that closes when it may
// change.
func (c *Controller) orders(state api.NodeSync) (api.NodeOrders, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[state.Node]
	orders := api.NodeOrders{
		Serial: n.serial, Assignments: n.orders, Partitions: c.cfg.Partitions, Cluster: c.cfg.Cluster, NowMs: c.now().UnixMilli(),
	}
	if want := state.WantsJob; want != nil && !slices.ContainsFunc(n.orders, func(a pipefill.Assignment) bool { return a.Job.JobID == want.JobID }) {
		orders.Refused = want
	}
	return orders, c.news
}
