package controller

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/reconcile"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// node is what a node last said and what it is to hold.
type node struct {
	said   api.NodeSync
	view   reconcile.Node  // of said
	slots  []schedule.Slot // of said
	seenMs int64
	orders []pipefill.Assignment
	serial int64
	news   chan struct{} // closed and made anew when its orders change
	asks   []api.RecordingAsk
}

// heardOf is what a node said, for a decision. One that was never heard since our
// own start may still call.
func (c *Controller) heardOf(name string) reconcile.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[name]; n != nil {
		return n.view
	}
	return reconcile.Node{SeenMs: c.started}
}

// viewOf is a node's word, as decisions need it.
func viewOf(s *api.NodeSync, seenMs int64) reconcile.Node {
	view := reconcile.Node{SeenMs: seenMs, Mains: s.Mains, Devices: s.Devices, Assignments: make(map[int64]api.NodeAssignment, len(s.Assignments))}
	for _, a := range s.Assignments {
		view.Assignments[a.ID] = a
	}
	return view
}

// endsOf notes of the assignments that ended by a node's word when that was first
// heard, as the number of Slurm's last ask.
func endsOf(s *api.NodeSync, before map[int64]int64, ask int64) map[int64]int64 {
	var ends map[int64]int64
	for _, a := range s.Assignments {
		if a.State != pipefill.AssignmentEnded {
			continue
		}
		if ends == nil {
			ends = map[int64]int64{}
		}
		at, heard := before[a.ID]
		if !heard {
			at = ask
		}
		ends[a.ID] = at
	}
	return ends
}

// tell works out what nodes are to hold, and wakes their syncs where that has
// changed.
func (c *Controller) tell(names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if n := c.nodes[name]; n != nil {
			n.order(c.ordersOf(name))
		}
	}
}

func (c *Controller) ordersOf(name string) []pipefill.Assignment {
	live := c.store.LiveOn(name)
	orders := make([]pipefill.Assignment, len(live))
	for i, a := range live {
		orders[i] = a.Assignment
	}
	return orders
}

// order replaces a node's orders; it has news where they differ in what matters
// to the node: the state is the node's own to tell.
func (n *node) order(orders []pipefill.Assignment) {
	same := slices.EqualFunc(n.orders, orders, func(a, b pipefill.Assignment) bool {
		a.State, b.State = "", ""
		return a == b
	})
	if same {
		return
	}
	n.orders = orders
	n.wake()
}

// wake has a sync that is held answered.
func (n *node) wake() {
	n.serial++
	close(n.news)
	n.news = make(chan struct{})
}

// Sync takes in a node's state and answers with its orders, at once if there is
// something new for it, else after at most state.WaitMs.
func (c *Controller) Sync(ctx context.Context, state api.NodeSync) (api.NodeOrders, error) {
	if state.Node == "" {
		return api.NodeOrders{}, pipefill.Errorf(pipefill.CodeInvalid, "sync: the node has no name")
	}
	usage := c.count(&state)
	if hasEnded(&state) { // what it used counts before its end does
		<-usage.Done()
		if _, err := usage.ack(); err != nil {
			return api.NodeOrders{}, err
		}
	}
	switch err := c.hear(state); {
	case errors.Is(err, errPart):
		return api.NodeOrders{
			Serial: state.OrdersSeen, Partitions: c.cfg.Partitions, Cluster: c.cfg.Cluster, NowMs: c.now().UnixMilli(),
			TakesKept: true, Whole: true,
		}, nil
	case err != nil:
		return api.NodeOrders{}, err
	}
	if err := c.seeStarts(ctx, &state); err != nil {
		return api.NodeOrders{}, err
	}
	forget, err := c.forget(ctx, &state)
	if err != nil {
		return api.NodeOrders{}, err
	}
	wait := time.NewTimer(holdFor(c.now(), state.WaitMs))
	defer wait.Stop()
	return c.hold(ctx, &state, forget, usage, wait.C)
}

// hold answers a sync when there is something new for the node, or at the end of
// its wait. Its usage is counted by then; that it is, is news only to a node that
// has more of it.
func (c *Controller) hold(ctx context.Context, state *api.NodeSync, forget []int64, usage counting, end <-chan time.Time) (api.NodeOrders, error) {
	counted, over := usage.Done(), false
	ack := usage.before
	for {
		orders, news := c.orders(state)
		orders.UsageAck, orders.Forget = ack, forget
		if orders.Serial != state.OrdersSeen || len(forget) > 0 || orders.Refused != nil || len(orders.Plans) > 0 ||
			over && counted == nil || len(ack) > 0 && len(state.Usage) >= muchUsage {
			return orders, nil
		}
		select {
		case <-news:
		case <-counted:
			counted = nil
			var err error
			if ack, err = usage.ack(); err != nil {
				return api.NodeOrders{}, err
			}
		case <-end:
			end, over = nil, true
		case <-ctx.Done():
			return orders, nil
		}
	}
}

