package simulator

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"

	"pipefill"
	"pipefill/controller/plan"
)

// class is the devices of a main job that wait alike: one stage of all its
// replicas and tensor-parallel ranks.
type class struct {
	main    int
	stage   int
	devices int
	name    string // Slot.Cycle: the same for classes whose bubbles are the same
	cycle   pipefill.BubbleCycle
	bubble  float64 // share of time in bubbles
	usable  float64 // share of time that is offered
	busy    float64 // share of time in which the main job computes
	rates   []rate  // by Fill
}

// rate is what a kind of fill job does on a device of a class.
type rate struct {
	speed  float64 // seconds of its work alone, a second; 0: it does not fit
	filled float64 // share of time in which it runs
	why    string  // why it does not fit
	plan   plan.Plan
}

// mainFigures are a main job's without regard to fill jobs.
type mainFigures struct {
	iterationNs  int64
	slowdown     float64 // of the hand-over's costs
	comm         float64 // share of an iteration in reduction and optimizer step
	pipeFraction float64 // bubbles over the pipeline's own time
}

// world is a scenario, worked out: classes and rates.
type world struct {
	s       *Scenario
	classes []class
	mains   []mainFigures
	byName  map[string]int // class by name
}

func newWorld(s *Scenario) (*world, error) {
	w := &world{s: s, byName: map[string]int{}}
	for i := range s.Mains {
		var err error
		if len(s.Mains[i].Measured) > 0 {
			w.measured(i)
		} else {
			err = w.unroll(i)
		}
		if err != nil {
			return nil, err
		}
	}
	known := map[string]int{}
	for c := range w.classes {
		own := &w.classes[c]
		key := fmt.Sprintf("%+v", own.cycle)
		if first, ok := known[key]; ok {
			own.name, own.rates = w.classes[first].name, w.classes[first].rates
			continue
		}
		known[key] = c
		w.byName[own.name] = c
		for f := range s.Fills {
			r, err := w.rateOf(own, &s.Fills[f])
			if err != nil {
				return nil, err
			}
			own.rates = append(own.rates, r)
		}
	}
	return w, nil
}

// unroll makes a class of each stage of a main job.
func (w *world) unroll(i int) error {
	m, f := &w.s.Mains[i], &w.s.Filling
	plain, err := m.Pipeline.Unroll()
	if err != nil {
		return fmt.Errorf("main job %s: %w", m.Name, err)
	}
	filled := m.Pipeline
	filled.LateNs, filled.AnnounceNs = f.LateNs, f.Announce
	u, err := filled.Unroll()
	if err != nil {
		return fmt.Errorf("main job %s: %w", m.Name, err)
	}
	w.mains = append(w.mains, mainFigures{
		iterationNs: plain.IterationNs, slowdown: float64(u.IterationNs)/float64(plain.IterationNs) - 1,
		comm:         float64(m.Pipeline.ReduceNs+m.Pipeline.OptimizerNs) / float64(plain.IterationNs),
		pipeFraction: plain.BubbleFraction(),
	})
	for s, stage := range u.Stages {
		cycle := u.Cycle(s, f.Share, f.GuardNs, f.LeastNs, f.Kinds)
		var bubble int64
		for _, b := range plain.Stages[s].Bubbles {
			bubble += b.LengthNs
		}
		w.add(class{
			main: i, stage: s, devices: share(m.Devices, len(u.Stages), s), cycle: m.adjust(cycle, f.OpenNs),
			bubble: float64(bubble) / float64(plain.IterationNs), busy: float64(stage.BusyNs) / float64(plain.IterationNs),
		})
	}
	return nil
}

// share spreads devices evenly.
func share(devices, parts, at int) int { return devices*(at+1)/parts - devices*at/parts }

// adjust takes the time to the first fill work off each bubble, and applies what
// a sensitivity study changes.
func (m *Main) adjust(c pipefill.BubbleCycle, openNs int64) pipefill.BubbleCycle {
	c.Bubbles = slices.Clone(c.Bubbles)
	for i := range c.Bubbles {
		b := &c.Bubbles[i]
		b.DurationNs = max(0, b.DurationNs-openNs)
		if m.LengthScale > 0 {
			b.DurationNs = int64(float64(b.DurationNs) * m.LengthScale)
		}
		if m.FreeBytes > 0 {
			b.FreeBytes = m.FreeBytes
		}
	}
	if m.FreeBytes > 0 {
		c.AlwaysFreeBytes = m.FreeBytes
	}
	if m.LengthScale > 0 {
		c.IterationNs = int64(float64(c.IterationNs) * m.LengthScale)
	}
	return c
}

