package plan

import (
	"math"
	"slices"

	"pipefill"
)

// DriftThreshold is the drift from which on a plan is made anew: less is within
// what margins take up.
const DriftThreshold = 0.1

// Drift is by how much a cycle differs from the one that was planned with: the
// largest of the relative changes of its iteration, of its bubbles' usable time
// (each bubble's change counts, also where they cancel out), and of the memory
// of each bubble that both have. 0: not at all; +Inf: there was nothing.
func Drift(planned, now pipefill.BubbleCycle) float64 {
	before, after := offered(planned), offered(now)
	sum, changed, memory := 0.0, 0.0, 0.0
	for _, b := range before {
		sum += float64(b.DurationNs)
		i := slices.IndexFunc(after, func(x pipefill.Bubble) bool { return x.Index == b.Index })
		if i < 0 {
			changed += float64(b.DurationNs)
			continue
		}
		changed += math.Abs(float64(after[i].DurationNs - b.DurationNs))
		memory = max(memory, relative(b.FreeBytes, after[i].FreeBytes))
	}
	for _, b := range after {
		if !slices.ContainsFunc(before, func(x pipefill.Bubble) bool { return x.Index == b.Index }) {
			changed += float64(b.DurationNs)
		}
	}
	if changed > 0 {
		changed /= sum
	}
	return max(changed, memory, relative(planned.IterationNs, now.IterationNs), relative(alwaysFree(planned), alwaysFree(now)))
}

func relative(before, after int64) float64 {
	if before == after {
		return 0
	}
	return math.Abs(float64(after)-float64(before)) / float64(before)
}

// Position is where a job is: the next op of a pass of a configuration. With Op
// 0 no pass has begun.
type Position struct {
	Job    string `json:"job"`
	Config int    `json:"config"`
	Op     int    `json:"op"`
}

// Revision is a plan that goes on where jobs are: LeadIn once, over LeadCycles
// cycles, then Plan again and again.
type Revision struct {
	LeadIn     []Chunk `json:"lead_in"`
	LeadCycles int     `json:"lead_cycles"`
	Plan       Plan    `json:"plan"`
}

// Replan makes the best plan for a cycle that has changed, and the way to it from
// where the jobs are at the begin of a cycle: passes that have begun are ended in
// their configuration, so that nothing that was done is lost. If one cannot be
// ended in the new cycle, that is a pipefill.CodeConflict with a *Limit. What
// passes from before leave on the device counts for their own job only.
func Replan(c pipefill.BubbleCycle, ps []Profile, at []Position, o Options) (Revision, error) {
	made, err := Make(c, ps, o)
	if err != nil {
		return Revision{}, err
	}
	r := Revision{Plan: made, LeadIn: []Chunk{}}
	var leads []*lead
	for _, job := range made.Jobs {
		l, err := newLead(c, ps, made, job, at, o.MainState)
		if err != nil {
			return Revision{}, err
		}
		if err := l.run(); err != nil {
			return Revision{}, err
		}
		leads = append(leads, l)
		r.LeadCycles = max(r.LeadCycles, l.cycle)
	}
	for _, l := range leads {
		// Who is there sooner runs whole periods while others are not.
		for l.cycle+made.PeriodCycles <= r.LeadCycles {
			l.join(0)
		}
		r.LeadIn = append(r.LeadIn, l.chunks...)
	}
	order := map[int]int{}
	for j, b := range c.Bubbles {
		order[b.Index] = j
	}
	sortChunks(r.LeadIn, order)
	return r, nil
}

// lead is one job's way to the begin of a plan's period.
type lead struct {
	profile *Profile
	bubbles []pipefill.Bubble // that are its own
	always  int64
	sole    bool    // no other job shares the device
	own     []Chunk // of the plan
	period  int
	pos     Position
	chunks  []Chunk
	cycle   int // at whose begin it is
}

