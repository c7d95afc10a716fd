// Package account holds the arithmetic of the accounting: the site's hours and
// days, how a stretch of time is shared out among them to the nanosecond, and
// what a main job's slow-down costs. It is pure; package store keeps the sums.
package account

import (
	"math"
	"math/bits"
	"time"

	"pipefill/api"
)

// Grain is how much time a row of the roll-ups is about.
type Grain string

// The grains, of the site's time zone: a day has 23, 24 or 25 hours.
const (
	Hour  Grain = "hour"
	Day   Grain = "day"
	Month Grain = "month"
)

// Grains are all, the finest first.
var Grains = []Grain{Hour, Day, Month}

// longestMs bounds a stretch that is shared out: a longer one is a clock that
// was set, and counts where it ended.
const longestMs = 7 * 24 * 3600 * 1000

// Floor is the beginning of the hour, day or month that holds atMs, in ms since 1970.
func Floor(g Grain, atMs int64, zone *time.Location) int64 {
	t := time.UnixMilli(atMs).In(zone)
	if g == Hour {
		into := int64(t.Minute())*60_000 + int64(t.Second())*1000 + int64(t.Nanosecond())/1e6
		return atMs - into
	}
	if g == Month {
		t = noon(t.Year(), t.Month(), 1, zone)
	}
	return midnight(t, zone).UnixMilli()
}

// noon is an instant that every day has.
func noon(y int, m time.Month, d int, zone *time.Location) time.Time {
	return time.Date(y, m, d, 12, 0, 0, 0, zone)
}

// Ceil is Floor of atMs, or the beginning of the next where it lies within.
func Ceil(g Grain, atMs int64, zone *time.Location) int64 {
	if floor := Floor(g, atMs, zone); floor == atMs {
		return atMs
	}
	return Next(g, atMs, zone)
}

// Next is when the hour, day or month after the one that holds atMs begins.
func Next(g Grain, atMs int64, zone *time.Location) int64 {
	if g == Hour {
		// An hour's name is where its first minute was; a change of half an hour
		// (Lord Howe) makes one that begins later than its name.
		return Floor(g, atMs, zone) + 3_600_000
	}
	t := time.UnixMilli(atMs).In(zone)
	if g == Month {
		return midnight(noon(t.Year(), t.Month()+1, 1, zone), zone).UnixMilli()
	}
	return midnight(noon(t.Year(), t.Month(), t.Day()+1, zone), zone).UnixMilli()
}

// midnight is the first instant of t's day: 1 a.m. where the clocks were put
// forward at midnight, the first of two midnights where they were put back to it.
func midnight(t time.Time, zone *time.Location) time.Time {
	y, m, d := t.Date()
	start := time.Date(y, m, d, 0, 0, 0, 0, zone)
	// Of a midnight that was skipped, Go gives an instant before or after.
	if _, _, got := start.Date(); got != d {
		start = start.Add(time.Hour)
	}
	if _, _, got := start.Add(-time.Hour).Date(); got == d {
		start = start.Add(-time.Hour)
	}
	return start
}

// Piece is the part of a stretch that lies within one hour.
type Piece struct {
	StartMs int64 // of the hour
	Sums    api.Sums
}

// Split shares sums out among the hours of [fromMs, toMs), in proportion to
// time. The pieces add up to sums exactly.
func Split(sums api.Sums, fromMs, toMs int64, zone *time.Location) []Piece {
	if toMs <= fromMs || toMs-fromMs > longestMs {
		return []Piece{{Floor(Hour, toMs, zone), sums}}
	}
	var pieces []Piece
	var before api.Sums
	whole := uint64(toMs - fromMs) //nolint:gosec // positive, as all below
	for at := fromMs; at < toMs; {
		start := Floor(Hour, at, zone)
		next := min(max(Next(Hour, at, zone), at+1), toMs)
		until := part(sums, uint64(next-fromMs), whole) //nolint:gosec // see above
		piece := until
		piece.Subtract(before)
		pieces = append(pieces, Piece{start, piece})
		before, at = until, next
	}
	return pieces
}

// part is sums * n / whole, each rounded towards zero; all of it for n = whole.
func part(sums api.Sums, n, whole uint64) api.Sums {
	for _, v := range sums.Fields() {
		*v = portion(*v, n, whole)
	}
	return sums
}

func portion(v int64, n, whole uint64) int64 {
	if v < 0 {
		return -portion(-v, n, whole)
	}
	hi, lo := bits.Mul64(uint64(v), n)
	q, _ := bits.Div64(hi, lo, whole) // n <= whole: it fits
	return int64(q)                   //nolint:gosec // at most v
}

// unknown is the width from which on an interval says nothing: the governor
// answers -20 to +20 % while it has too few pairs.
const unknown = 0.2

// Main turns the totals of a main job's device so far into sums so far: their
// differences are what roll-ups add up. The cost of the slow-down is the time
// that iterations beside fill work took, times 1 - exp(-r), for the ends and the
// middle of the interval of the log-ratio r that is known now; what was believed
// before is thereby corrected in later hours.
func Main(t api.MainTotals) api.Sums {
	s := api.Sums{
		Iterations: t.Iterations, ControlIterations: t.ControlIterations, MainNs: t.IterationNs, BubbleNs: t.BubbleNs, OfferedNs: t.OfferedNs,
		CommNs: t.CommNs, OtherNs: t.OtherNs, FilledIterationNs: t.FilledIterationNs,
	}
	lo, hi := t.OverheadLo, t.OverheadHi
	if lo == 0 && hi == 0 || lo <= -unknown && hi >= unknown || math.IsNaN(lo) || math.IsNaN(hi) {
		return s
	}
	cost := func(r float64) int64 { return int64(float64(t.FilledIterationNs) * -math.Expm1(-r)) }
	s.JudgedNs, s.SlowNs, s.SlowLoNs, s.SlowHiNs = t.FilledIterationNs, cost((lo+hi)/2), cost(lo), cost(hi)
	return s
}
