// Package quality holds what the scheduler assigns against exact assignments:
// by trying all where there are few, by Kuhn and Munkres' algorithm and by a
// bound of linear programming where there are many. It is for tests and figures.
package quality

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"pipefill/controller/schedule"
	"pipefill/controller/schedule/replay"
	"pipefill/controller/store"
)

// instance is jobs and slots, and what each job's work takes and gives on each.
type instance struct {
	jobs  []store.FillJob
	slots []schedule.Slot
}

// kinds are kinds of fill work: the part of a bubble's time that is useful work,
// less where bubbles are short or memory is small.
var kinds = map[string]struct{ best, short, small float64 }{
	"infer-small": {0.95, 0.02, 0.0}, "infer-big": {0.85, 0.05, 0.4}, "train-small": {0.75, 0.15, 0.1}, "train-big": {0.65, 0.25, 0.5},
}

var kindNames = []string{"", "infer-big", "infer-small", "train-big", "train-small"}

// speed stands for the planner: three digits.
func speed(profile string, s schedule.Slot) float64 {
	k := kinds[profile]
	of := s.Share * (k.best - k.short*0.1/s.LongestS - k.small*4/float64(s.FreeBytes>>30))
	return max(0, math.Round(1000*of)/1000) // the scheduler keeps three digits
}

// draw makes an instance; planned: some jobs have profiles, so that no order of
// the slots is the same for all jobs.
func draw(rng *rand.Rand, jobs, slots int, planned bool) instance {
	var in instance
	for i := range slots {
		in.slots = append(in.slots, schedule.Slot{
			Node: fmt.Sprintf("n%d", i), Device: "cpu:0", Share: []float64{0.19, 0.32, 0.48, 0.65}[rng.IntN(4)], LongestS: 0.1 + 0.4*rng.Float64(),
			FreeBytes: int64(4+rng.IntN(28)) << 30, Cycle: fmt.Sprint(i),
		})
	}
	for i := range jobs {
		j := store.FillJob{ID: int64(i + 1), JobID: int64(i + 1), FirstMs: 1, Requeue: true, ExpectMs: int64(60_000 * math.Exp(rng.NormFloat64()))}
		if planned {
			j.Profile = kindNames[rng.IntN(len(kindNames))]
		}
		in.jobs = append(in.jobs, j)
	}
	return in
}

func (in instance) speed(j, s int) float64 {
	if in.jobs[j].Profile == "" {
		return in.slots[s].Share
	}
	return speed(in.jobs[j].Profile, in.slots[s])
}

func (in instance) scheduler(policy string) *schedule.Scheduler {
	return schedule.New(schedule.Builtin()[policy], schedule.Options{Speed: speed})
}

// utilization is the work done a second by what the policy puts on the slots.
func (in instance) utilization() float64 {
	s := in.scheduler("utilization")
	s.Put(in.jobs...)
	sum := 0.0
	for _, p := range s.Assign(1, in.slots) {
		at := slices.IndexFunc(in.slots, func(s schedule.Slot) bool { return s.Node == p.Slot.Node })
		sum += in.speed(int(p.Job.ID-1), at)
	}
	return sum
}

// most is the greatest work a second of any assignment: by trying all.
func (in instance) most(slot int, used uint) float64 {
	if slot == len(in.slots) {
		return 0
	}
	best := in.most(slot+1, used)
	for j := range in.jobs {
		if used&(1<<j) == 0 {
			best = max(best, in.speed(j, slot)+in.most(slot+1, used|1<<j))
		}
	}
	return best
}

// makespan is when the last job ends, in seconds.
func (in instance) makespan() float64 {
	last := 0.0
	for _, r := range replay.Jobs(in.scheduler("makespan"), in.jobs, in.slots, nil) {
		last = max(last, float64(r.EndMs-1)/1000)
	}
	return last
}

// soonest is the least makespan of any assignment: by trying all, less what is
// later than the best so far.
func (in instance) soonest() float64 {
	order := make([]int, len(in.jobs))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(in.jobs[b].ExpectMs - in.jobs[a].ExpectMs) })
	best := in.makespan() + 0.001
	ends := make([]float64, len(in.slots))
	var try func(k int)
	try = func(k int) {
		if k == len(order) {
			best = min(best, slices.Max(ends))
			return
		}
		for s := range ends {
			v := in.speed(order[k], s)
			if v <= 0 {
				continue
			}
			time := float64(in.jobs[order[k]].ExpectMs) / 1000 / v
			if ends[s]+time < best {
				ends[s] += time
				try(k + 1)
				ends[s] -= time
			}
		}
	}
	try(0)
	return best
}

