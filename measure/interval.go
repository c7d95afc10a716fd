// Package measure computes the figures of a run from its raw traces: bubble
// seconds, how much of them was filled, and what it cost the main job. It is
// pure: traces in, figures out. test/audit computes the same figures a second
// time and shares no line with it.
package measure

import "slices"

// Interval is a stretch of CLOCK_MONOTONIC, in ns; EndNs is not part of it.
type Interval struct {
	BeginNs, EndNs int64
}

// Union returns the intervals sorted, merged where they touch, without empty
// ones. The argument is left alone.
func Union(intervals []Interval) []Interval {
	sorted := slices.Clone(intervals)
	slices.SortFunc(sorted, func(a, b Interval) int {
		switch {
		case a.BeginNs < b.BeginNs:
			return -1
		case a.BeginNs > b.BeginNs:
			return 1
		}
		return 0
	})
	var out []Interval
	for _, iv := range sorted {
		if iv.EndNs <= iv.BeginNs {
			continue
		}
		if n := len(out); n > 0 && iv.BeginNs <= out[n-1].EndNs {
			out[n-1].EndNs = max(out[n-1].EndNs, iv.EndNs)
			continue
		}
		out = append(out, iv)
	}
	return out
}

// Length sums disjoint intervals, in ns.
func Length(intervals []Interval) int64 {
	var sum int64
	for _, iv := range intervals {
		sum += iv.EndNs - iv.BeginNs
	}
	return sum
}

// Intersect returns what two unions have in common.
func Intersect(a, b []Interval) []Interval {
	var out []Interval
	for i, j := 0, 0; i < len(a) && j < len(b); {
		begin, end := max(a[i].BeginNs, b[j].BeginNs), min(a[i].EndNs, b[j].EndNs)
		if begin < end {
			out = append(out, Interval{begin, end})
		}
		if a[i].EndNs < b[j].EndNs {
			i++
		} else {
			j++
		}
	}
	return out
}

// Overlap is the length that one interval has in common with a union, in ns.
func Overlap(iv Interval, union []Interval) int64 {
	// The first that ends after iv begins.
	i, _ := slices.BinarySearchFunc(union, iv.BeginNs, func(u Interval, begin int64) int {
		if u.EndNs <= begin {
			return -1
		}
		return 1
	})
	var sum int64
	for ; i < len(union) && union[i].BeginNs < iv.EndNs; i++ {
		sum += min(iv.EndNs, union[i].EndNs) - max(iv.BeginNs, union[i].BeginNs)
	}
	return sum
}
