package account_test

import (
	"math"
	"testing"
	"time"
	_ "time/tzdata" // the test's zones, also on a machine without them

	"pgregory.net/rapid"

	"pipefill/api"
	"pipefill/controller/account"
)

func zone(t interface{ Fatal(...any) }, name string) *time.Location {
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// Days are as long as the calendar says, where and when clocks change.
func TestDays(t *testing.T) {
	for _, c := range []struct {
		zone, within string
		start        string
		hours        float64
	}{
		{"UTC", "2026-03-29T12:00:00Z", "2026-03-29T00:00:00Z", 24},
		{"Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", 23},
		{"Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", 25},
		{"Asia/Kolkata", "2026-03-29T12:00:00Z", "2026-03-28T18:30:00Z", 24},
		// Midnight was skipped.
		{"America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", 23},
		// Midnight was twice.
		{"America/Havana", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", 25},
		{"Australia/Lord_Howe", "2026-04-05T03:00:00Z", "2026-04-04T13:00:00Z", 24.5},
	} {
		z := zone(t, c.zone)
		at, err1 := time.Parse(time.RFC3339, c.within)
		start, err2 := time.Parse(time.RFC3339, c.start)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		got := account.Floor(account.Day, at.UnixMilli(), z)
		if got != start.UnixMilli() {
			t.Errorf("%s: the day of %s begins at %s, want %s", c.zone, c.within, time.UnixMilli(got).UTC(), c.start)
		}
		if next := account.Next(account.Day, at.UnixMilli(), z); float64(next-got)/3.6e6 != c.hours {
			t.Errorf("%s: the day of %s has %g hours, want %g", c.zone, c.within, float64(next-got)/3.6e6, c.hours)
		}
		if account.Ceil(account.Day, got, z) != got || account.Ceil(account.Day, got+1, z) != account.Next(account.Day, got, z) {
			t.Errorf("%s: Ceil is not right around %s", c.zone, c.start)
		}
	}
}

var zones = []string{"UTC", "Europe/Berlin", "Asia/Kolkata", "America/Sao_Paulo", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia"}

// Hours and days part all time among them: names rise, and an hour lies in one day.
func TestFloor_IsAPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))
		at := rapid.Int64Range(1.5e12, 1.9e12).Draw(t, "at")
		step := rapid.Int64Range(0, 200_000_000).Draw(t, "step")
		for _, g := range account.Grains {
			a, b := account.Floor(g, at, z), account.Floor(g, at+step, z)
			if a > at || a > b {
				t.Fatalf("%s of %d is %d, of %d %d", g, at, a, at+step, b)
			}
			if next := account.Next(g, at, z); next <= at-1_800_000 || account.Floor(g, a, z) != a {
				t.Fatalf("%s of %d: from %d to %d", g, at, a, next)
			}
		}
		if d := account.Floor(account.Day, account.Floor(account.Hour, at, z), z); d != account.Floor(account.Day, at, z) {
			t.Fatalf("the hour of %d lies in another day", at)
		}
	})
}

// Whatever is shared out adds up to the nanosecond, negative sums too.
func TestSplit_AddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))
		from := rapid.Int64Range(1.5e12, 1.9e12).Draw(t, "from")
		length := rapid.Int64Range(-5, 8*24*3.6e6).Draw(t, "length")
		sums := api.Sums{
			DeviceNs: rapid.Int64Range(0, math.MaxInt64).Draw(t, "device"), SlowNs: rapid.Int64Range(math.MinInt64+1, 0).Draw(t, "slow"),
			Openings: rapid.Int64Range(0, 3).Draw(t, "openings"),
		}
		var total api.Sums
		last := int64(0)
		for _, p := range account.Split(sums, from, from+length, z) {
			if p.StartMs < last || p.StartMs != account.Floor(account.Hour, p.StartMs, z) {
				t.Fatalf("a piece of %d after one of %d", p.StartMs, last)
			}
			last = p.StartMs
			total.Add(p.Sums)
		}
		if total != sums {
			t.Fatalf("%+v is shared out as %+v", sums, total)
		}
	})
}

func TestSplit_InProportion(t *testing.T) {
	const hour = 3_600_000
	got := account.Split(api.Sums{DeviceNs: 1000}, 10*hour-hour/4, 11*hour+hour/4, time.UTC)
	want := []int64{166, 667, 167} // 1/4, 1 and 1/4 of 1.5 hours; each border rounded down
	if len(got) != 3 || got[0].Sums.DeviceNs != want[0] || got[1].Sums.DeviceNs != want[1] || got[2].Sums.DeviceNs != want[2] {
		t.Errorf("got %+v, want %v", got, want)
	}
	if got := account.Split(api.Sums{DeviceNs: 7}, 9*hour, 10*hour, time.UTC); len(got) != 1 || got[0].StartMs != 9*hour {
		t.Errorf("an hour up to its end: %+v", got)
	}
}

func TestMain_Slowdown(t *testing.T) {
	known := account.Main(api.MainTotals{FilledIterationNs: 1e12, OverheadLo: -0.001, OverheadHi: 0.005})
	if known.JudgedNs != 1e12 || known.SlowNs < 1.99e9 || known.SlowNs > 2e9 || known.SlowLoNs > -1e9 || known.SlowHiNs < 4.9e9 || known.SlowHiNs > 5e9 {
		t.Errorf("%+v", known)
	}
	for name, totals := range map[string]api.MainTotals{
		"nothing known": {FilledIterationNs: 5}, "too few pairs": {FilledIterationNs: 5, OverheadLo: -0.2, OverheadHi: 0.2},
		"no numbers": {FilledIterationNs: 5, OverheadLo: math.NaN(), OverheadHi: 1},
	} {
		if s := account.Main(totals); s.JudgedNs != 0 || s.SlowNs != 0 || s.SlowHiNs != 0 || s.FilledIterationNs != 5 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
