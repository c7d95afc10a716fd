package executor

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/api"
)

// askPlan is the verb plan from a process of the fill job of a user.
func (s *site) askPlan(t *testing.T, uid uint32) (answer, text string) {
	t.Helper()
	s.node.mu.Lock()
	r, files, err := s.node.openPlan(peer{fill: 7, uid: uid})
	s.node.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		return string(r.encode()), ""
	}
	defer func() { _ = files[0].Close() }()
	data, err := io.ReadAll(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := files[0].WriteAt([]byte("x"), 0); err == nil {
		t.Error("a plan can be written by who it is handed to")
	}
	seals, err := unix.FcntlInt(files[0].Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&planSeals != planSeals {
		t.Errorf("seals %#x, %v", seals, err)
	}
	return string(r.encode()), string(data)
}

// A plan comes with the orders, is told back, and is the fill job's to read:
// before and after the daemon's restart, and when another one follows.
func TestDaemon_HandsAPlanToItsFillJob(t *testing.T) {
	s := newSite(t)
	s.fillRuns(t, "sleep 60")
	if answer, _ := s.askPlan(t, 0); answer != "none\n" {
		t.Errorf("without a plan: %q", answer)
	}
	hand := func(id uint64, text string) {
		t.Helper()
		s.order(func(o *api.NodeOrders) { o.Plans = []api.Plan{{Assignment: 7, ID: id, Text: []byte(text)}} })
		within(t, 5*time.Second, "the plan to be told back", func() bool { return s.assignment().Plan == id })
	}
	control := func() uint64 {
		s.node.mu.Lock()
		defer s.node.mu.Unlock()
		return s.node.fills[7].devices[0].control.at.Plan.Load()
	}
	for id, text := range map[uint64]string{11: `{"version":1}`, 12: `{"version":2}`} {
		hand(id, text)
		answer, got := s.askPlan(t, 0)
		if got != text || answer != map[uint64]string{11: "ok\nplan=11\n", 12: "ok\nplan=12\n"}[id] || control() != id {
			t.Errorf("plan %d: %q, %q, its page says %d", id, answer, got, control())
		}
	}
	if answer, text := s.askPlan(t, 4711); answer != "none\n" || text != "" {
		t.Errorf("a stranger gets %q, %q", answer, text)
	}

	hand(13, `{"version":3}`)
	page := s.node.fills[7].page.at
	page.PlanAt.Store(5<<32 | 9)
	page.Plan.Store(12)
	s.node.changed()
	hand(14, `{"version":4}`)
	if at := s.assignment().At; at != (api.PlanPosition{}) {
		t.Errorf("a position in the plan before counts: %+v", at)
	}
	page.Plan.Store(14)
	s.node.changed()
	within(t, 5*time.Second, "the position", func() bool { return s.assignment().At == api.PlanPosition{Plan: 14, Config: 5, Op: 9} })

	// What is too long is not taken, and not asked for again.
	s.order(func(o *api.NodeOrders) {
		o.Plans = []api.Plan{{Assignment: 7, ID: 15, Text: append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, api.MaxPlan)...), '"')}}
	})
	within(t, 5*time.Second, "the plan to be passed over", func() bool { return s.assignment().Plan == 15 })
	if _, text := s.askPlan(t, 0); text != `{"version":4}` || control() != 14 {
		t.Errorf("the one before is gone: %q, its page says %d", text, control())
	}

	s.stop()
	s.order(func(o *api.NodeOrders) { o.Plans = nil })
	s.start(t)
	within(t, 5*time.Second, "the assignment to be known again", func() bool { return s.assignment().ID == 7 })
	if answer, _ := s.askPlan(t, 0); answer != "none\n" {
		t.Errorf("after a restart: %q", answer)
	}
	hand(14, `{"version":4}`)
	if _, text := s.askPlan(t, 0); text != `{"version":4}` {
		t.Errorf("after a restart: %q", text)
	}
	s.order(func(o *api.NodeOrders) { o.Assignments, o.Plans = nil, nil })
	s.awaitEnd(t, pipefill.OutcomeCancelled)
}
