package store

import (
	"context"
	"database/sql"
)

// Keep says from when on rows are kept, in ms since 1970.
type Keep struct {
	RawMs  int64 // fill jobs that have ended, with their attempts and usage, and main jobs' totals
	HourMs int64 // roll-ups by hour, and the audit log
	DayMs  int64 // roll-ups by day and month
}

// purgeAtOnce bounds a transaction, so that nodes are not kept waiting.
const purgeAtOnce = 5000

// Purge removes what is older, and returns how many rows. What the roll-ups sum
// up stays summed up, and no record of a ledger can be counted a second time.
func (s *Store) Purge(ctx context.Context, keep Keep) (rows int64, err error) {
	for _, step := range []struct {
		doing  string
		before int64
		remove func(ctx context.Context, tx *sql.Tx, beforeMs int64) (int64, error)
	}{
		{"purge usage", keep.RawMs, purgeUsage},
		{"purge assignments", keep.RawMs, purgeBy(`DELETE FROM assignment WHERE id IN (SELECT a.id FROM fill_job j JOIN assignment a ON a.fill_job_id = j.id
			WHERE j.outcome <> '' AND j.ended_ms < ?1 AND a.state = 'ended' AND NOT EXISTS (SELECT 1 FROM usage u WHERE u.assignment_id = a.id) LIMIT ?2)`)},
		{"purge fill jobs", keep.RawMs, purgeBy(`DELETE FROM fill_job WHERE id IN (SELECT j.id FROM fill_job j
			WHERE j.outcome <> '' AND j.ended_ms < ?1 AND NOT EXISTS (SELECT 1 FROM assignment a WHERE a.fill_job_id = j.id) LIMIT ?2)`)},
		{"purge main jobs", keep.RawMs, purgeBy(`DELETE FROM main_total WHERE (node, device, job_id, started_ms, run) IN
			(SELECT node, device, job_id, started_ms, run FROM main_total WHERE seen_ms < ?1 LIMIT ?2)`)},
		{"purge hours", keep.HourMs, purgeRollup("hour")},
		{"purge days", keep.DayMs, purgeRollup("day")},
		{"purge months", keep.DayMs, purgeRollup("month")},
	} {
		for ctx.Err() == nil {
			var n int64
			err := s.write(step.doing, func(ctx context.Context, tx *sql.Tx) (err error) {
				n, err = step.remove(ctx, tx, step.before)
				return err
			})
			rows += n
			if err != nil {
				return rows, err
			}
			if n < purgeAtOnce {
				break
			}
		}
	}
	return rows, ctx.Err()
}

func purgeBy(text string) func(context.Context, *sql.Tx, int64) (int64, error) {
	return func(ctx context.Context, tx *sql.Tx, beforeMs int64) (int64, error) {
		result, err := tx.ExecContext(ctx, text, beforeMs, purgeAtOnce)
		if err != nil {
			return 0, err
		}
		return result.RowsAffected()
	}
}

// purgeRollup goes kind by kind, along the primary key.
func purgeRollup(grain string) func(context.Context, *sql.Tx, int64) (int64, error) {
	return func(ctx context.Context, tx *sql.Tx, beforeMs int64) (rows int64, err error) {
		for _, kind := range []string{"cluster", "user", "job", "main", "node"} {
			if rows >= purgeAtOnce {
				break
			}
			result, err := tx.ExecContext(ctx, `DELETE FROM rollup WHERE kind = ?1 AND grain = ?2 AND (start_ms, key, account) IN
				(SELECT start_ms, key, account FROM rollup WHERE kind = ?1 AND grain = ?2 AND start_ms < ?3 LIMIT ?4)`, kind, grain, beforeMs, purgeAtOnce-rows)
			if err != nil {
				return rows, err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return rows, err
			}
			rows += n
		}
		return rows, nil
	}
}

// purgeUsage removes records of jobs that have ended, and remembers up to where
// each ledger was counted.
func purgeUsage(ctx context.Context, tx *sql.Tx, beforeMs int64) (int64, error) {
	type record struct {
		node, ledger string
		seq          int64
	}
	gone, err := query(ctx, tx, func(r *sql.Rows) (record, error) {
		var out record
		err := r.Scan(&out.node, &out.ledger, &out.seq)
		return out, err
	}, `DELETE FROM usage WHERE (node, ledger, seq) IN (SELECT u.node, u.ledger, u.seq
			FROM fill_job j JOIN assignment a ON a.fill_job_id = j.id JOIN usage u ON u.assignment_id = a.id
			WHERE j.outcome <> '' AND j.ended_ms < ?1 AND a.state = 'ended' AND u.to_ms < ?1 LIMIT ?2)
		RETURNING node, ledger, seq`, beforeMs, purgeAtOnce)
	if err != nil {
		return 0, err
	}
	type key struct{ node, ledger string }
	last := map[key]int64{}
	for _, r := range gone {
		last[key{r.node, r.ledger}] = max(last[key{r.node, r.ledger}], r.seq)
	}
	for k, seq := range last {
		_, err := tx.ExecContext(ctx, `INSERT INTO ledger (node, ledger, purged) VALUES (?, ?, ?)
			ON CONFLICT (node, ledger) DO UPDATE SET purged = max(purged, excluded.purged)`, k.node, k.ledger, seq)
		if err != nil {
			return 0, err
		}
	}
	return int64(len(gone)), nil
}
