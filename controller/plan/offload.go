package plan

import (
	"cmp"
	"slices"

	"pipefill"
)

// MainState is state of the main job that it does not need during the bubbles,
// like its optimizer's: it may leave the device over some of them. The transfers
// take from the bubbles in which they run.
type MainState struct {
	Name  string
	Bytes int64
	OutNs int64
	InNs  int64
	// Hidden state costs the main job no time: it leaves within half of a bubble,
	// and comes back after one, beside what is computed then, twice as long as
	// that takes before the iteration ends.
	Hidden bool
	// Over are the bubbles that it may be away over, each by itself, by their
	// indices: of what the main job has to have back when a bubble ends, whose
	// coming back it waits for. Nil: over any, and as many as there are.
	Over []int
}

// fits tells whether state can be away from bubble out to bubble in.
func (s *MainState) fits(bubbles []pipefill.Bubble, out, in int, iterationNs int64) bool {
	if s.Over != nil {
		index := bubbles[out].Index
		return out == in && 2*s.OutNs <= bubbles[out].DurationNs && slices.Contains(s.Over, index)
	}
	if s.Hidden {
		return 2*s.OutNs <= bubbles[out].DurationNs && bubbles[in].StartNs+bubbles[in].DurationNs+2*s.InNs <= iterationNs
	}
	changed := without(bubbles, *s, out, in)
	return changed[out].DurationNs >= 0 && changed[in].DurationNs >= 0
}

// offloadTries bounds how many places are planned with, best first.
const offloadTries = 64

// without is the bubbles when state is away from bubble out to bubble in.
func without(bubbles []pipefill.Bubble, s MainState, out, in int) []pipefill.Bubble {
	changed := slices.Clone(bubbles)
	for j := out; j <= in; j++ {
		changed[j].FreeBytes = min(changed[j].FreeBytes+s.Bytes, most)
	}
	changed[out].DurationNs -= s.OutNs
	if !s.Hidden && s.Over == nil {
		changed[in].DurationNs -= s.InNs
	}
	return changed
}

// offloaded moves main state away where that pays for itself: state after state,
// the place that gives most, and none where nothing does.
func offloaded(bubbles []pipefill.Bubble, iterationNs int64, states []MainState, value, bound func([]pipefill.Bubble) float64) ([]pipefill.Bubble, []MainOffload) {
	var chosen []MainOffload
	now := value(bubbles)
	for _, s := range states {
		type place struct {
			out, in int
			bound   float64
		}
		var places []place
		for out := range bubbles {
			for in := out; in < len(bubbles); in++ {
				if s.fits(bubbles, out, in, iterationNs) {
					places = append(places, place{out, in, bound(without(bubbles, s, out, in))})
				}
			}
		}
		slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(b.bound, a.bound) })
		var best *place
		for i := range places[:min(len(places), offloadTries)] {
			if places[i].bound <= now {
				break
			}
			if v := value(without(bubbles, s, places[i].out, places[i].in)); v > now*(1+1e-9) {
				best, now = &places[i], v
			}
		}
		if best == nil {
			continue
		}
		chosen = append(chosen, MainOffload{s.Name, s.Bytes, bubbles[best.out].Index, bubbles[best.in].Index})
		bubbles = without(bubbles, s, best.out, best.in)
	}
	return bubbles, chosen
}

// awayBubbles are a cycle's bubbles as a plan has them: with what it moves away.
func awayBubbles(c pipefill.BubbleCycle, p Plan, states []MainState) []pipefill.Bubble {
	bubbles := offered(c)
	place := func(index int) int {
		return slices.IndexFunc(bubbles, func(b pipefill.Bubble) bool { return b.Index == index })
	}
	for _, away := range p.MainOffload {
		i := slices.IndexFunc(states, func(s MainState) bool { return s.Name == away.Name })
		bubbles = without(bubbles, states[i], place(away.OutBubble), place(away.InBubble))
	}
	return bubbles
}
