package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/store"
)

// How long an attempt was thought to take is kept beside how long it took, of
// those that completed.
func TestStore_Predictions(t *testing.T) {
	s := open(t, t.TempDir())
	for id, tc := range []struct {
		expectMs, tookMs int64
		source           string
		outcome          pipefill.Outcome
	}{
		{1000, 2000, "history", pipefill.OutcomeCompleted},
		{1000, 500, "history", pipefill.OutcomeCompleted},
		{1000, 900, "history", pipefill.OutcomeCompleted},
		{8000, 1000, "limit", pipefill.OutcomeCompleted},
		{1000, 7, "limit", pipefill.OutcomeFailed},
		{0, 7, "", pipefill.OutcomeCompleted},
	} {
		j := see(t, s, job(int64(id+1)))[0]
		j.OnSlotMs, j.Source = tc.expectMs, tc.source
		a, err := s.Reserve(t.Context(), j, "n0", "cpu:0", mainJob, 10_000)
		must(t, err)
		must(t, s.Advance(t.Context(), a, pipefill.AssignmentRunning, 20_000))
		must(t, s.End(t.Context(), a, tc.outcome, "", 0, tc.outcome, 20_000+tc.tookMs))
	}
	got, err := s.Predictions(t.Context(), 0)
	must(t, err)
	want := []api.Prediction{
		{Source: "history", Count: 3, Factor: 0.9, Off: 2, Off90: 2}, {Source: "limit", Count: 1, Factor: 0.125, Off: 8, Off90: 8},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, err := s.Predictions(t.Context(), 20_950); err != nil || len(got) != 2 || got[0].Count != 1 || got[1].Count != 1 {
		t.Errorf("since a time: %v, %v", got, err)
	}
}

// Fair-share's usage is by the hour for the last days and by the day before, each
// record once.
func TestStore_UsageOfUsers(t *testing.T) {
	s := open(t, t.TempDir())
	j := see(t, s, job(1))[0]
	a, err := s.Reserve(t.Context(), j, "n0", "cpu:0", mainJob, 10_000)
	must(t, err)
	const day = int64(86_400_000)
	now := int64(20_000) * day
	var records []pipefill.Usage
	for i, daysAgo := range []int64{0, 1, 2, 3, 5, 20, 200} {
		at := now - daysAgo*day
		records = append(records, pipefill.Usage{Ledger: "l", Seq: int64(i + 1), AssignmentID: a, FromMs: at - 1000, ToMs: at, DeviceNs: 1e9 << i})
	}
	_, err = s.TakeUsage(t.Context(), "n0", records)
	must(t, err)
	got, err := s.UsageOfUsers(t.Context(), now, now-70*day)
	must(t, err)
	sum := 0.0
	for _, u := range got {
		sum += u.Seconds
		if u.User != "ann" || u.AtMs < now-21*day || u.AtMs > now+day {
			t.Errorf("usage %+v", u)
		}
	}
	if sum != 1+2+4+8+16+32 {
		t.Errorf("%v seconds in all, want each record of the last 70 days once", sum)
	}
}

var _ = store.UserUsage{}