func newLead(c pipefill.BubbleCycle, ps []Profile, made Plan, job string, at []Position, states []MainState) (*lead, error) {
	i := slices.IndexFunc(ps, func(p Profile) bool { return p.Name == job })
	l := &lead{profile: &ps[i], always: alwaysFree(c), sole: len(made.Jobs) == 1, period: made.PeriodCycles, pos: Position{Job: job}}
	if k := slices.IndexFunc(at, func(p Position) bool { return p.Job == job }); k >= 0 {
		l.pos = at[k]
	}
	if l.pos.Config < 0 || l.pos.Config >= len(ps[i].Configs) || l.pos.Op < 0 || l.pos.Op >= len(ps[i].Configs[l.pos.Config].Ops) {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "position of %q: config %d, op %d is not in its profile", job, l.pos.Config, l.pos.Op)
	}
	used := map[int]bool{}
	others := map[string]int64{}
	for _, k := range made.Chunks {
		if k.Job == job {
			l.own = append(l.own, k)
			used[k.Bubble] = true
			continue
		}
		other := slices.IndexFunc(ps, func(p Profile) bool { return p.Name == k.Job })
		others[k.Job] = max(others[k.Job], stays(&ps[other], []Chunk{k}))
	}
	var taken int64
	for _, bytes := range others {
		taken += bytes
	}
	l.always -= taken
	for _, b := range awayBubbles(c, made, states) {
		if l.sole || used[b.Index] {
			b.FreeBytes -= taken
			l.bubbles = append(l.bubbles, b)
		}
	}
	return l, nil
}

// run finds the way.
func (l *lead) run() error {
	config := l.own[0].Config
	single := !slices.ContainsFunc(l.own, func(k Chunk) bool { return k.Config != config })
	if l.pos.Op > 0 {
		if l.sole && single && l.pos.Config == config && l.walk(config, l.pos.Op) {
			return nil
		}
		if err := l.endPass(); err != nil {
			return err
		}
	}
	if l.sole && single && l.walk(config, 0) {
		return nil
	}
	return l.joinMidway()
}

// join runs the plan's chunks from one of its cycles to the period's end.
func (l *lead) join(from int) {
	for _, k := range l.own {
		if k.Cycle >= from {
			k.Cycle += l.cycle - from
			l.chunks = append(l.chunks, k)
		}
	}
	l.cycle += l.period - from
}

// walk goes on as the plan's configuration does by itself, until it is where the
// plan is at the begin of some cycle. It changes nothing where it never is.
func (l *lead) walk(config, op int) bool {
	states := make([]int, l.period)
	next := l.own[len(l.own)-1]
	ops := len(l.profile.Configs[config].Ops)
	state := (next.FirstOp + next.OpCount) % ops
	for cycle, i := 0, 0; cycle < l.period; cycle++ {
		states[cycle] = state
		for ; i < len(l.own) && l.own[i].Cycle == cycle; i++ {
			state = (l.own[i].FirstOp + l.own[i].OpCount) % ops
		}
	}
	w := newWay(&l.profile.Configs[config], config, l.bubbles)
	w.prepare()
	var walks walker = w
	if w.config.live() {
		s := newSearch(newCuts(w, l.always))
		s.run()
		walks = s
	}
	var chunks []Chunk
	for cycle := 0; cycle <= ops+l.period; cycle++ {
		if k := slices.Index(states, op); k >= 0 {
			l.chunks, l.cycle = append(l.chunks, chunks...), l.cycle+cycle
			if k > 0 {
				l.join(k)
			}
			return true
		}
		for _, k := range walks.emit(l.profile.Name, orbit{start: op, period: 1}) {
			op = (k.FirstOp + k.OpCount) % ops
			k.Cycle = l.cycle + cycle
			chunks = append(chunks, k)
		}
	}
	return false
}

