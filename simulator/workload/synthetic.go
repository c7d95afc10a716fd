package workload

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Quantiles is a distribution by some of its quantiles: in between it is
// interpolated in the logarithm, beyond the first and the last it is cut.
type Quantiles []Quantile

// Quantile is one point.
type Quantile struct {
	Share float64 // 0..1
	Value float64
}

// The published shape of Alibaba's GPU trace of 2023: run times of pods with one
// GPU and times between arrivals, in seconds. Only these percentiles are kept of
// it; below the first tenth and above the last hundredth the distribution is cut.
var (
	RunTimes     = Quantiles{{0.10, 67}, {0.25, 184}, {0.50, 655}, {0.75, 2280}, {0.90, 7240}, {0.99, 136474}}
	InterArrival = Quantiles{{0.10, 10}, {0.50, 188}, {0.90, 1122}}
)

// At returns the quantile of a share.
func (q Quantiles) At(share float64) float64 {
	if share <= q[0].Share {
		return q[0].Value
	}
	for i := 1; i < len(q); i++ {
		if a, b := q[i-1], q[i]; share <= b.Share {
			part := (share - a.Share) / (b.Share - a.Share)
			return a.Value * math.Pow(b.Value/a.Value, part)
		}
	}
	return q[len(q)-1].Value
}

// Mean is the distribution's, values above most cut to it.
func (q Quantiles) Mean(most float64) float64 {
	const steps = 100_000
	sum := 0.0
	for i := range steps {
		sum += min(most, q.At((float64(i)+0.5)/steps))
	}
	return sum / steps
}

// Synthetic draws jobs of the published shape, without end.
type Synthetic struct {
	LongestMs int64 // longer ones are cut to it
	Users     int
	random    *rand.Rand
	gaps      float64 // what each time between arrivals is multiplied by
	nowMs     float64
}

// NewSynthetic draws with a mean time between arrivals of gapMs.
func NewSynthetic(seed uint64, gapMs float64, longestMs int64, users int) *Synthetic {
	return &Synthetic{
		LongestMs: longestMs, Users: max(1, users), gaps: gapMs / (1e3 * InterArrival.Mean(math.Inf(1))),
		random: rand.New(rand.NewPCG(seed, 0x776f726b)), //nolint:gosec // a simulation's, to be the same again
	}
}

// Next draws one job.
func (s *Synthetic) Next() Job {
	s.nowMs += 1e3 * s.gaps * InterArrival.At(s.random.Float64())
	run := int64(1e3 * RunTimes.At(s.random.Float64()))
	return Job{SubmitMs: int64(s.nowMs), RunMs: min(run, s.LongestMs), Devices: 1, User: pick(s.random, s.Users)}
}

// pick draws a user: the k-th has a share of 1/k, as few users submit most jobs.
func pick(random *rand.Rand, users int) int {
	// The inverse of ln(k)/ln(n+1).
	return min(users, int(math.Exp(random.Float64()*math.Log(float64(users)+1)))) - 1
}

// Repeater hands out a trace's jobs; at its end it begins again.
type Repeater struct {
	trace   Trace
	at      int
	baseMs  float64
	random  *rand.Rand // where arrivals are drawn
	gapMs   float64
	longest int64
}

// NewRepeater takes a trace's jobs with a mean time between arrivals of gapMs,
// in any order and with Poisson arrivals, as published traces are denser at some
// times than at others by far; 0 replays them as recorded. Runs longer than
// longestMs are cut.
func NewRepeater(trace Trace, seed uint64, gapMs float64, longestMs int64) *Repeater {
	r := &Repeater{trace: trace, gapMs: gapMs, longest: longestMs}
	if gapMs <= 0 {
		r.gapMs = float64(trace.SpanMs()) / float64(len(trace.Jobs))
		return r
	}
	r.random = rand.New(rand.NewPCG(seed, 0x74726163)) //nolint:gosec // a simulation's, to be the same again
	r.trace.Jobs = slices.Clone(trace.Jobs)
	r.random.Shuffle(len(r.trace.Jobs), func(i, j int) { r.trace.Jobs[i], r.trace.Jobs[j] = r.trace.Jobs[j], r.trace.Jobs[i] })
	return r
}

// Next returns the next job.
func (r *Repeater) Next() Job {
	if r.at == len(r.trace.Jobs) {
		r.at = 0
		if r.random == nil {
			r.baseMs += float64(r.trace.SpanMs()) + r.gapMs
		}
	}
	job := r.trace.Jobs[r.at]
	r.at++
	if r.random != nil {
		r.baseMs += r.gapMs * r.random.ExpFloat64()
		job.SubmitMs = int64(r.baseMs)
	} else {
		job.SubmitMs = int64(r.baseMs) + job.SubmitMs
	}
	job.RunMs = min(job.RunMs, r.longest)
	return job
}

// MeanRunMs is the mean of a trace's device time, runs cut to longestMs.
func (t *Trace) MeanRunMs(longestMs int64) float64 {
	sum := 0.0
	for _, j := range t.Jobs {
		sum += float64(min(j.RunMs, longestMs)) * float64(j.Devices)
	}
	return sum / float64(max(1, len(t.Jobs)))
}
