package store_test

import (
	"database/sql"
	"fmt"
	"math/big"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the test's zones, also on a machine without them

	"github.com/google/go-cmp/cmp"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/store"
)

// books is a site's accounting of some days around a change of the clocks, and
// how it came about.
type books struct {
	t     *testing.T
	s     *store.Store
	dir   string
	zone  *time.Location
	rng   *rand.Rand
	start time.Time // midnight, three days before the change
	jobs  []bookJob
	sent  map[string][]pipefill.Usage // by node, all records
}

type bookJob struct {
	fillJob, assignment int64
	number              int64
	user, account, node string
	main                int64
	outcome             pipefill.Outcome
	endMs               int64
}

const bookDays = 6

func newBooks(t *testing.T) *books {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	must(t, err)
	b := &books{
		t: t, dir: t.TempDir(), zone: zone, rng: rand.New(rand.NewPCG(7, 7)), start: time.Date(2026, 10, 22, 0, 0, 0, 0, zone),
		sent: map[string][]pipefill.Usage{},
	}
	b.s = open(t, b.dir)
	b.s.Zone = zone
	outcomes := []pipefill.Outcome{pipefill.OutcomeCompleted, pipefill.OutcomeFailed, pipefill.OutcomeEvicted, pipefill.OutcomeCompleted}
	for i := range 40 {
		b.life(i, outcomes[i%len(outcomes)])
	}
	return b
}

// life is a fill job from submission to its end, with its records.
func (b *books) life(i int, outcome pipefill.Outcome) {
	j := job(int64(1 + i))
	j.User, j.Account = []string{"ann", "bob", "eve"}[i%3], []string{"physics", "bio"}[i%2]
	jobs := see(b.t, b.s, j)
	row := jobs[slices.IndexFunc(jobs, func(x store.FillJob) bool { return x.JobID == j.JobID })]
	node := fmt.Sprintf("n%d", i%2)
	device := pipefill.DeviceID(fmt.Sprintf("cpu:%d", i))
	main := pipefill.JobKey{Cluster: "c", JobID: int64(900 + i%3), SubmitMs: 5}
	at := b.start.UnixMilli() + b.rng.Int64N((bookDays-1)*24*3600*1000)
	id, err := b.s.Reserve(b.t.Context(), row, node, device, main, at)
	must(b.t, err)
	bj := bookJob{row.ID, id, j.JobID, j.User, j.Account, node, main.JobID, outcome, 0}
	var records []pipefill.Usage
	for range 60 {
		length := 1 + b.rng.Int64N(15*60*1000)
		records = append(records, pipefill.Usage{
			Ledger: "l" + node, Seq: int64(len(b.sent[node]) + len(records) + 1), AssignmentID: id, FromMs: at, ToMs: at + length,
			DeviceNs: b.rng.Int64N(length * 1e6), CPUNs: b.rng.Int64N(length * 1e6), OverrunNs: b.rng.Int64N(1000), Openings: b.rng.Int64N(100),
		})
		at += length
	}
	late := 50 // the rest comes after the end
	_, err = b.s.TakeUsage(b.t.Context(), node, records[:late])
	must(b.t, err)
	bj.endMs = at
	must(b.t, b.s.End(b.t.Context(), id, outcome, "", 0, outcome, at))
	_, err = b.s.TakeUsage(b.t.Context(), node, records)
	must(b.t, err)
	b.sent[node] = append(b.sent[node], records...)
	b.jobs = append(b.jobs, bj)
}

// independent adds up what the records say of [startMs, endMs), each by big
// fractions of its time, rounded down hour by hour as the ledger's own rule is.
func (b *books) independent(kind string, startMs, endMs int64) map[string]api.Sums {
	out := map[string]api.Sums{}
	key := func(j bookJob) string {
		return map[string]string{
			"cluster": "c", "user": j.user + "/" + j.account, "account": j.account, "job": fmt.Sprint(j.number),
			"main": fmt.Sprint(j.main), "node": j.node,
		}[kind]
	}
	for _, j := range b.jobs {
		sums := out[key(j)]
		for _, u := range b.sent[j.node] {
			if u.AssignmentID != j.assignment {
				continue
			}
			// What had been used up to an instant, by big numbers.
			until := func(total, atMs int64) int64 {
				n := new(big.Int).Mul(big.NewInt(total), big.NewInt(min(max(atMs, u.FromMs), u.ToMs)-u.FromMs))
				return n.Div(n, big.NewInt(u.ToMs-u.FromMs)).Int64()
			}
			within := func(total int64) int64 { return until(total, endMs) - until(total, startMs) }
			sums.DeviceNs += within(u.DeviceNs)
			sums.CPUNs += within(u.CPUNs)
			sums.OverrunNs += within(u.OverrunNs)
			sums.Openings += within(u.Openings)
			if j.outcome == pipefill.OutcomeCompleted {
				sums.UsefulNs += within(u.DeviceNs - u.OverrunNs)
			}
		}
		if j.endMs >= startMs && j.endMs < endMs {
			sums.End(j.outcome)
		}
		if sums != (api.Sums{}) {
			out[key(j)] = sums
		}
	}
	return out
}

