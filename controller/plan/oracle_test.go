package plan_test

import (
	"fmt"
	"math/big"
	"slices"

	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/plan"
)

// The oracle knows the rules of fit from DESIGN section 6 and nothing of the
// planner: a graph of every (bubble, next op) with an edge for every stopping
// point, whose best cycle ratio Karp's algorithm finds.

// ceilDiv is a*b/c rounded up.
func ceilDiv(a, b, c int64) int64 {
	x := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
	q, m := new(big.Int).QuoRem(x, big.NewInt(c), new(big.Int))
	if m.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q.Int64()
}

// fits tells whether ops [first, first+count) run as one chunk in the bubble.
func fits(c *plan.Config, first, count int, b pipefill.Bubble, always int64) (timeNs, peak int64, ok bool) {
	n := len(c.Ops)
	swapped := c.SwapInNs > 0 || c.SwapOutNs > 0
	liveIn, liveOut := c.Ops[(first+n-1)%n].LiveBytes, c.Ops[(first+count-1)%n].LiveBytes
	timeNs = c.SwapInNs + c.SwapOutNs
	stays := int64(0)
	switch {
	case swapped && c.ResidentBytes > 0:
		timeNs += ceilDiv(liveIn, c.SwapInNs, c.ResidentBytes) + ceilDiv(liveOut, c.SwapOutNs, c.ResidentBytes)
	case swapped:
		stays = liveOut
	default:
		stays = c.ResidentBytes + liveOut
	}
	for i := first; i < first+count; i++ {
		timeNs += c.Ops[i%n].TimeNs
		peak = max(peak, c.ResidentBytes+c.Ops[i%n].PeakBytes)
	}
	if b.Kind == "comm" || b.Kind == "other" {
		return timeNs, peak, false
	}
	return timeNs, peak, timeNs <= b.DurationNs && peak <= b.FreeBytes && (always == 0 || stays <= always)
}

type arc struct{ from, to, passes int }

// oracle is the most passes a cycle that any stopping points give, as a fraction.
func oracle(c *plan.Config, cycle pipefill.BubbleCycle) *big.Rat {
	if s := c.ResidentBytes; c.SwapInNs == 0 && c.SwapOutNs == 0 && cycle.AlwaysFreeBytes > 0 && s > cycle.AlwaysFreeBytes {
		return new(big.Rat)
	}
	n, bubbles := len(c.Ops), len(cycle.Bubbles)
	states := n * bubbles
	arcs := make([][]arc, states)
	for j, b := range cycle.Bubbles {
		for p := range n {
			from := j*n + p
			arcs[from] = append(arcs[from], arc{from, (j+1)%bubbles*n + p, 0})
			for count := 1; ; count++ {
				// Without its end's costs a chunk only gets longer.
				sum := int64(0)
				for i := p; i < p+count; i++ {
					sum += c.Ops[i%n].TimeNs
				}
				if sum > b.DurationNs {
					break
				}
				if _, _, ok := fits(c, p, count, b, cycle.AlwaysFreeBytes); ok {
					arcs[from] = append(arcs[from], arc{from, (j+1)%bubbles*n + (p+count)%n, (p + count) / n})
				}
			}
		}
	}
	return new(big.Rat).Mul(karp(arcs), big.NewRat(int64(bubbles), 1))
}

// karp is the greatest mean of a cycle that can be reached from state 0.
func karp(arcs [][]arc) *big.Rat {
	states := len(arcs)
	const never = -1 << 40
	longest := make([][]int, states+1)
	for k := range longest {
		longest[k] = make([]int, states)
		for v := range longest[k] {
			longest[k][v] = never
		}
	}
	longest[0][0] = 0
	for k := 1; k <= states; k++ {
		for v := range states {
			if longest[k-1][v] == never {
				continue
			}
			for _, a := range arcs[v] {
				longest[k][a.to] = max(longest[k][a.to], longest[k-1][v]+a.passes)
			}
		}
	}
	best := new(big.Rat)
	for v := range states {
		if longest[states][v] == never {
			continue
		}
		var least *big.Rat
		for k := range states {
			if longest[k][v] == never {
				continue
			}
			mean := big.NewRat(int64(longest[states][v]-longest[k][v]), int64(states-k))
			if least == nil || mean.Cmp(least) < 0 {
				least = mean
			}
		}
		if least.Cmp(best) > 0 {
			best = least
		}
	}
	return best
}

// position is where a job is.
type position struct{ config, op int }

// runner runs chunks as a node would, and refuses what the rules do not allow.
type runner struct {
	cycles   []pipefill.BubbleCycle // by device
	profiles map[string]*plan.Profile
	at       map[string]position
	stays    map[string]int64 // the most that each job leaves between chunks
	apart    bool             // what is beside a job is not looked at
}

func newRunner(cycles []pipefill.BubbleCycle, profiles []plan.Profile) *runner {
	r := &runner{cycles: cycles, profiles: map[string]*plan.Profile{}, at: map[string]position{}, stays: map[string]int64{}}
	for i := range profiles {
		r.profiles[profiles[i].Name] = &profiles[i]
	}
	return r
}