const (
	// countWithinMs is how long a sync must wait for its usage to be counted with others'.
	countWithinMs = 1000
	// muchUsage is as much as a message holds, or nearly: there is more.
	muchUsage = 1000
)

// counting is the usage of a sync on its way into the database.
type counting struct {
	*store.Counting

	before map[string]int64 // up to where it was counted with an earlier sync, by ledger
}

// ack is up to where it is counted.
func (u counting) ack() (map[string]int64, error) {
	now, err := u.Result()
	for ledger, seq := range u.before {
		now[ledger] = max(now[ledger], seq)
	}
	return now, err
}

// count begins to count the usage of a sync. What was counted with an earlier one
// that was given up before it could be told so is left out.
func (c *Controller) count(state *api.NodeSync) counting {
	var out counting
	c.mu.Lock()
	last := c.counted[state.Node]
	c.mu.Unlock()
	if last != nil {
		select {
		case <-last.Done():
			out.before, _ = last.Result() // of a failure it has none
		default:
		}
	}
	rest := slices.DeleteFunc(slices.Clone(state.Usage), func(u pipefill.Usage) bool { return u.Seq <= out.before[u.Ledger] })
	// Whoever waits for the answer anyhow can be counted together with others.
	out.Counting = c.store.CountUsage(state.Node, rest, state.WaitMs < countWithinMs || hasEnded(state))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counted[state.Node] = out.Counting
	return out
}

// hasEnded tells whether a node says of an assignment that it has ended.
func hasEnded(s *api.NodeSync) bool {
	return slices.ContainsFunc(s.Assignments, func(a api.NodeAssignment) bool { return a.State == pipefill.AssignmentEnded })
}

// holdsEnd is when holds end: at multiples of it. A thousand nodes' one by one wake
// the daemon for each, and find it cold; of those that end together all but the
// first are nearly free of that, and so are the syncs that follow.
const holdsEnd = 200 * time.Millisecond

// holdFor is how long a sync is held that may wait for so long.
func holdFor(now time.Time, waitMs int64) time.Duration {
	most := time.Duration(min(max(waitMs, 0), 60_000)) * time.Millisecond
	if least := now.Add(most).Truncate(holdsEnd).Sub(now); least > 0 {
		return least
	}
	return most
}

// errPart is the answer to a sync that leaves out what was never heard.
var errPart = errors.New("a bubble cycle is left out that is not known")

// restore puts the cycles into a sync that were left out, from the one before, and
// returns what slots they made there; false: they are not known.
func restore(n *node, s *api.NodeSync) (kept map[pipefill.DeviceID]schedule.Slot, ok bool) {
	for i := range s.Mains {
		m := &s.Mains[i]
		if !m.CycleKept {
			continue
		}
		if n == nil || n.said.Run != s.Run {
			return nil, false
		}
		old := slices.IndexFunc(n.said.Mains, func(x api.MainDevice) bool { return x.Device == m.Device && x.Job == m.Job })
		if old < 0 {
			return nil, false
		}
		m.Cycle, m.CycleKept = n.said.Mains[old].Cycle, false
		for _, slot := range n.slots {
			if slot.Device == m.Device && slot.Main == m.Job {
				if kept == nil {
					kept = make(map[pipefill.DeviceID]schedule.Slot, len(s.Mains))
				}
				kept[m.Device] = slot
			}
		}
	}
	return kept, true
}

// hear remembers a node's state; the loop looks at once where it is news.
func (c *Controller) hear(state api.NodeSync) error {
	now := c.now()
	state.Usage = nil
	c.mu.Lock()
	n, known := c.nodes[state.Node]
	if known && state.Run == n.said.Run && state.Seq < n.said.Seq {
		c.mu.Unlock()
		return pipefill.Errorf(pipefill.CodeConflict, "sync %d of node %s came after sync %d: it is not heard", state.Seq, state.Node, n.said.Seq)
	}
	kept, ok := restore(n, &state)
	if !ok {
		c.mu.Unlock()
		return errPart
	}
	view, slots := viewOf(&state, now.UnixMilli()), slotsOf(&state, kept)
	if !known {
		n = &node{orders: c.ordersOf(state.Node), serial: now.UnixMilli(), news: make(chan struct{})}
		c.nodes[state.Node] = n
	}
	news := !known || state.WantsJob != nil || !sameNews(&n.said, &state)
	if left := mainsThatLeft(&n.said, &state); len(left) > 0 {
		c.left = append(c.left, store.NodeMains{Node: state.Node, Run: n.said.Run, Mains: left})
	}
	view.Ends = endsOf(&state, n.view.Ends, c.mirror.asks.Load())
	moved := !slices.Equal(n.slots, slots)
	n.said, n.seenMs, n.view, n.slots = state, now.UnixMilli(), view, slots
	c.mu.Unlock()
	if moved {
		c.moved.add(state.Node)
	}
	if !news {
		return nil
	}
	for _, a := range c.store.LiveOn(state.Node) {
		c.dirty.add(a.Job.JobID)
	}
	c.Kick()
	return nil
}

