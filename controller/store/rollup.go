package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/account"
)

// subject is what sums are about: a row of the roll-ups for each hour and day.
type subject struct {
	kind    string // as in rollup.kind
	key     string
	account string
	user    string
}

// owner is whom an assignment's usage counts for.
type owner struct {
	node    string
	outcome pipefill.Outcome
	cluster string
	mainJob int64
	jobID   int64
	user    string
	account string
}

func (o owner) subjects() []subject {
	return append(o.job(), subject{kind: "node", key: o.node}, subject{kind: "main", key: fmt.Sprint(o.mainJob)})
}

// job are the subjects that a fill job's end counts for, wherever it ran.
func (o owner) job() []subject {
	return []subject{
		{kind: "cluster", key: o.cluster},
		{kind: "user", key: o.user, account: o.account, user: o.user},
		{kind: "job", key: fmt.Sprint(o.jobID), account: o.account, user: o.user},
	}
}

// ownerOf looks an assignment up, once; nil for one that there is not.
func ownerOf(ctx context.Context, tx *sql.Tx, known map[int64]*owner, id int64) (*owner, error) {
	if o, ok := known[id]; ok {
		return o, nil
	}
	var o owner
	err := tx.QueryRowContext(ctx, `SELECT a.node, a.outcome, j.cluster, a.main_job_id, j.job_id, j.user, j.account
		FROM assignment a JOIN fill_job j ON j.id = a.fill_job_id WHERE a.id = ?`, id).
		Scan(&o.node, &o.outcome, &o.cluster, &o.mainJob, &o.jobID, &o.user, &o.account)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		known[id] = nil
	case err != nil:
		return nil, err
	default:
		known[id] = &o
	}
	return known[id], nil
}

// rollupRow names a row of the table rollup.
type rollupRow struct {
	subject

	grain   account.Grain
	startMs int64
}

// rollup gathers what a transaction adds to the roll-ups.
type rollup struct {
	zone *time.Location
	rows map[rollupRow]*api.Sums
}

func newRollup(zone *time.Location) *rollup {
	return &rollup{zone: zone, rows: map[rollupRow]*api.Sums{}}
}

// add shares sums of [fromMs, toMs) out among the hours, for each subject.
func (r *rollup) add(sums api.Sums, fromMs, toMs int64, subjects ...subject) {
	if sums == (api.Sums{}) {
		return
	}
	for _, piece := range account.Split(sums, fromMs, toMs, r.zone) {
		for _, grain := range account.Grains {
			startMs := account.Floor(grain, piece.StartMs, r.zone)
			for _, s := range subjects {
				row := rollupRow{s, grain, startMs}
				if r.rows[row] == nil {
					r.rows[row] = &api.Sums{}
				}
				r.rows[row].Add(piece.Sums)
			}
		}
	}
}

// at counts something that has no length.
func (r *rollup) at(sums api.Sums, atMs int64, subjects ...subject) {
	r.add(sums, atMs, atMs, subjects...)
}

// addToRollup is the statement that adds to the columns of a set, bit by bit as in
// api.SumNames: of two dozen a usage record changes four or five, and each that
// is named costs as much as another.
func addToRollup(columns uint32) string {
	if text, ok := rollupTexts.Load(columns); ok {
		return text.(string) //nolint:errcheck,forcetypeassert // nothing else is stored
	}
	names, marks, set := "kind, grain, start_ms, key, account, user", "?, ?, ?, ?, ?, ?", "user = iif(excluded.user = '', user, excluded.user)"
	for i, name := range api.SumNames {
		if columns&(1<<i) != 0 {
			names, marks, set = names+", "+name, marks+", ?", set+", "+name+" = "+name+" + excluded."+name
		}
	}
	text := "INSERT INTO rollup (" + names + ") VALUES (" + marks + ") ON CONFLICT (kind, grain, start_ms, key, account) DO UPDATE SET " + set
	rollupTexts.Store(columns, text)
	return text
}

// rollupTexts are of the sets that there were.
var rollupTexts sync.Map

// save writes what was gathered, in a fixed order.
func (r *rollup) save(ctx context.Context, tx *sql.Tx) error {
	rows := slices.SortedFunc(maps.Keys(r.rows), func(a, b rollupRow) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.grain, b.grain), cmp.Compare(a.startMs, b.startMs),
			cmp.Compare(a.key, b.key), cmp.Compare(a.account, b.account), cmp.Compare(a.user, b.user))
	})
	for _, row := range rows {
		args := []any{row.kind, row.grain, row.startMs, row.key, row.account, row.user}
		columns := uint32(0)
		for i, v := range r.rows[row].Fields() {
			if *v != 0 {
				columns |= 1 << i
				args = append(args, *v)
			}
		}
		// Not prepared here: only what the driver prepares is kept for the next time.
		if _, err := tx.ExecContext(ctx, addToRollup(columns), args...); err != nil {
			return fmt.Errorf("roll up: %w", err)
		}
	}
	return nil
}

// rollUpEnd counts the end of an attempt, and what it used as useful where it
// completed: its records, so far; those that come later count themselves.
func (s *Store) rollUpEnd(ctx context.Context, tx *sql.Tx, id int64, outcome pipefill.Outcome, nowMs int64) error {
	o, err := ownerOf(ctx, tx, map[int64]*owner{}, id)
	if err != nil || o == nil {
		return err
	}
	sums := newRollup(s.Zone)
	var ended api.Sums
	ended.End(outcome)
	sums.at(ended, nowMs, subject{kind: "node", key: o.node}, subject{kind: "main", key: fmt.Sprint(o.mainJob)})
	if outcome == pipefill.OutcomeCompleted {
		records, err := query(ctx, tx, scanUsage, "SELECT "+usageColumns+" FROM usage WHERE assignment_id = ?", id)
		if err != nil {
			return err
		}
		for _, u := range records {
			sums.add(api.Sums{UsefulNs: u.DeviceNs - u.OverrunNs}, u.FromMs, u.ToMs, o.subjects()...)
		}
	}
	return sums.save(ctx, tx)
}

// rollUpJobEnd counts the end of a fill job.
func (s *Store) rollUpJobEnd(ctx context.Context, tx *sql.Tx, fillJobID int64, outcome pipefill.Outcome, nowMs int64) error {
	var o owner
	err := tx.QueryRowContext(ctx, "SELECT cluster, job_id, user, account FROM fill_job WHERE id = ?", fillJobID).
		Scan(&o.cluster, &o.jobID, &o.user, &o.account)
	if err != nil {
		return err
	}
	sums := newRollup(s.Zone)
	var ended api.Sums
	ended.End(outcome)
	sums.at(ended, nowMs, o.job()...)
	return sums.save(ctx, tx)
}

const usageColumns = "ledger, seq, assignment_id, from_ms, to_ms, device_ns, cpu_ns, overrun_ns, openings"

func scanUsage(r *sql.Rows) (pipefill.Usage, error) {
	var u pipefill.Usage
	err := r.Scan(&u.Ledger, &u.Seq, &u.AssignmentID, &u.FromMs, &u.ToMs, &u.DeviceNs, &u.CPUNs, &u.OverrunNs, &u.Openings)
	return u, err
}
