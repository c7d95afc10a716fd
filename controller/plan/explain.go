package plan

import (
	"fmt"

	"pipefill"
)

// Explain says of each configuration why it cannot run, or what it gives alone.
func Explain(p Profile, c pipefill.BubbleCycle) ([]Verdict, error) {
	if err := check(c, &p); err != nil {
		return nil, err
	}
	var out []Verdict
	for i := range p.Configs {
		v := Verdict{Job: p.Name, Config: i, Label: p.Configs[i].label(i)}
		alone := Profile{Name: p.Name, Configs: p.Configs[i : i+1]}
		if b := single(&alone, offered(c), alwaysFree(c)); b != nil {
			v.SamplesPerCycle = b.rate.float()
		} else {
			v.Limit = limitOf(p.Name, &p.Configs[i], i, c)
		}
		out = append(out, v)
	}
	return out, nil
}

// Verdict is what one configuration gives.
type Verdict struct {
	Job             string
	Config          int
	Label           string
	SamplesPerCycle float64
	Limit           *Limit // nil: it runs
}

// String is a line about the verdict.
func (v Verdict) String() string {
	if v.Limit != nil {
		return v.Limit.Error()
	}
	return fmt.Sprintf("%s of %q: %.4g samples a cycle", v.Label, v.Job, v.SamplesPerCycle)
}

// Form is one way to plan, and what it gives.
type Form struct {
	Name            string  // "single configuration of bert", "mixed configurations of bert", "shared"
	SamplesPerCycle float64 // of all jobs
	UsefulNs        float64 // a cycle: the time that these samples take on an idle device
}

// Forms says what each form of plan gives for the jobs that fit at all.
func Forms(c pipefill.BubbleCycle, ps []Profile, o Options) ([]Form, error) {
	if err := checkAll(c, ps, o); err != nil {
		return nil, err
	}
	var out []Form
	bubbles := offered(c)
	add := func(name string, p *Profile, b *best) {
		if b != nil {
			out = append(out, Form{name + " of " + p.Name, b.rate.float(), b.rate.float() * worth(p)})
		}
	}
	for i := range ps {
		alone := single(&ps[i], bubbles, alwaysFree(c))
		add("single configuration", &ps[i], alone)
		if alone != nil && !o.SingleOnly {
			add("mixed configurations", &ps[i], mixed(&ps[i], bubbles, alwaysFree(c), alone))
		}
	}
	if len(ps) > 1 {
		if d := shared(ps, bubbles, alwaysFree(c), o); d != nil {
			out = append(out, Form{"shared by bubbles", d.plan(c, ps).SamplesPerCycle, d.worth})
		}
	}
	if len(o.MainState) > 0 {
		made, err := Make(c, ps, o)
		if err == nil && made.MainOffload != nil {
			out = append(out, Form{"with main state away", made.SamplesPerCycle, UsefulNs(made, ps)})
		}
	}
	return out, nil
}

// UsefulNs is what the samples of a cycle of a plan take on an idle device, each
// job by its best configuration; of a gang, on one of its devices.
func UsefulNs(p Plan, ps []Profile) float64 {
	sum := 0.0
	for _, profile := range ps {
		for _, k := range p.Chunks {
			if k.Job == profile.Name && k.Device == 0 {
				c := &profile.Configs[k.Config]
				sum += float64((k.FirstOp+k.OpCount)/len(c.Ops)) * float64(c.BatchSize) * worth(&profile)
			}
		}
	}
	return sum / float64(p.PeriodCycles)
}
