package simulator

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"

	"pipefill/controller/schedule"
)

// Point is one scenario of a sweep under one policy.
type Point struct {
	Scenario *Scenario
	Policy   *schedule.Policy
	Sweep    map[string]any // which value of each swept key it has
}

// Outcome is what a point gave, over seeds.
type Outcome struct {
	Sweep   map[string]any    `json:"sweep,omitempty"`
	Policy  string            `json:"policy"`
	Figures map[string]Spread `json:"figures"`
	Unfit   map[string]string `json:"unfit,omitempty"` // kinds of fill job that fit no bubble of any stage, and why

	each []Figures
}

// mean returns a figure's.
func (o *Outcome) mean(name string) float64 { return o.Figures[name].Mean }

// Simulate runs every point with seeds from seed on, some at a time, and returns
// what they gave, in order. progress is told the part that is done, from several
// goroutines.
func Simulate(ctx context.Context, points []Point, seed uint64, seeds int, progress func(float64)) ([]Outcome, error) {
	type task struct{ point, seed int }
	outcomes := make([]Outcome, len(points))
	worlds := make([]func() (*world, error), len(points))
	made := map[*Scenario]func() (*world, error){}
	for i, p := range points {
		if made[p.Scenario] == nil {
			made[p.Scenario] = sync.OnceValues(func() (*world, error) { return newWorld(p.Scenario) })
		}
		worlds[i] = made[p.Scenario]
		outcomes[i] = Outcome{Sweep: p.Sweep, Policy: p.Policy.Name, each: make([]Figures, seeds)}
	}
	tasks := make(chan task)
	var mu sync.Mutex
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make([]float64, len(points)*seeds)
	sum := 0.0
	tell := func(at int, part float64) {
		mu.Lock()
		defer mu.Unlock()
		sum += part - done[at]
		done[at] = part
		progress(sum / float64(len(done)))
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(done)) {
		workers.Go(func() {
			for t := range tasks {
				err := func() error {
					w, err := worlds[t.point]()
					if err != nil {
						return err
					}
					r := newRun(w, points[t.point].Policy, seed+uint64(t.seed)) //nolint:gosec // a small count
					if err := r.run(ctx, func(part float64) { tell(t.point*seeds+t.seed, part) }); err != nil {
						return err
					}
					outcomes[t.point].each[t.seed] = r.figures()
					return nil
				}()
				if err != nil {
					mu.Lock()
					if failed == nil {
						failed = err
						cancel()
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range points {
		for s := range seeds {
			tasks <- task{i, s}
		}
	}
	close(tasks)
	workers.Wait()
	if failed != nil {
		return nil, failed
	}
	for i := range outcomes {
		w, err := worlds[i]()
		if err == nil {
			outcomes[i].Unfit = w.unfit()
			err = outcomes[i].sum()
		}
		if err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

// unfit lists the kinds that no stage's bubbles take.
func (w *world) unfit() map[string]string {
	var out map[string]string
	for f, fill := range w.s.Fills {
		why := ""
		for _, c := range w.classes {
			if why = c.rates[f].why; c.rates[f].speed > 0 {
				why = ""
				break
			}
		}
		if why != "" {
			if out == nil {
				out = map[string]string{}
			}
			out[fill.Name] = why
		}
	}
	return out
}

// sum makes spreads of the seeds' figures, by their names in JSON.
func (o *Outcome) sum() error {
	byName := map[string][]float64{}
	for _, f := range o.each {
		data, err := json.Marshal(f)
		if err != nil {
			return fmt.Errorf("sum up: %w", err)
		}
		var values map[string]float64
		if err := json.Unmarshal(data, &values); err != nil {
			return fmt.Errorf("sum up: %w", err)
		}
		for name, v := range values {
			byName[name] = append(byName[name], v)
		}
	}
	o.Figures = map[string]Spread{}
	for name, values := range byName {
		o.Figures[name] = spreadOf(values)
	}
	return nil
}

// JobTimes are a fill job's in a replay, in ms from the begin; -1: not within the
// time.
type JobTimes struct {
	SubmitMs, StartMs, EndMs int64
}

// Replay runs one scenario once and returns its fill jobs' times, in the order of
// their submission, and its figures.
func Replay(ctx context.Context, s *Scenario, policy *schedule.Policy, seed uint64) ([]JobTimes, Figures, error) {
	w, err := newWorld(s)
	if err != nil {
		return nil, Figures{}, err
	}
	r := newRun(w, policy, seed)
	if err := r.run(ctx, func(float64) {}); err != nil {
		return nil, Figures{}, err
	}
	times := make([]JobTimes, len(r.jobs))
	for i, j := range r.jobs {
		times[i] = JobTimes{j.submitMs, j.startMs, j.endMs}
	}
	return times, r.figures(), nil
}
