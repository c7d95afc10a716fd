package measure

// Reading is one look at the CPU time that a fill job had used at a moment;
// the node daemon takes one when it lets the job run and one when it has
// stopped it.
type Reading struct {
	AtNs  int64 // CLOCK_MONOTONIC
	CPUNs int64 // used so far by the whole fill job
}

// Filled splits the CPU time between the readings of one fill job, in order,
// into what fell inside bubbles (a union) and what did not. Between two readings
// one cannot know when the time was used, so that as much as can have been
// outside is taken to have been outside: the split flatters nobody.
func Filled(readings []Reading, bubbles []Interval) (insideNs, outsideNs int64) {
	for i := 1; i < len(readings); i++ {
		from, to := readings[i-1], readings[i]
		used := to.CPUNs - from.CPUNs
		if used <= 0 {
			continue
		}
		span := Interval{from.AtNs, to.AtNs}
		beyond := span.EndNs - span.BeginNs - Overlap(span, bubbles)
		outside := min(used, beyond)
		outsideNs += outside
		insideNs += used - outside
	}
	return insideNs, outsideNs
}
