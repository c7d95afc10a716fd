package controller

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"pipefill"
)

// deadlineForms are those of sbatch --deadline that name a day, by length.
var deadlineForms = []string{
	"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02", "01/02/06-15:04:05", "01/02/06-15:04", "01/02-15:04:05", "01/02-15:04",
	"01/02/06", "01/02", "010206", "0102",
}

var (
	deadlineNow   = regexp.MustCompile(`^now(?:\+(\d{1,9})(|seconds?|minutes?|hours?|days?|weeks?))?$`)
	deadlineClock = regexp.MustCompile(`^(\d{1,2}):(\d{2})(?::(\d{2}))?$`)
	deadlineUnits = map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
)

// readDeadline reads TIME of deadline= as sbatch --deadline takes it, relative to
// a job's submission and in the site's time zone: a day without a time is its
// begin, a time without a day the next such. The plugin has checked only its
// characters.
func readDeadline(text string, submitted time.Time, zone *time.Location) (time.Time, error) {
	text, at := strings.ReplaceAll(text, ".", "/"), submitted.In(zone)
	if m := deadlineNow.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi("0" + m[1]) // digits, by the pattern
		unit := time.Second
		if m[2] != "" {
			unit = deadlineUnits[m[2][0]]
		}
		if limit := int(100 * 365 * 24 * time.Hour / unit); n > limit {
			n = limit
		}
		return at.Add(time.Duration(n) * unit), nil
	}
	year, month, day := at.Date()
	switch text {
	case "midnight", "noon", "fika", "teatime":
		text = map[string]string{"midnight": "00:00", "noon": "12:00", "fika": "15:00", "teatime": "16:00"}[text]
	case "today":
		return time.Date(year, month, day, 0, 0, 0, 0, zone), nil
	case "tomorrow":
		return time.Date(year, month, day+1, 0, 0, 0, 0, zone), nil
	}
	if m := deadlineClock.FindStringSubmatch(text); m != nil {
		clock, err := time.Parse("15:04:05", m[1]+":"+m[2]+":"+(m[3] + "00")[:2])
		if err == nil {
			next := time.Date(year, month, day, clock.Hour(), clock.Minute(), clock.Second(), 0, zone)
			if !next.After(at) {
				next = next.AddDate(0, 0, 1)
			}
			return next, nil
		}
	}
	for _, form := range deadlineForms {
		t, err := time.ParseInLocation(form, text, zone)
		if err != nil {
			continue
		}
		if t.Year() == 0 { // no year: the next such day
			t = time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, zone)
			if t.Before(time.Date(year, month, day, 0, 0, 0, 0, zone)) {
				t = t.AddDate(1, 0, 0)
			}
		}
		return t, nil
	}
	return time.Time{}, pipefill.Errorf(pipefill.CodeInvalid, "deadline=%.40s: write a time as sbatch --deadline takes it, like 2026-12-24T18:00:00", text)
}

// optionDeadline is deadline=, 0 where there is none, and an error where it cannot
// be read: such a job is scheduled as one without.
func optionDeadline(options string, submitMs int64, zone *time.Location) (int64, error) {
	text := option(options, "deadline")
	if text == "" {
		return 0, nil
	}
	at, err := readDeadline(text, time.UnixMilli(submitMs), zone)
	if err != nil {
		return 0, err
	}
	return at.UnixMilli(), nil
}

// ignored is what a waiting job's reason goes on with where something of its
// options has no effect; "" where all has.
func (c *Controller) ignored(number int64) string {
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	w := c.mirror.jobs[number]
	if w == nil {
		return ""
	}
	if _, err := optionDeadline(w.Options, w.SubmitMs, c.store.Zone); err != nil {
		return "; it has no deadline: " + err.Error()
	}
	return ""
}
