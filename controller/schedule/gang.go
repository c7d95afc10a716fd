package schedule

import (
	"cmp"
	"fmt"
	"slices"
)

// A job that needs several slots at once, a gang, gets them on one node from one
// main job, of those whose bubbles coincide. When it is its turn and they are not all free, the node where they
// will be soonest is kept for it: what of it is free goes only to jobs that end,
// at the latest, before then (EASY backfill, as in Lifka's scheduler for the
// ANL/IBM SP). One gang a round has slots kept; it thus starts as soon as the
// jobs end that run there when its turn comes.

// gang is a gang in a round.
type gang struct {
	i     int32
	x     *index
	score [1 + maxLevels]float64
	done  bool
}

// maxGangs bounds how many are looked at in a round: those first by tier, then
// by age.
const maxGangs = 64

// host is the slots of one main job on one node whose bubbles coincide.
type host struct {
	hostKey
	seats []seat
}

// tooFew tells why no host has what a gang needs, of the slots that suit it; ""
// where one has.
func tooFew(devices int, suits []Slot) string {
	together, apart := map[hostKey]int{}, map[hostKey]int{}
	most, mostApart := 0, 0
	for i := range suits {
		k := hostOf(&suits[i])
		together[k]++
		most = max(most, together[k])
		k.peers = 0
		apart[k]++
		mostApart = max(mostApart, apart[k])
	}
	switch {
	case devices <= 1 || most >= devices:
		return ""
	case mostApart >= devices:
		return fmt.Sprintf("asks for %d devices at once; no main job's bubbles coincide on more than %d of those of one node that suit it", devices, most)
	}
	return fmt.Sprintf("asks for %d devices at once; no main job has more than %d on one node that suit it", devices, mostApart)
}

// seat is a slot, free or not. lane is nil where it is taken.
type seat struct {
	slot   Slot
	freeMs float64
	lane   *lane
	at     int
}

// gather lists the gangs with their scores.
func (r *round) gather() {
	s := r.s
	s.gangs = slices.DeleteFunc(s.gangs, func(i int32) bool { return s.gone[i] })
	if len(s.gangs) == 0 {
		return
	}
	slices.SortFunc(s.gangs, func(a, b int32) int {
		if c := cmp.Compare(s.tier[b], s.tier[a]); c != 0 || a == b {
			return c
		}
		if s.first(a, b) {
			return -1
		}
		return 1
	})
	r.hosts = r.seated()
	for _, i := range s.gangs[:min(len(s.gangs), maxGangs)] {
		if seats := r.seats(i); seats != nil {
			g := &gang{i: i, x: s.indexOf(&seats[0].slot, r.nowMs)}
			s.now(g.x.table, i, r.nowMs, &g.score)
			r.gangs = append(r.gangs, g)
		}
	}
}

// hostKey names a host.
type hostKey struct {
	node  string
	main  int64
	peers int
}

func hostOf(s *Slot) hostKey { return hostKey{s.Node, s.Main.JobID, s.Peers} }

// seated sorts all slots by host.
func (r *round) seated() []host {
	byKey := map[hostKey]int{}
	var hosts []host
	add := func(x seat) {
		k := hostOf(&x.slot)
		n, ok := byKey[k]
		if !ok {
			n = len(hosts)
			byKey[k] = n
			hosts = append(hosts, host{hostKey: k})
		}
		hosts[n].seats = append(hosts[n].seats, x)
	}
	for _, l := range r.lanes {
		for at := range l.slots {
			add(seat{slot: l.slots[at], freeMs: r.nowMs, lane: l, at: at})
		}
	}
	for _, b := range r.s.taken {
		if b.UntilMs > 0 {
			add(seat{slot: b.Slot, freeMs: max(float64(b.UntilMs), r.nowMs+1)})
		}
	}
	for _, h := range hosts {
		slices.SortFunc(h.seats, func(a, b seat) int { return cmp.Or(cmp.Compare(a.freeMs, b.freeMs), byPlace(a.slot, b.slot)) })
	}
	slices.SortFunc(hosts, func(a, b host) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.main, b.main), cmp.Compare(a.peers, b.peers))
	})
	return hosts
}

// seats returns the slots that a gang could have soonest; nil: nowhere.
func (r *round) seats(i int32) []seat {
	s, need := r.s, int(r.s.devices[i])
	var best []seat
	for _, h := range r.hosts {
		var fit []seat
		for _, x := range h.seats {
			if len(fit) == need || best != nil && x.freeMs >= best[need-1].freeMs {
				break
			}
			if x.lane != nil && x.lane.taken[x.at] {
				continue
			}
			slot := x.slot
			if s.fits(s.indexOf(&slot, r.nowMs), s.shape[i]) && !s.vetoed(i, &slot) {
				fit = append(fit, x)
			}
		}
		if len(fit) == need {
			best = fit
		}
	}
	return best
}

// firstGang returns the gang with the highest score; nil: none is left.
func (r *round) firstGang() *gang {
	var best *gang
	for _, g := range r.gangs {
		if !g.done && (best == nil || r.aheadOf(g.score, best.score, g.i, best.i, g.x.stride)) {
			best = g
		}
	}
	return best
}

func (r *round) aheadOf(a, b [1 + maxLevels]float64, i, k int32, stride int) bool {
	if c := slices.Compare(a[:stride], b[:stride]); c != 0 {
		return c > 0
	}
	return r.s.first(i, k)
}

// seat gives a gang its slots, or keeps for it those that are free.
func (r *round) seat(g *gang) {
	g.done = true
	s := r.s
	seats := r.seats(g.i)
	if seats == nil || s.full(s.group[g.i], len(seats)) {
		return
	}
	start := seats[len(seats)-1].freeMs
	if start > r.nowMs {
		if r.kept == nil {
			for _, x := range seats {
				if x.lane != nil {
					x.lane.take(x.at)
					r.kept = append(r.kept, x.slot)
				}
			}
			r.keptUntil = start
		}
		return
	}
	f := s.facts(g.i)
	time := 0.0
	for _, x := range seats { // as slow as the slowest
		time = max(time, s.timeOn(&x.slot, &f))
	}
	s.drop(g.i)
	delete(s.places, f.job.ID)
	for _, x := range seats {
		x.lane.take(x.at)
		r.give(&f, x.slot, time)
	}
	r.check()
}

// backfill puts jobs that end in time on what is kept for a gang.
func (r *round) backfill() {
	s := r.s
	for _, slot := range r.kept {
		x := s.indexOf(&slot, r.nowMs)
		s.exact(x.table)
		window := (r.keptUntil - r.nowMs) / 1000
		i := s.scan(x, &slot, func(i int32) bool { f := s.facts(i); return s.worstOn(&slot, &f) <= window })
		if i < 0 {
			continue
		}
		f := s.facts(i)
		s.drop(i)
		delete(s.places, f.job.ID)
		r.give(&f, slot, s.timeOn(&slot, &f))
	}
	r.kept = nil
}

// worstOn is the longest that a job can have a slot, in seconds: its limit means
// device time. Without one it is what is expected.
func (s *Scheduler) worstOn(slot *Slot, f *facts) float64 {
	if f.job.LimitMs <= 0 {
		return s.timeOn(slot, f)
	}
	limit := *f
	limit.ownWorkS = max(float64(f.job.LimitMs)/1000, f.ownWorkS)
	return s.timeOn(slot, &limit)
}
