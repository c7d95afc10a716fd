package plan

import (
	"math"
	"slices"

	"pipefill"
)

// Bounds of the search for how jobs share a device.
const (
	shareTries  = 400    // ways to share that are tried
	sharePeriod = 10_000 // cycles: the periods of the jobs' plans have to meet
)

// worth is what a sample of a job counts for: the time that it takes on an idle
// device, by the job's best configuration, so that samples of different jobs can
// be added up.
func worth(p *Profile) float64 {
	least := math.Inf(1)
	for i := range p.Configs {
		least = min(least, float64(p.Configs[i].passNs())/float64(p.Configs[i].BatchSize))
	}
	return least
}

// division is who has which bubble.
type division struct {
	plans []*best // by job; nil: it has nothing
	worth float64 // useful nanoseconds a cycle
}

// sharing is a search for the best division of a cycle's bubbles.
type sharing struct {
	profiles []Profile
	bubbles  []pipefill.Bubble
	always   int64
	worths   []float64
	tries    int
}

// shared gives each bubble to one of the jobs: from the best of those that give
// all to one, bubble after bubble to whom more is made of it, until no single
// change helps.
func shared(ps []Profile, bubbles []pipefill.Bubble, always int64, o Options) *division {
	s := &sharing{profiles: ps, bubbles: bubbles, always: always}
	for i := range ps {
		s.worths = append(s.worths, worth(&ps[i]))
	}
	var owners []int
	var found *division
	for i := range ps {
		all := slices.Repeat([]int{i}, len(bubbles))
		if d := s.divide(all, single); d != nil && (found == nil || d.worth > found.worth) {
			found, owners = d, all
		}
	}
	if found == nil {
		return nil
	}
	for better := true; better; {
		better = false
		for j := range bubbles {
			for i := range ps {
				if owners[j] == i || s.tries > shareTries {
					continue
				}
				other := slices.Clone(owners)
				other[j] = i
				if d := s.divide(other, single); d != nil && d.worth > found.worth*(1+1e-9) {
					found, owners, better = d, other, true
				}
			}
		}
	}
	// Mixes only at the end: of the division that was found, and of all for one.
	full := func(p *Profile, b []pipefill.Bubble, always int64) *best { return one(p, b, always, o) }
	ends := [][]int{owners}
	for i := range ps {
		ends = append(ends, slices.Repeat([]int{i}, len(bubbles)))
	}
	for _, owners := range ends {
		if d := s.divide(owners, full); d != nil && d.worth > found.worth*(1+1e-9) {
			found = d
		}
	}
	return found
}

// divide plans each job for its own bubbles. What stays of one between its
// chunks is not free for the others.
func (s *sharing) divide(owners []int, planner func(*Profile, []pipefill.Bubble, int64) *best) *division {
	s.tries++
	d := &division{plans: slices.Repeat([]*best{nil}, len(s.profiles))}
	slack := s.always // of what stays, what the plans so far leave
	period := 1
	for i := range s.profiles {
		var own []pipefill.Bubble
		for j, b := range s.bubbles {
			if owners[j] == i {
				b.FreeBytes -= s.stays(d.plans)
				own = append(own, b)
			}
		}
		if len(own) == 0 {
			continue
		}
		b := planner(&s.profiles[i], own, slack)
		if b == nil {
			continue
		}
		d.plans[i] = b
		d.worth += b.rate.float() * s.worths[i]
		slack = min(slack-stays(&s.profiles[i], b.chunks), s.spare(own, b.chunks))
		if period = period / int(gcd(int64(period), int64(b.period))) * b.period; period > sharePeriod {
			return nil
		}
	}
	if d.worth == 0 {
		return nil
	}
	return d
}

// stays is what the plans together leave on the device between chunks.
func (s *sharing) stays(plans []*best) int64 {
	var sum int64
	for i, b := range plans {
		if b != nil {
			sum += stays(&s.profiles[i], b.chunks)
		}
	}
	return sum
}

// stays is the most that a job's chunks leave on the device.
func stays(p *Profile, chunks []Chunk) int64 {
	var largest int64
	for _, k := range chunks {
		c := &p.Configs[k.Config]
		end := c.Ops[(k.FirstOp+k.OpCount-1)%len(c.Ops)].LiveBytes
		if c.swapped() && c.ResidentBytes > 0 {
			end = 0
		}
		largest = max(largest, c.staysBytes()+end)
	}
	return largest
}

// spare is what others may leave on the device so that the chunks still fit.
func (s *sharing) spare(own []pipefill.Bubble, chunks []Chunk) int64 {
	spare := int64(most)
	for _, k := range chunks {
		i := slices.IndexFunc(own, func(b pipefill.Bubble) bool { return b.Index == k.Bubble })
		spare = min(spare, own[i].FreeBytes-k.PeakBytes)
	}
	return spare
}

// plan puts the jobs' periods beside each other.
func (d *division) plan(c pipefill.BubbleCycle, ps []Profile) Plan {
	period, samples := 1, 0.0
	var jobs []string
	for i, b := range d.plans {
		if b != nil {
			period = period / int(gcd(int64(period), int64(b.period))) * b.period
			samples += b.rate.float()
			jobs = append(jobs, ps[i].Name)
		}
	}
	at := map[int]int{}
	for j, b := range c.Bubbles {
		at[b.Index] = j
	}
	chunks := []Chunk{}
	for _, b := range d.plans {
		if b == nil {
			continue
		}
		for begin := 0; begin < period; begin += b.period {
			for _, k := range b.chunks {
				k.Cycle += begin
				chunks = append(chunks, k)
			}
		}
	}
	sortChunks(chunks, at)
	return makePlan(c, samples, period, jobs, chunks)
}
