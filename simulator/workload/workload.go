// Package workload is what a simulated cluster is asked to run: fill jobs from
// published percentiles or from traces, and models of what they compute, with a
// fill profile for each configuration. It decides nothing about where they run.
package workload

import (
	"cmp"
	"slices"
)

// Job is one fill job of a workload.
type Job struct {
	SubmitMs int64
	RunMs    int64 // on idle devices of its own, at its best configuration
	Devices  int   // that it wants at once
	User     int   // a number of its own for each user
	Line     int   // of the file it comes from; 0: drawn
	Kind     int   // of fill job, from 1; 0: whichever is drawn
}

// Mistake is a line of a trace that makes no job.
type Mistake struct {
	Line int
	What string
}

// Trace is what a file gave.
type Trace struct {
	Jobs     []Job // by submit time, from 0
	Mistakes []Mistake
	Bad      int // lines that are malformed; Mistakes has the first of them
	Skipped  int // jobs that are well formed and do not count: without GPU, or not ended
}

// mistakesKept bounds what is told of a file; all are counted.
const mistakesKept = 20

func (t *Trace) mistake(line int, what string) {
	if t.Bad++; len(t.Mistakes) < mistakesKept {
		t.Mistakes = append(t.Mistakes, Mistake{line, what})
	}
}

// Settle sorts the jobs and lets time begin with the first.
func (t *Trace) Settle() {
	slices.SortStableFunc(t.Jobs, func(a, b Job) int { return cmp.Compare(a.SubmitMs, b.SubmitMs) })
	for i := len(t.Jobs) - 1; i >= 0; i-- {
		t.Jobs[i].SubmitMs -= t.Jobs[0].SubmitMs
	}
}

// SpanMs is the time from the first arrival to the last.
func (t *Trace) SpanMs() int64 {
	if len(t.Jobs) == 0 {
		return 0
	}
	return t.Jobs[len(t.Jobs)-1].SubmitMs
}
