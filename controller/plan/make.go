package plan

import (
	"cmp"
	"slices"

	"pipefill"
)

// Options are what Make may use besides, and may not.
type Options struct {
	SingleOnly bool        // one configuration a job: for programs that cannot change theirs
	MainState  []MainState // what the main job could move to the host over some bubbles
}

// Make returns the best plan of all forms for the jobs ps on a device with the
// bubble cycle c: one configuration or a mix for each job, each bubble for one
// job, and main state moved away where that pays for itself. Several jobs'
// samples are weighed by the time that they take on an idle device.
func Make(c pipefill.BubbleCycle, ps []Profile, o Options) (Plan, error) {
	if err := checkAll(c, ps, o); err != nil {
		return Plan{}, err
	}
	made, useful, ok := form(c, ps, offered(c), o)
	if len(o.MainState) > 0 {
		bubbles, away := offloaded(offered(c), c.IterationNs, o.MainState,
			func(b []pipefill.Bubble) float64 { return valueOf(ps, b, alwaysFree(c)) },
			func(b []pipefill.Bubble) float64 { return boundOf(ps, b, alwaysFree(c)) })
		if other, more, fits := form(c, ps, bubbles, o); fits && away != nil && more > useful {
			made, ok = other, true
			made.MainOffload = away
		}
	}
	if !ok {
		return Plan{}, cannotFit(ps, c)
	}
	return made, nil
}

// form is the best plan for some bubbles of c, and its useful nanoseconds a cycle.
func form(c pipefill.BubbleCycle, ps []Profile, bubbles []pipefill.Bubble, o Options) (p Plan, useful float64, ok bool) {
	if len(ps) == 1 {
		b := one(&ps[0], bubbles, alwaysFree(c), o)
		if b == nil {
			return Plan{}, 0, false
		}
		return makePlan(c, b.rate.float(), b.period, []string{ps[0].Name}, b.chunks), b.rate.float() * worth(&ps[0]), true
	}
	d := shared(ps, bubbles, alwaysFree(c), o)
	if d == nil {
		return Plan{}, 0, false
	}
	return d.plan(c, ps), d.worth, true
}

func checkAll(c pipefill.BubbleCycle, ps []Profile, o Options) error {
	if len(ps) == 0 {
		return pipefill.Errorf(pipefill.CodeInvalid, "plan: there is no profile")
	}
	for i := range ps {
		if err := check(c, &ps[i]); err != nil {
			return err
		}
		if slices.ContainsFunc(ps[:i], func(p Profile) bool { return p.Name == ps[i].Name }) {
			return pipefill.Errorf(pipefill.CodeInvalid, "plan: two profiles are named %q: rename one", ps[i].Name)
		}
	}
	for i, s := range o.MainState {
		if slices.ContainsFunc(o.MainState[:i], func(x MainState) bool { return x.Name == s.Name }) {
			return pipefill.Errorf(pipefill.CodeInvalid, "plan: two parts of the main job's state are named %q: rename one", s.Name)
		}
		if outside(s.Bytes) || outside(s.OutNs) || outside(s.InNs) {
			return pipefill.Errorf(pipefill.CodeInvalid, "plan: main state %q has a value that is out of its range", s.Name)
		}
	}
	return nil
}

// one is the best for one job: a single configuration, or a mix.
func one(p *Profile, bubbles []pipefill.Bubble, always int64, o Options) *best {
	b := single(p, bubbles, always)
	if b == nil || o.SingleOnly {
		return b
	}
	if m := mixed(p, bubbles, always, b); m != nil {
		return m
	}
	return b
}

// valueOf is what the best job makes of bubbles by itself, in useful nanoseconds
// a cycle.
func valueOf(ps []Profile, bubbles []pipefill.Bubble, always int64) float64 {
	value := 0.0
	for i := range ps {
		if b := single(&ps[i], bubbles, always); b != nil {
			value = max(value, b.rate.float()*worth(&ps[i]))
		}
	}
	return value
}

// boundOf is more than valueOf can be.
func boundOf(ps []Profile, bubbles []pipefill.Bubble, always int64) float64 {
	bound := 0.0
	for i := range ps {
		for k := range ps[i].Configs {
			if c := &ps[i].Configs[k]; c.staysBytes() <= always {
				bound = max(bound, newWay(c, k, bubbles).bound()*worth(&ps[i]))
			}
		}
	}
	return bound
}

// sortChunks puts chunks into the order in which they run. at is the place of
// each bubble's index in the cycle.
func sortChunks(chunks []Chunk, at map[int]int) {
	slices.SortStableFunc(chunks, func(a, b Chunk) int {
		return cmp.Or(cmp.Compare(a.Cycle, b.Cycle), cmp.Compare(at[a.Bubble], at[b.Bubble]))
	})
}
