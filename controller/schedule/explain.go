package schedule

import (
	"cmp"
	"container/heap"
	"slices"
)

// Explanation tells why a waiting job is where it is.
type Explanation struct {
	Policy string `json:"policy"`
	// Suits is how many of the slots suit it, busy ones included; where none
	// does, Why is the only thing that is said.
	Suits int    `json:"suits"`
	Slots int    `json:"slots"`
	Why   string `json:"why"`
	// Place is 1 for the next, among the jobs that suit the kind of slot that it
	// is scored highest on, Node and Device one of these.
	Place  int       `json:"place"`
	Node   string    `json:"node,omitempty"`
	Device string    `json:"device,omitempty"`
	Tier   string    `json:"tier"`
	Scores []float64 `json:"scores"`
	Values []Value   `json:"values"`
	// Source is where its expected time is from; see Expected.
	Source string `json:"source"`
	// WaitMs is how long it will wait if all goes as is expected and nothing
	// comes before it; -1: that cannot be told.
	WaitMs int64 `json:"wait_ms"`
}

// Value is an attribute of the job or the slot.
type Value struct {
	Name  string `json:"name"`
	Unit  string `json:"unit,omitempty"`
	Value any    `json:"value"`
	Used  bool   `json:"used"` // the policy looks at it
}

// Explain tells where a waiting job stands, by its ID; false: it does not wait.
// slots are all that there are, free or not. It costs about as much as a round.
func (s *Scheduler) Explain(nowMs, id int64, slots []Slot) (Explanation, bool) {
	if _, waits := s.byID[id]; !waits {
		return Explanation{}, false
	}
	s.used++
	s.age(nowMs)
	i := s.byID[id]
	now := float64(nowMs)
	e := Explanation{Policy: s.policy.Name, Slots: len(slots), WaitMs: -1, Tier: s.tierOf(i), Source: s.source[i], Why: Why(*s.job[i], slots)}
	sorted := slices.Clone(slots)
	slices.SortFunc(sorted, byPlace)
	var best *lane
	r := round{s: s, nowMs: now}
	var suits []Slot
	classes := map[indexKey]*index{}
	for _, slot := range sorted {
		key := s.indexKeyOf(&slot)
		x := classes[key]
		if x == nil {
			x = s.indexOf(&slot, now)
			classes[key] = x
		}
		if !s.fits(x, s.shape[i]) || !s.where[i].suits(slot.Node) {
			continue
		}
		suits = append(suits, slot)
		l := &lane{x: x, i: i, slots: []Slot{slot}}
		s.now(x.table, i, now, &l.score)
		if best == nil || r.ahead(l, best) {
			best = l
		}
	}
	e.Suits = len(suits)
	defer s.trim()
	if best == nil {
		return e, true
	}
	why := tooFew(int(s.devices[i]), suits)
	e.Why = cmp.Or(why, s.waitsFor(i))
	e.Node, e.Device = best.slots[0].Node, string(best.slots[0].Device)
	e.Scores = slices.Clone(best.score[1:best.x.stride])
	e.Values = s.values(best, now)
	s.exact(best.x.table)
	ahead := s.aheadOn(best.x, i)
	e.Place = len(ahead) + 1
	if why == "" {
		e.WaitMs = s.waitOf(nowMs, ahead, i, suits, &best.slots[0])
	}
	return e, true
}

func (s *Scheduler) tierOf(i int32) string {
	j := s.job[i]
	switch {
	case j.SitePriority != 0:
		return "an operator's priority"
	case j.Front:
		return "had to leave a device"
	case s.starving[i]:
		return "has waited for max_wait"
	}
	return "by the policy"
}

// waitsFor says what keeps a job that suits some slots.
func (s *Scheduler) waitsFor(i int32) string {
	g := &s.groups[s.group[i]]
	need := int(s.devices[i])
	switch {
	case s.users.full(g.userID, need):
		return "its user's jobs hold as many slots as limits allows"
	case s.accounts.full(g.accountID, need):
		return "its account's jobs hold as many slots as limits allows"
	case need > 1:
		return waitsForSeveral
	}
	return "waits for a slot that suits it"
}

// values lists the attributes.
func (s *Scheduler) values(l *lane, nowMs float64) []Value {
	t := *l.x.table
	t.slot = l.slots[0]
	s.ready(&t, nowMs, int(l.i))
	var out []Value
	for _, a := range Attributes {
		v := Value{Name: a.Name, Unit: a.Unit, Used: s.policy.looksAt(a.Name)}
		switch a.Type {
		case "string":
			v.Value = a.text(&s.batch.context, int(l.i))
		case "bool":
			v.Value = a.value(&s.batch.context, int(l.i)) != 0
		default:
			v.Value = a.value(&s.batch.context, int(l.i))
		}
		out = append(out, v)
	}
	return out
}

// aheadOn lists the jobs that a class would serve before i, in their order.
func (s *Scheduler) aheadOn(x *index, i int32) []int32 {
	var ahead []int32
	for k := range int32(s.len()) {
		if k != i && !s.gone[k] && s.before(x, k, i) && s.fits(x, s.shape[k]) {
			ahead = append(ahead, k)
		}
	}
	slices.SortFunc(ahead, func(a, b int32) int {
		if s.before(x, a, b) {
			return -1
		}
		return 1
	})
	return ahead
}

// times are when slots are free.
type times []int64

func (t times) Len() int           { return len(t) }
func (t times) Less(i, k int) bool { return t[i] < t[k] }
func (t times) Swap(i, k int)      { t[i], t[k] = t[k], t[i] }

// Push is heap's.
func (t *times) Push(any) {}

// Pop is heap's.
func (t *times) Pop() any { return nil }

// waitOf runs the jobs ahead on the slots that suit, each as long as expected.
func (s *Scheduler) waitOf(nowMs int64, ahead []int32, i int32, suits []Slot, like *Slot) int64 {
	need := int(s.devices[i])
	if len(suits) < need {
		return -1
	}
	var free times
	for _, slot := range suits {
		at := nowMs
		if k, busy := s.busy[place{slot.Node, slot.Device}]; busy {
			b := s.taken[k]
			at = max(nowMs, cmp.Or(b.ExpectMs, b.UntilMs, nowMs+unknownWork.Milliseconds()))
		}
		free = append(free, at)
	}
	heap.Init(&free)
	for _, k := range ahead {
		f := s.facts(k)
		for range int(f.devices) {
			free[0] += milliseconds(s.timeOn(like, &f))
			heap.Fix(&free, 0)
		}
	}
	slices.Sort(free)
	return free[need-1] - nowMs
}
