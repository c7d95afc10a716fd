package plan

import (
	"slices"

	"pipefill"
)

// Options are what Make may use besides, and may not.
type Options struct {
	SingleOnly bool // one configuration only: the mode of programs that cannot change theirs
}

// Make returns the best plan of all forms for the jobs ps on a device with the
// bubble cycle c.
func Make(c pipefill.BubbleCycle, ps []Profile, o Options) (Plan, error) {
	if len(ps) == 0 {
		return Plan{}, pipefill.Errorf(pipefill.CodeInvalid, "plan: there is no profile")
	}
	for i := range ps {
		if err := check(c, &ps[i]); err != nil {
			return Plan{}, err
		}
		if slices.ContainsFunc(ps[:i], func(p Profile) bool { return p.Name == ps[i].Name }) {
			return Plan{}, pipefill.Errorf(pipefill.CodeInvalid, "plan: two profiles are named %q: rename one", ps[i].Name)
		}
	}
	b := one(&ps[0], offered(c), alwaysFree(c), o)
	if b == nil {
		return Plan{}, cannotFit(ps, c)
	}
	return makePlan(c, b.rate.float(), b.period, []string{ps[0].Name}, b.chunks), nil
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