// saveTotals writes what main jobs' devices have done, of all nodes together:
// now and then, and at once where one has left.
func (c *Controller) saveTotals(ctx context.Context) error {
	now := c.now()
	c.mu.Lock()
	totals := c.left
	c.left = nil
	if len(totals) == 0 && now.Sub(c.savedAt) < totalsEvery+time.Duration(len(c.nodes))*totalsMore {
		c.mu.Unlock()
		return nil
	}
	left := len(totals)
	for name, n := range c.nodes {
		if n.seenMs >= c.savedAt.UnixMilli() && len(n.said.Mains) > 0 {
			totals = append(totals, store.NodeMains{Node: name, Run: n.said.Run, Mains: n.said.Mains})
		}
	}
	c.mu.Unlock()
	if err := c.store.SeeMains(ctx, totals, c.owners(totals), now.UnixMilli()); err != nil {
		c.mu.Lock()
		c.left = append(c.left, totals[:left]...)
		c.mu.Unlock()
		return err
	}
	c.savedAt = now
	return nil
}

// sameNews tells whether nothing changed that a decision rests on.
func sameNews(a, b *api.NodeSync) bool {
	if slices.EqualFunc(a.Mains, b.Mains, func(x, y api.MainDevice) bool {
		return x.Job == y.Job && x.Device == y.Device && x.Enabled == y.Enabled
	}) &&
		slices.EqualFunc(a.Assignments, b.Assignments, func(x, y api.NodeAssignment) bool { return x.ID == y.ID && x.State == y.State }) {
		return true
	}
	type main struct {
		job     pipefill.JobKey
		device  pipefill.DeviceID
		enabled bool
	}
	mains := func(s *api.NodeSync) map[main]bool {
		out := map[main]bool{}
		for _, m := range s.Mains {
			out[main{m.Job, m.Device, m.Enabled}] = true
		}
		return out
	}
	states := func(s *api.NodeSync) map[int64]pipefill.AssignmentState {
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
func mainsThatLeft(before, after *api.NodeSync) []api.MainDevice {
	var left []api.MainDevice
	same := func(a, b *api.MainDevice) bool { return a.Job == b.Job && a.Device == b.Device }
	for i := range before.Mains {
		m := &before.Mains[i]
		if i < len(after.Mains) && same(m, &after.Mains[i]) {
			continue // as always
		}
		if !slices.ContainsFunc(after.Mains, func(x api.MainDevice) bool { return same(m, &x) }) {
			left = append(left, *m)
		}
	}
	return left
}

// seeStarts counts what a node has let start that was given up here before it did:
// a job that may start once is then not given another slot.
func (c *Controller) seeStarts(ctx context.Context, state *api.NodeSync) error {
	ids, err := c.endedHere(ctx, state, func(s pipefill.AssignmentState) bool {
		return s == pipefill.AssignmentAttached || s == pipefill.AssignmentRunning || s == pipefill.AssignmentEnded
	})
	if err != nil {
		return err
	}
	return c.store.SeeStarted(ctx, ids, c.now().UnixMilli())
}

// forget lists the node's assignments that ended here too.
func (c *Controller) forget(ctx context.Context, state *api.NodeSync) ([]int64, error) {
	return c.endedHere(ctx, state, func(s pipefill.AssignmentState) bool { return s == pipefill.AssignmentEnded })
}

// endedHere lists the assignments that have ended here, of those of which the node
// says a state that is wanted.
func (c *Controller) endedHere(ctx context.Context, state *api.NodeSync, wanted func(pipefill.AssignmentState) bool) ([]int64, error) {
	var ids []int64
	for _, a := range state.Assignments {
		if wanted(a.State) {
			ids = append(ids, a.ID)
		}
	}
	ended, err := c.store.Ended(ctx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(id int64) bool { return !ended[id] }), nil
}

// orders is the answer for a node now, and a channel that closes when it may
// change.
func (c *Controller) orders(state *api.NodeSync) (api.NodeOrders, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[state.Node]
	orders := api.NodeOrders{
		Serial: n.serial, Assignments: n.orders, Partitions: c.cfg.Partitions, Cluster: c.cfg.Cluster, NowMs: c.now().UnixMilli(),
		Recordings: slices.Clone(n.asks), TakesKept: true,
	}
	if want := state.WantsJob; want != nil && !slices.ContainsFunc(n.orders, func(a pipefill.Assignment) bool { return a.Job.JobID == want.JobID }) {
		orders.Refused = want
	}
	orders.Plans = c.plansFor(state)
	return orders, n.news
}