func (b *books) report(kind string, startMs, endMs, hourMs int64) map[string]api.Sums {
	b.t.Helper()
	report, err := b.s.Report(b.t.Context(), kind, "", startMs, endMs, hourMs)
	must(b.t, err)
	out := map[string]api.Sums{}
	for _, r := range report.Rows {
		key := r.Key
		if kind == "user" {
			key += "/" + r.Account
		}
		out[key] = r.Sums
	}
	return out
}

// Whatever is asked for adds up to what the nodes' ledgers hold, to the nanosecond.
func TestReport_EqualsTheLedger(t *testing.T) {
	b := newBooks(t)
	hours := int64(25 * bookDays)
	periods := [][2]int64{{0, hours}, {-21 * 24, 10*24 + 1}, {-600, 300}, {0, 24}, {72, 97}, {5, 6}, {71, 99}, {13, 80}}
	for range 6 {
		from := b.rng.Int64N(hours - 1)
		periods = append(periods, [2]int64{from, from + 1 + b.rng.Int64N(hours-from)})
	}
	for _, kind := range api.ReportKinds {
		for _, p := range periods {
			startMs, endMs := b.start.UnixMilli()+p[0]*3_600_000, b.start.UnixMilli()+p[1]*3_600_000
			if d := cmp.Diff(b.independent(kind, startMs, endMs), b.report(kind, startMs, endMs, 0)); d != "" {
				t.Fatalf("report %s from hour %d to %d:\n%s", kind, p[0], p[1], d)
			}
		}
	}
	// Neighbouring periods share nothing and leave nothing out.
	var all api.Sums
	for h := range hours {
		for _, s := range b.report("cluster", b.start.UnixMilli()+h*3_600_000, b.start.UnixMilli()+(h+1)*3_600_000, 0) {
			all.Add(s)
		}
	}
	whole := b.report("cluster", b.start.UnixMilli(), b.start.UnixMilli()+hours*3_600_000, 0)["c"]
	if all != whole {
		t.Errorf("hour by hour %+v\nat once %+v", all, whole)
	}
}

// A user's own, and no more.
func TestReport_OfAUser(t *testing.T) {
	b := newBooks(t)
	end := b.start.AddDate(0, 0, bookDays).UnixMilli()
	mine, err := b.s.Report(t.Context(), "cluster", "ann", b.start.UnixMilli(), end, 0)
	must(t, err)
	all := b.independent("user", b.start.UnixMilli(), end)
	want := all["ann/physics"]
	want.Add(all["ann/bio"])
	if len(mine.Rows) != 1 || mine.Rows[0].Sums != want {
		t.Errorf("ann's cluster report %+v, want %+v", mine.Rows, want)
	}
	jobs, err := b.s.Report(t.Context(), "job", "ann", b.start.UnixMilli(), end, 0)
	must(t, err)
	for _, r := range jobs.Rows {
		if r.User != "ann" {
			t.Errorf("ann sees %+v", r)
		}
	}
	if len(jobs.Rows) != 14 {
		t.Errorf("ann sees %d jobs, want 14", len(jobs.Rows))
	}
}