// measured makes classes of cycles that were reported.
func (w *world) measured(i int) {
	m := &w.s.Mains[i]
	var figures mainFigures
	devices := 0
	for s, d := range m.Measured {
		iteration := float64(d.Cycle.IterationNs)
		bubble := float64(d.BubbleNs) / iteration
		w.add(class{
			main: i, stage: s, devices: d.Devices, cycle: plan.WithDevice(m.adjust(d.Cycle, w.s.Filling.OpenNs), w.s.Device.MemoryBytes),
			bubble: bubble, busy: 1 - bubble,
		})
		figures.iterationNs = max(figures.iterationNs, d.Cycle.IterationNs)
		figures.pipeFraction += bubble * float64(d.Devices)
		devices += d.Devices
		// Each bubble's end is late. What waits for it elsewhere is in its own bubbles.
		figures.slowdown += float64(len(d.Cycle.Bubbles)) * float64(w.s.Filling.LateNs+w.s.Filling.Announce) / iteration
	}
	figures.pipeFraction /= float64(devices)
	w.mains = append(w.mains, figures)
}

func (w *world) add(c class) {
	c.name = fmt.Sprintf("%s/%d", w.s.Mains[c.main].Name, c.stage)
	for _, b := range c.cycle.Bubbles {
		c.usable += float64(b.DurationNs) / float64(c.cycle.IterationNs)
	}
	w.classes = append(w.classes, c)
}

// rateOf asks the planner what a kind does in a class's bubbles.
func (w *world) rateOf(c *class, f *Fill) (rate, error) {
	open := 1 - w.s.Filling.Control
	if f.Profile == nil {
		within := cmp.Or(f.Within, w.s.Filling.Program)
		return rate{speed: c.usable * within * open, filled: c.usable * open}, nil
	}
	if len(c.cycle.Bubbles) == 0 {
		return rate{why: "no bubble is offered"}, nil
	}
	p, err := w.s.plans.make(c.cycle, f, w.s.Filling.BestPlans)
	if pipefill.ErrorCode(err) == pipefill.CodeConflict {
		return rate{why: err.Error()}, nil
	}
	if err != nil {
		return rate{}, fmt.Errorf("plan %s on %s: %w", f.Name, c.name, err)
	}
	r := rate{speed: p.SamplesPerSecond / f.Alone * open, plan: p}
	for _, chunk := range p.Chunks {
		r.filled += float64(chunk.TimeNs)
	}
	r.filled *= open / float64(p.PeriodCycles) / float64(c.cycle.IterationNs)
	return r, nil
}

// meanSpeed is what a device does on the mean over all, with jobs of all kinds in
// their shares and a queue that is never empty.
func (w *world) meanSpeed() float64 {
	var work, devices float64
	for _, c := range w.classes {
		// A kind holds a device the longer the slower it is: the harmonic mean.
		var weight, time float64
		for f, r := range c.rates {
			if r.speed > 0 {
				weight += w.s.Fills[f].Weight
				time += w.s.Fills[f].Weight / r.speed
			}
		}
		devices += float64(c.devices)
		if time > 0 {
			work += float64(c.devices) * weight / time
		}
	}
	if devices == 0 || math.IsNaN(work) {
		return 0
	}
	return work / devices
}

func (w *world) devices() (n int) {
	for _, c := range w.classes {
		n += c.devices
	}
	return n
}

// planCache keeps plans: a study asks for the same ones again and again. It is
// safe for concurrent use.
type planCache struct {
	mu    sync.Mutex
	known map[string]func() (plan.Plan, error)
}

// make is plan.Make, or with best false plan.Single.
func (k *planCache) make(c pipefill.BubbleCycle, f *Fill, best bool) (plan.Plan, error) {
	ask := func() (plan.Plan, error) {
		if best {
			return plan.Make(c, []plan.Profile{*f.Profile}, plan.Options{})
		}
		return plan.Single(*f.Profile, c)
	}
	if k == nil || f.key == "" {
		return ask()
	}
	key := fmt.Sprintf("%t %s %+v", best, f.key, c)
	k.mu.Lock()
	if k.known == nil {
		k.known = map[string]func() (plan.Plan, error){}
	}
	kept := k.known[key]
	if kept == nil {
		kept = sync.OnceValues(ask)
		k.known[key] = kept
	}
	k.mu.Unlock()
	return kept()
}