// endPass ends the pass that has begun, as soon as its configuration can.
func (l *lead) endPass() error {
	config := &l.profile.Configs[l.pos.Config]
	c := newCuts(newWay(config, l.pos.Config, l.bubbles), l.always)
	limit := &Limit{Job: l.profile.Name, Config: l.pos.Config, Label: config.label(l.pos.Config), Op: -1}
	var way []stop
	at := l.pos.Op
	if stays := config.staysBytes(); stays > l.always {
		limit.Kind, limit.Need, limit.Have = LimitAlwaysFree, stays, max(l.always, 0)
	} else if way = l.cut(c); len(way) == 0 {
		limit = c.stuck(*limit, c.furthest(at), l.always)
	}
	if len(way) == 0 {
		return &pipefill.Error{
			Code: pipefill.CodeConflict, Err: limit,
			Message: "the pass that has begun cannot be ended: " + limit.Error() + ": wait for longer bubbles, or begin the pass again",
		}
	}
	n := len(c.bubbles)
	for _, s := range way {
		one := c.chunk(l.profile.Name, l.cycle+s.slot/n, s.slot%n, at, 0, s.ops)
		one.TimeNs += c.inNs[at] + c.outNs[(at+s.ops)%c.ops]
		l.chunks = append(l.chunks, one)
		at += s.ops
	}
	l.cycle += way[len(way)-1].slot/n + 1
	return nil
}

// stop is a chunk of so many ops in a bubble, counted on through cycles.
type stop struct{ slot, ops int }

// cut finds the chunks that end the pass soonest: bubble after bubble all ops
// that can be next; where it does not matter where a chunk ends, the furthest.
func (l *lead) cut(c *cuts) []stop {
	if !c.config.live() {
		var way []stop
		_, _, ok := c.finish(moment{}, l.pos.Op, func(slot, _, ops int) { way = append(way, stop{slot, ops}) })
		if !ok {
			return nil
		}
		return way
	}
	type step struct {
		from *step
		stop
	}
	reached := make([]*step, c.ops+1)
	reached[l.pos.Op] = &step{}
	for slot := 0; slot < len(c.bubbles)*(c.ops+1) && reached[c.ops] == nil; slot++ {
		next := slices.Clone(reached)
		for op := range c.ops {
			if reached[op] == nil {
				continue
			}
			c.each(op, slot%len(c.bubbles), func(e cut) {
				if end := op + e.ops; e.ops > 0 && end <= c.ops && next[end] == nil {
					next[end] = &step{reached[op], stop{slot, e.ops}}
				}
			})
		}
		reached = next
	}
	var way []stop
	for s := reached[c.ops]; s != nil && s.from != nil; s = s.from {
		way = append(way, s.stop)
	}
	slices.Reverse(way)
	return way
}

// furthest is where chunks from op first on get stuck, as far as fits in each.
func (c *cuts) furthest(first int) int {
	for idle := 0; idle <= len(c.bubbles); idle++ {
		for j := range c.bubbles {
			most := 0
			c.each(first, j, func(e cut) {
				if e.ops > most && first+e.ops < c.ops {
					most = e.ops
				}
			})
			if first += most; most > 0 {
				idle = 0
			}
		}
	}
	return first
}

// joinMidway begins with the first pass that the plan begins, and runs to the
// period's end.
func (l *lead) joinMidway() error {
	for i, k := range l.own {
		config := &l.profile.Configs[k.Config]
		skip := (len(config.Ops) - k.FirstOp) % len(config.Ops)
		if skip >= k.OpCount || skip > 0 && config.live() {
			continue
		}
		one := k
		for op := range skip {
			one.TimeNs -= config.Ops[k.FirstOp+op].TimeNs
		}
		one.FirstOp, one.OpCount = 0, k.OpCount-skip
		one.PeakBytes = 0
		for op := range min(one.OpCount, len(config.Ops)) {
			one.PeakBytes = max(one.PeakBytes, config.ResidentBytes+config.Ops[op].PeakBytes)
		}
		one.Cycle += l.cycle
		l.chunks = append(l.chunks, one)
		for _, later := range l.own[i+1:] {
			later.Cycle += l.cycle
			l.chunks = append(l.chunks, later)
		}
		l.cycle += l.period
		return nil
	}
	return pipefill.Errorf(pipefill.CodeConflict, "plan: no chunk of %q begins with a pass: start the plan anew", l.profile.Name)
}
