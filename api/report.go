package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"pipefill"
)

// ReportKinds are what a report can be about.
var ReportKinds = []string{"cluster", "user", "account", "job", "main", "node"}

// Sums are what the accounting adds up, of any thing over any time. Durations
// are in ns, of all its devices together.
type Sums struct {
	// Fill jobs that ended (of a node or a main job: attempts).
	Completed int64 `json:"completed"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
	Evicted   int64 `json:"evicted"`
	Lost      int64 `json:"lost"`

	DeviceNs  int64 `json:"device_ns"`  // charged: attached, gate open, not yet verified stopped
	OverrunNs int64 `json:"overrun_ns"` // of DeviceNs, after the gate was shut
	UsefulNs  int64 `json:"useful_ns"`  // of DeviceNs less OverrunNs, in attempts that completed
	CPUNs     int64 `json:"cpu_ns"`
	Openings  int64 `json:"openings"`

	MainNs            int64 `json:"main_ns"` // iterations of main jobs
	Iterations        int64 `json:"iterations"`
	ControlIterations int64 `json:"control_iterations"`
	BubbleNs          int64 `json:"bubble_ns"`  // announced, control iterations excluded
	OfferedNs         int64 `json:"offered_ns"` // gate open
	CommNs            int64 `json:"comm_ns"`    // never offered: collectives
	OtherNs           int64 `json:"other_ns"`   // never offered: optimizer, evaluation, checkpoints

	// What filling cost the main jobs: FilledIterationNs is the time of iterations
	// beside fill work, JudgedNs the part of it whose slow-down is known, SlowNs
	// the time lost in that part, SlowLoNs and SlowHiNs the ends of its 95 % interval.
	FilledIterationNs int64 `json:"filled_iteration_ns"`
	JudgedNs          int64 `json:"judged_ns"`
	SlowNs            int64 `json:"slow_ns"`
	SlowLoNs          int64 `json:"slow_lo_ns"`
	SlowHiNs          int64 `json:"slow_hi_ns"`
}

// SumNames are the names of Fields, as JSON and the database have them.
var SumNames = []string{
	"completed", "failed", "cancelled", "evicted", "lost", "device_ns", "overrun_ns", "useful_ns", "cpu_ns", "openings", "main_ns",
	"iterations", "control_iterations", "bubble_ns", "offered_ns", "comm_ns", "other_ns", "filled_iteration_ns", "judged_ns",
	"slow_ns", "slow_lo_ns", "slow_hi_ns",
}

// Fields are all fields, in the order of SumNames.
func (s *Sums) Fields() []*int64 {
	return []*int64{
		&s.Completed, &s.Failed, &s.Cancelled, &s.Evicted, &s.Lost, &s.DeviceNs, &s.OverrunNs, &s.UsefulNs, &s.CPUNs, &s.Openings, &s.MainNs,
		&s.Iterations, &s.ControlIterations, &s.BubbleNs, &s.OfferedNs, &s.CommNs, &s.OtherNs, &s.FilledIterationNs, &s.JudgedNs,
		&s.SlowNs, &s.SlowLoNs, &s.SlowHiNs,
	}
}

// Add adds other.
func (s *Sums) Add(other Sums) {
	to := s.Fields()
	for i, v := range other.Fields() {
		*to[i] += *v
	}
}

// Subtract takes other away.
func (s *Sums) Subtract(other Sums) {
	to := s.Fields()
	for i, v := range other.Fields() {
		*to[i] -= *v
	}
}

// Ended counts the fill jobs that ended.
func (s *Sums) Ended() int64 { return s.Completed + s.Failed + s.Cancelled + s.Evicted + s.Lost }

// End counts one that ended.
func (s *Sums) End(o pipefill.Outcome) {
	switch o {
	case pipefill.OutcomeCompleted:
		s.Completed++
	case pipefill.OutcomeFailed:
		s.Failed++
	case pipefill.OutcomeCancelled:
		s.Cancelled++
	case pipefill.OutcomeEvicted:
		s.Evicted++
	case pipefill.OutcomeLost:
		s.Lost++
	}
}

// FilledNs is the device time within bubbles.
func (s *Sums) FilledNs() int64 { return s.DeviceNs - s.OverrunNs }

// ReportRow is one row of a report: of a cluster, user, account, fill job, main
// job or node, which Key names.
type ReportRow struct {
	Key     string `json:"key"`
	User    string `json:"user,omitempty"`
	Account string `json:"account,omitempty"`
	Sums
}

// Report is the sums of a period.
type Report struct {
	Kind    string `json:"kind"`
	Cluster string `json:"cluster"`
	// StartMs and EndMs are what is summed up, half-open: what was asked for,
	// widened to the hours of the site's time zone, and to days where hours are
	// not kept any more.
	StartMs   int64       `json:"start_ms"`
	EndMs     int64       `json:"end_ms"`
	NowMs     int64       `json:"now_ms"`
	TimeZone  string      `json:"time_zone"`
	HourPrice float64     `json:"device_hour_price,omitempty"` // 0: none
	Currency  string      `json:"currency,omitempty"`
	Rows      []ReportRow `json:"rows"`
}

// Report returns the sums of kind (ReportKinds) of [startMs, endMs).
func (c *Client) Report(ctx context.Context, kind string, startMs, endMs int64) (Report, error) {
	q := url.Values{}
	q.Set("start_ms", strconv.FormatInt(startMs, 10))
	q.Set("end_ms", strconv.FormatInt(endMs, 10))
	var report Report
	err := c.call(ctx, http.MethodGet, withQuery("/v1/report/"+url.PathEscape(kind), q), nil, &report)
	return report, err
}
