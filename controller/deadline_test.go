package controller

import (
	"testing"
	"time"
)

func TestReadDeadline(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	submitted := time.Date(2026, 11, 25, 13, 30, 0, 0, zone)
	for text, want := range map[string]string{
		"2026-12-24T18:00:00": "2026-12-24 18:00:00", "2026-12-24T18:00": "2026-12-24 18:00:00", "2026-12-24": "2026-12-24 00:00:00",
		"now": "2026-11-25 13:30:00", "now+90": "2026-11-25 13:31:30", "now+2hours": "2026-11-25 15:30:00", "now+1day": "2026-11-26 13:30:00",
		"now+1week": "2026-12-02 13:30:00", "18:00": "2026-11-25 18:00:00", "12:00": "2026-11-26 12:00:00", "6:05:07": "2026-11-26 06:05:07",
		"12/24": "2026-12-24 00:00:00", "01/02": "2027-01-02 00:00:00", "1224": "2026-12-24 00:00:00", "12/24/27": "2027-12-24 00:00:00", "122427": "2027-12-24 00:00:00",
		"12/24-18:00": "2026-12-24 18:00:00", "12/24/27-18:00:01": "2027-12-24 18:00:01", "noon": "2026-11-26 12:00:00", "midnight": "2026-11-26 00:00:00",
		"teatime": "2026-11-25 16:00:00", "tomorrow": "2026-11-26 00:00:00",
	} {
		got, err := readDeadline(text, submitted, zone)
		if err != nil || got.Format(time.DateTime) != want {
			t.Errorf("%s: %s, %v; want %s", text, got.Format(time.DateTime), err, want)
		}
	}
	for _, text := range []string{"", "soon", "25:00", "now-1hour", "now+1fortnight", "2026-13-01", "13/01", "+", "T", "1", "now+9999999999"} {
		if got, err := readDeadline(text, submitted, zone); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
	if ms, err := optionDeadline("fill,deadline=now+1hour,mode=chunked", submitted.UnixMilli(), zone); err != nil || ms != submitted.Add(time.Hour).UnixMilli() {
		t.Errorf("deadline= gives %d, %v", ms, err)
	}
	if ms, err := optionDeadline("fill,deadline=soon", submitted.UnixMilli(), zone); err == nil || ms != 0 {
		t.Errorf("a deadline that cannot be read gives %d", ms)
	}
	if ms, err := optionDeadline("fill,mode=chunked", submitted.UnixMilli(), zone); err != nil || ms != 0 {
		t.Errorf("no deadline gives %d, %v", ms, err)
	}
}
