package plan

import (
	"cmp"
	"math"
	"slices"

	"pipefill"
)

// Iterations of a gang's devices may differ by so much: they are stages or
// tensor-parallel peers of one main job, and keep step.
const gangTolerance = 0.01

// joint is time in which all devices of a gang are idle.
type joint struct {
	begin, end int64
	free       int64
	members    []pipefill.Bubble // by device
}

// Coincide returns the bubbles that the devices of a gang have in common, as one
// cycle; members[i] are the bubbles of each device that bubble i is within. Its
// memory is the least of theirs. Cycles of another length are a
// pipefill.CodeConflict.
func Coincide(cycles []pipefill.BubbleCycle) (c pipefill.BubbleCycle, members [][]int, err error) {
	if len(cycles) == 0 {
		return c, nil, pipefill.Errorf(pipefill.CodeInvalid, "plan: a gang of no devices")
	}
	for i := range cycles {
		if err := check(cycles[i]); err != nil {
			return c, nil, err
		}
		shortest, longest := min(c.IterationNs, cycles[i].IterationNs), max(c.IterationNs, cycles[i].IterationNs)
		if i > 0 && float64(longest-shortest) > gangTolerance*float64(longest) {
			return c, nil, pipefill.Errorf(pipefill.CodeConflict, "a gang's devices keep step, and device %d has an iteration of %s where others have %s: choose devices of one main job",
				i, ms(cycles[i].IterationNs), ms(c.IterationNs))
		}
		c.IterationNs = longest
		if a := cycles[i].AlwaysFreeBytes; a > 0 && (c.AlwaysFreeBytes == 0 || a < c.AlwaysFreeBytes) {
			c.AlwaysFreeBytes = a
		}
	}
	c.Version = Version
	common := []joint{{math.MinInt64 / 2, math.MaxInt64 / 2, most, nil}}
	for i := range cycles {
		common = meet(common, offered(cycles[i]), c.IterationNs, i == 0)
	}
	slices.SortStableFunc(common, func(a, b joint) int { return cmp.Compare(a.begin, b.begin) })
	for i, j := range common {
		c.Bubbles = append(c.Bubbles, pipefill.Bubble{Index: i, Kind: j.members[0].Kind, StartNs: j.begin, DurationNs: j.end - j.begin, FreeBytes: j.free})
		of := []int{}
		for _, b := range j.members {
			of = append(of, b.Index)
		}
		members = append(members, of)
	}
	return c, members, nil
}

// meet cuts common time with one more device's bubbles. A bubble may wrap around
// the iteration mark, so that it is also looked for an iteration earlier or later.
func meet(common []joint, bubbles []pipefill.Bubble, iteration int64, first bool) []joint {
	var out []joint
	for _, j := range common {
		for _, b := range bubbles {
			for _, shift := range []int64{0, -iteration, iteration} {
				begin, end := max(j.begin, b.StartNs+shift), min(j.end, b.StartNs+b.DurationNs+shift)
				if end <= begin || first && shift != 0 {
					continue
				}
				out = append(out, joint{begin, end, min(j.free, b.FreeBytes), append(slices.Clone(j.members), b)})
			}
		}
	}
	return out
}

// Gang returns the best plan for one job that runs on several devices at once,
// the same ops on each, in the time in which all of them are idle. Its chunks
// come once for each device; samples are the job's.
func Gang(cycles []pipefill.BubbleCycle, p Profile, o Options) (Plan, error) {
	c, members, err := Coincide(cycles)
	if err != nil {
		return Plan{}, err
	}
	if len(o.MainState) > 0 {
		return Plan{}, pipefill.Errorf(pipefill.CodeInvalid, "plan: main state is not moved for a gang: leave it out")
	}
	made, err := Make(c, []Profile{p}, o)
	if err != nil {
		return Plan{}, err
	}
	var chunks []Chunk
	for _, k := range made.Chunks {
		for device, bubble := range members[k.Bubble] {
			one := k
			one.Device, one.Bubble = device, bubble
			chunks = append(chunks, one)
		}
	}
	made.Chunks = chunks
	return made, nil
}
