package store

import (
	"context"
	"database/sql"
)

// Counts are how many fill jobs there are now, by what they are at: "held" by
// their users, "queued", or an assignment's state. Two index scans.
func (s *Store) Counts(ctx context.Context) (map[string]int64, error) {
	type count struct {
		state string
		n     int64
	}
	scan := func(rows *sql.Rows) (count, error) {
		var c count
		return c, rows.Scan(&c.state, &c.n)
	}
	assigned, err := query(ctx, s.reader, scan, `SELECT state, count(*) FROM assignment WHERE state <> 'ended' GROUP BY state`)
	if err != nil {
		return nil, err
	}
	open, err := query(ctx, s.reader, scan,
		`SELECT iif(user_held, 'held', 'queued'), count(*) FROM fill_job WHERE outcome = '' GROUP BY user_held`)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{"held": 0, "queued": 0, "reserved": 0, "released": 0, "attached": 0, "running": 0}
	for _, c := range open {
		counts[c.state] += c.n
	}
	for _, c := range assigned {
		counts[c.state] += c.n
		counts["queued"] -= c.n
	}
	counts["queued"] = max(0, counts["queued"]) // the two scans are not of one moment
	return counts, nil
}