// What is purged stays summed up, and is not counted when a node sends it again.
func TestPurge(t *testing.T) {
	b := newBooks(t)
	start, end := b.start.UnixMilli(), b.start.AddDate(0, 0, bookDays).UnixMilli()
	before := b.report("user", start, end, 0)
	middle := b.start.AddDate(0, 0, 3)
	count := func(table string) (n int) {
		db, err := sql.Open("sqlite3", filepath.Join(b.dir, "queue.db"))
		must(t, err)
		defer func() { _ = db.Close() }()
		must(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
		return n
	}
	rows := count("usage")
	purged, err := b.s.Purge(t.Context(), store.Keep{RawMs: middle.UnixMilli(), HourMs: middle.UnixMilli()})
	must(t, err)
	if purged == 0 || count("usage") == 0 || count("usage") >= rows || count("fill_job") == 0 || count("fill_job") == 40 {
		t.Fatalf("%d rows purged, of usage %d are left of %d, %d fill jobs", purged, count("usage"), rows, count("fill_job"))
	}
	for node, records := range b.sent {
		ack, err := b.s.TakeUsage(t.Context(), node, records)
		must(t, err)
		if ack["l"+node] != int64(len(records)) {
			t.Errorf("acknowledged %v of %d", ack, len(records))
		}
	}
	if d := cmp.Diff(before, b.report("user", start, end, middle.UnixMilli())); d != "" {
		t.Errorf("after the purge:\n%s", d)
	}
	// Where hours are gone a period is widened to days, and says so.
	report, err := b.s.Report(t.Context(), "user", "", start+3*3_600_000, middle.UnixMilli()+5*3_600_000+1, middle.UnixMilli())
	must(t, err)
	if report.StartMs != start || report.EndMs != middle.UnixMilli()+6*3_600_000 {
		t.Errorf("from %s to %s", time.UnixMilli(report.StartMs), time.UnixMilli(report.EndMs))
	}
	all, err := b.s.Purge(t.Context(), store.Keep{RawMs: end * 2, HourMs: end * 2, DayMs: end * 2})
	must(t, err)
	if n := count("usage") + count("fill_job") + count("assignment") + count("rollup"); n != 0 || all == 0 {
		t.Errorf("%d rows are left of everything", n)
	}
}

// Totals of main jobs are added up by their differences, over restarts of the
// daemon and gaps.
func TestSeeMains_AddsDifferences(t *testing.T) {
	s := open(t, t.TempDir())
	s.Zone = time.UTC
	const hour = 3_600_000
	saw := func(run, atMs int64, totals api.MainTotals) {
		t.Helper()
		m := api.MainDevice{Job: mainJob, UID: 5, Device: "cpu:0", StartedMs: 10 * hour, Totals: totals}
		must(t, s.SeeMains(t.Context(), []store.NodeMains{{Node: "n0", Run: run, Mains: []api.MainDevice{m}}}, map[uint32]string{5: "tim"}, atMs))
	}
	saw(1, 10*hour+hour/2, api.MainTotals{Iterations: 10, BubbleNs: 100, OtherNs: 7})
	saw(1, 10*hour+hour/2, api.MainTotals{Iterations: 10, BubbleNs: 100, OtherNs: 7})
	// A gap over a border: half of it each side.
	saw(1, 11*hour+hour/2, api.MainTotals{Iterations: 30, BubbleNs: 300, OtherNs: 7})
	// Another run of the daemon counts from nothing, from when the last was seen.
	saw(2, 12*hour, api.MainTotals{Iterations: 4, BubbleNs: 50, CommNs: 3, FilledIterationNs: 1000, OverheadLo: -0.2, OverheadHi: 0.2})
	saw(2, 12*hour+1, api.MainTotals{Iterations: 4, BubbleNs: 50, CommNs: 3, FilledIterationNs: 1000, OverheadLo: 0, OverheadHi: 0.02})
	want := map[int64]api.Sums{
		10: {Iterations: 20, BubbleNs: 200, OtherNs: 7},
		11: {Iterations: 14, BubbleNs: 150, CommNs: 3, FilledIterationNs: 1000},
		12: {JudgedNs: 1000, SlowNs: 9, SlowHiNs: 19},
	}
	for _, kind := range []string{"cluster", "node", "main"} {
		for h, sums := range want {
			report, err := s.Report(t.Context(), kind, "", h*hour, (h+1)*hour, 0)
			must(t, err)
			if len(report.Rows) != 1 || report.Rows[0].Sums != sums {
				t.Errorf("report %s of hour %d: %+v, want %+v", kind, h, report.Rows, sums)
			}
		}
	}
	mine, err := s.Report(t.Context(), "main", "tim", 0, 100*hour, 0)
	must(t, err)
	if len(mine.Rows) != 1 || mine.Rows[0].User != "tim" || mine.Rows[0].Key != "99" {
		t.Errorf("tim's main jobs: %+v", mine.Rows)
	}
}