// run runs chunks over so many cycles, and returns the samples of the passes
// that end. A gang's devices all run what the first does.
func (r *runner) run(chunks []plan.Chunk, cycles int) (map[string]int64, error) {
	type place struct{ cycle, device, bubble int }
	samples, used := map[string]int64{}, map[place]int64{}
	lastCycle, lastSlot := 0, -1
	for i, k := range chunks {
		profile := r.profiles[k.Job]
		if profile == nil || k.Config < 0 || k.Config >= len(profile.Configs) || k.OpCount < 1 {
			return nil, fmt.Errorf("chunk %d: %+v of no job", i, k)
		}
		c := &profile.Configs[k.Config]
		slot := slices.IndexFunc(r.cycles[k.Device].Bubbles, func(b pipefill.Bubble) bool { return b.Index == k.Bubble })
		if slot < 0 || k.Cycle < 0 || k.Cycle >= cycles || k.Device == 0 && (k.Cycle < lastCycle || k.Cycle == lastCycle && slot < lastSlot) {
			return nil, fmt.Errorf("chunk %d: %+v in no bubble, or out of order", i, k)
		}
		b := r.cycles[k.Device].Bubbles[slot]
		timeNs, peak, ok := fits(c, k.FirstOp, k.OpCount, b, r.cycles[k.Device].AlwaysFreeBytes)
		used[place{k.Cycle, k.Device, slot}] += k.TimeNs
		if !ok || timeNs != k.TimeNs || peak != k.PeakBytes || used[place{k.Cycle, k.Device, slot}] > b.DurationNs {
			return nil, fmt.Errorf("chunk %d: %+v takes %d ns and %d bytes in %+v", i, k, timeNs, peak, b)
		}
		if k.Device > 0 {
			continue
		}
		lastCycle, lastSlot = k.Cycle, slot
		now, known := r.at[k.Job]
		if !known {
			now = position{k.Config, k.FirstOp}
		}
		if now.op == 0 {
			now.config = k.Config // a new pass may be another one
		}
		if now != (position{k.Config, k.FirstOp}) {
			return nil, fmt.Errorf("chunk %d: %+v, but %s is at %+v", i, k, k.Job, now)
		}
		end := k.FirstOp + k.OpCount
		samples[k.Job] += int64(end/len(c.Ops)) * c.BatchSize
		r.at[k.Job] = position{k.Config, end % len(c.Ops)}
		r.stays[k.Job] = max(r.stays[k.Job], stays(c, end))
	}
	if r.apart {
		return samples, nil
	}
	return samples, r.together(chunks)
}

func stays(c *plan.Config, end int) int64 {
	live := c.Ops[(end+len(c.Ops)-1)%len(c.Ops)].LiveBytes
	switch {
	case c.SwapInNs == 0 && c.SwapOutNs == 0:
		return c.ResidentBytes + live
	case c.ResidentBytes == 0:
		return live
	}
	return 0
}

// together checks what several jobs leave on one device.
func (r *runner) together(chunks []plan.Chunk) error {
	var sum int64
	for _, bytes := range r.stays {
		sum += bytes
	}
	if always := r.cycles[0].AlwaysFreeBytes; always > 0 && sum > always {
		return fmt.Errorf("%d bytes stay, %d are always free", sum, always)
	}
	for _, k := range chunks {
		for _, b := range r.cycles[k.Device].Bubbles {
			if b.Index == k.Bubble && k.PeakBytes+sum-r.stays[k.Job] > b.FreeBytes {
				return fmt.Errorf("%+v: beside %d bytes of others in %+v", k, sum-r.stays[k.Job], b)
			}
		}
	}
	return nil
}

// replay runs a plan's period twice and returns the samples of each job in the
// second one.
func replay(p plan.Plan, cycles []pipefill.BubbleCycle, profiles []plan.Profile) (map[string]int64, error) {
	r := newRunner(cycles, profiles)
	if _, err := r.run(p.Chunks, p.PeriodCycles); err != nil {
		return nil, err
	}
	return r.run(p.Chunks, p.PeriodCycles)
}

// Small cases with everything in them that the rules speak of.

func drawProfile(t *rapid.T, name string, live bool) plan.Profile {
	p := plan.Profile{Version: 1, Name: name, Kind: plan.Inference, Device: "test"}
	for range rapid.IntRange(1, 3).Draw(t, "configs") {
		c := plan.Config{
			BatchSize: rapid.Int64Range(1, 9).Draw(t, "batch"), Technique: plan.Technique{Offload: "none"},
			ResidentBytes: rapid.Int64Range(0, 6).Draw(t, "resident"),
		}
		if rapid.Bool().Draw(t, "swapped") {
			c.SwapInNs, c.SwapOutNs = rapid.Int64Range(0, 3).Draw(t, "in"), rapid.Int64Range(0, 3).Draw(t, "out")
		}
		for i := range rapid.IntRange(1, 6).Draw(t, "ops") {
			op := plan.Op{Name: fmt.Sprint(i), TimeNs: rapid.Int64Range(0, 9).Draw(t, "time"), PeakBytes: rapid.Int64Range(0, 8).Draw(t, "peak")}
			if live {
				op.LiveBytes = rapid.Int64Range(0, 6).Draw(t, "live")
			}
			c.Ops = append(c.Ops, op)
		}
		c.Ops[0].TimeNs++
		p.Configs = append(p.Configs, c)
	}
	return p
}

func drawCycle(t *rapid.T) pipefill.BubbleCycle {
	c := pipefill.BubbleCycle{Version: 1, IterationNs: 1000, AlwaysFreeBytes: rapid.SampledFrom([]int64{0, 0, 4, 9}).Draw(t, "always")}
	for i := range rapid.IntRange(1, 4).Draw(t, "bubbles") {
		c.Bubbles = append(c.Bubbles, pipefill.Bubble{
			Index: 2 * i, Kind: rapid.SampledFrom([]string{"fill-drain", "fwd-bwd", "steady", "steady", "other"}).Draw(t, "kind"), StartNs: int64(i) * 100,
			DurationNs: rapid.Int64Range(0, 40).Draw(t, "duration"), FreeBytes: rapid.Int64Range(2, 16).Draw(t, "free"),
		})
	}
	return c
}