// bound is a makespan that no assignment beats, even one that could part jobs: the
// dual of the linear program, whose prices of the slots rise where there is more
// work than elsewhere; and the longest job alone.
func (in instance) bound() float64 {
	price := make([]float64, len(in.slots))
	for s := range price {
		price[s] = 1 / float64(len(price))
	}
	times := make([][]float64, len(in.jobs)) // seconds of each job on each slot
	for j, job := range in.jobs {
		for s := range in.slots {
			times[j] = append(times[j], float64(job.ExpectMs)/1000/in.speed(j, s))
		}
	}
	best := 0.0
	for step := range 3000 {
		value, longest := 0.0, 0.0
		load := make([]float64, len(price))
		for _, of := range times {
			at, least, alone := -1, math.Inf(1), math.Inf(1)
			for s, time := range of {
				alone = min(alone, time)
				if cost := price[s] * time; cost < least {
					at, least = s, cost
				}
			}
			if at < 0 {
				continue
			}
			value += least
			load[at] += of[at]
			longest = max(longest, alone)
		}
		best = max(best, value, longest)
		sum, most := 0.0, slices.Max(load)
		for s := range price {
			price[s] *= math.Exp(load[s] / most / math.Sqrt(float64(step+4)))
			sum += price[s]
		}
		for s := range price {
			price[s] /= sum
		}
	}
	return best
}

// mostOf is most by Kuhn and Munkres' algorithm, in the form with potentials, for
// no fewer jobs than slots.
func (in instance) mostOf() float64 {
	n, m := len(in.slots), len(in.jobs)
	u, v := make([]float64, n+1), make([]float64, m+1)
	match, way := make([]int, m+1), make([]int, m+1)
	for i := 1; i <= n; i++ {
		match[0] = i
		j0 := 0
		least, used := make([]float64, m+1), make([]bool, m+1)
		for j := range least {
			least[j] = math.Inf(1)
		}
		for match[j0] != 0 {
			used[j0] = true
			delta, j1 := math.Inf(1), 0
			for j := 1; j <= m; j++ {
				if used[j] {
					continue
				}
				if cost := -in.speed(j-1, match[j0]-1) - u[match[j0]] - v[j]; cost < least[j] {
					least[j], way[j] = cost, j0
				}
				if least[j] < delta {
					delta, j1 = least[j], j
				}
			}
			for j := 0; j <= m; j++ {
				if used[j] {
					u[match[j]] += delta
					v[j] -= delta
				} else {
					least[j] -= delta
				}
			}
			j0 = j1
		}
		for j0 != 0 {
			match[j0] = match[way[j0]]
			j0 = way[j0]
		}
	}
	return v[0] // the least cost is -v[0]
}

// Ratio is how far from exact the assignments of a family of instances are: 1 is
// exact, 1.05 is 5 % worse.
type Ratio struct {
	Family          string
	Bound           bool // of the bound to exact assignments, not of the scheduler
	N               int
	Mean, P95, Most float64
}

// Aim is the mean ratio that is to be reached.
const Aim = 1.05

// Measure draws instances of each family and holds the scheduler against exact
// assignments.
func Measure(seeds int) []Ratio {
	families := []struct {
		name        string
		jobs, slots int
		planned     bool
		ratio       func(in instance) float64
		bound       bool
	}{
		{"utilization, 7 jobs on 5 slots, against all assignments", 7, 5, true, func(in instance) float64 { return in.most(0, 0) / in.utilization() }, false},
		{"utilization, 60 jobs on 40 slots, against Kuhn-Munkres", 60, 40, true, func(in instance) float64 { return in.mostOf() / in.utilization() }, false},
		{"makespan, 9 jobs on 3 slots, against all assignments", 9, 3, false, func(in instance) float64 { return in.makespan() / in.soonest() }, false},
		{"makespan, 9 jobs on 3 slots, with plans, against all assignments", 9, 3, true, func(in instance) float64 { return in.makespan() / in.soonest() }, false},
		{"the bound, 9 jobs on 3 slots, with plans, against all assignments", 9, 3, true, func(in instance) float64 { return in.soonest() / in.bound() }, true},
		{"makespan, 60 jobs on 8 slots, with plans, against a bound", 60, 8, true, func(in instance) float64 { return in.makespan() / in.bound() }, false},
		{"makespan, 200 jobs on 16 slots, against a bound", 200, 16, false, func(in instance) float64 { return in.makespan() / in.bound() }, false},
		{"makespan, 200 jobs on 16 slots, with plans, against a bound", 200, 16, true, func(in instance) float64 { return in.makespan() / in.bound() }, false},
	}
	var out []Ratio
	for _, f := range families {
		var ratios []float64
		for seed := range uint64(seeds) {
			ratios = append(ratios, f.ratio(draw(rand.New(rand.NewPCG(seed, 3)), f.jobs, f.slots, f.planned)))
		}
		slices.Sort(ratios)
		r := Ratio{Family: f.name, Bound: f.bound, N: len(ratios), P95: ratios[len(ratios)*95/100], Most: ratios[len(ratios)-1]}
		for _, x := range ratios {
			r.Mean += x / float64(len(ratios))
		}
		out = append(out, r)
	}
	return out
}
