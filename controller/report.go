package controller

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill"
	"pipefill/controller/account"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// dayMs is a day without a change of the clocks: how long rows are kept is not
// counted to the hour.
const dayMs = 24 * 3600 * 1000

// keepEvery is how often what is past its time is purged.
const keepEvery = time.Hour

// checkAccounting is check for the keys of the accounting.
func (c *Config) checkAccounting(rule func(holds bool, format string, args ...any)) {
	_, err := c.zone()
	rule(err == nil, "time_zone: %q: write a name of the IANA database, as Europe/Berlin, or \"\" for this host's", c.TimeZone)
	rule(c.KeepRawDays >= 1 && c.KeepRawDays <= 36500, "keep_raw_days: %d: write 1 to 36500", c.KeepRawDays)
	rule(c.KeepHourlyDays >= 2 && c.KeepHourlyDays <= 36500, "keep_hourly_days: %d: write 2 to 36500", c.KeepHourlyDays)
	rule(c.KeepDailyDays == 0 || c.KeepDailyDays >= c.KeepHourlyDays && c.KeepDailyDays <= 36500,
		"keep_daily_days: %d: write at least keep_hourly_days (%d), or 0 for ever", c.KeepDailyDays, c.KeepHourlyDays)
	rule(slices.Contains([]string{"", string(slurm.FieldComment), string(slurm.FieldAdminComment)}, c.JobComment),
		"job_comment: %q: write comment, admin_comment, or \"\" for none", c.JobComment)
	rule(c.DeviceHourPrice >= 0 && !math.IsInf(c.DeviceHourPrice, 0) && !math.IsNaN(c.DeviceHourPrice),
		"device_hour_price: %g: write what a device costs for an hour, 0 for no prices", c.DeviceHourPrice)
	rule(len(c.Currency) <= 8 && !strings.ContainsAny(c.Currency, "|\n\x00"), "currency: %q: write a sign or code of at most 8 bytes, as EUR", c.Currency)
}

// zone is time_zone.
func (c *Config) zone() (*time.Location, error) {
	if c.TimeZone == "" {
		return time.Local, nil //nolint:gosmopolitan // the site's own
	}
	return time.LoadLocation(c.TimeZone)
}

// owners are the names of main jobs' users; a uid without a name is written in
// digits.
func (c *Controller) owners(nodes []store.NodeMains) map[uint32]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[uint32]string{}
	for _, n := range nodes {
		for _, m := range n.Mains {
			if _, known := c.names[m.UID]; !known {
				c.names[m.UID] = nameOf(m.UID)
			}
			out[m.UID] = c.names[m.UID]
		}
	}
	return out
}

func nameOf(uid uint32) string {
	name, err := userName(uid)
	if err != nil {
		return strconv.FormatUint(uint64(uid), 10)
	}
	return name
}

// hoursFrom is since when hours are kept.
func (c *Controller) hoursFrom() int64 {
	return account.Floor(account.Day, c.now().UnixMilli()-c.cfg.KeepHourlyDays*dayMs, c.store.Zone)
}

// report sums usage up; others than operators see their own.
func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	who, kind := callerOf(r), r.PathValue("kind")
	startMs, err1 := strconv.ParseInt(r.URL.Query().Get("start_ms"), 10, 64)
	endMs, err2 := strconv.ParseInt(r.URL.Query().Get("end_ms"), 10, 64)
	const latest = 1 << 48 // ms: the year 10889; what calendars can do
	if err1 != nil || err2 != nil || endMs <= startMs || startMs < 0 || endMs > latest {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeInvalid, "report: start_ms and end_ms: write milliseconds since 1970, the start before the end"))
		return
	}
	user := who.name
	if who.operator {
		user = ""
	} else if kind == "node" {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeDenied, "report node: for operators; report main and report user have your own jobs"))
		return
	}
	c := s.controller
	report, err := c.store.Report(r.Context(), kind, user, startMs, endMs, c.hoursFrom())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	report.Cluster, report.NowMs, report.TimeZone = c.cfg.Cluster, c.now().UnixMilli(), c.store.Zone.String()
	report.HourPrice, report.Currency = c.cfg.DeviceHourPrice, c.cfg.Currency
	s.answer(w, r, http.StatusOK, report)
}

// keep purges what is past its time, now and every hour.
func (c *Controller) keep(ctx context.Context) {
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := c.purge(ctx)
		c.fault("purge", err)
		if err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "old rows were not purged, it is tried again", "err", err)
		}
		timer.Reset(keepEvery)
	}
}

func (c *Controller) purge(ctx context.Context) error {
	nowMs := c.now().UnixMilli()
	before := store.Keep{RawMs: nowMs - c.cfg.KeepRawDays*dayMs, HourMs: c.hoursFrom()}
	if c.cfg.KeepDailyDays > 0 {
		before.DayMs = account.Floor(account.Day, nowMs-c.cfg.KeepDailyDays*dayMs, c.store.Zone)
	}
	n, err := c.store.Purge(ctx, before)
	if n > 0 {
		c.log.InfoContext(ctx, "old rows purged", "rows", n)
	}
	return err
}
