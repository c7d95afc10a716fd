package store

import (
	"context"
	"database/sql"
	"math"
	"slices"
	"time"

	"pipefill/api"
	"pipefill/controller/account"
)

// predictionsRead bounds how many of the latest are read.
const predictionsRead = 10_000

// Predictions tells, by where they were from, how good the expected times of the
// attempts were that completed since sinceMs.
func (s *Store) Predictions(ctx context.Context, sinceMs int64) ([]api.Prediction, error) {
	type row struct {
		source string
		factor float64 // took / expected
	}
	rows, err := query(ctx, s.reader, func(r *sql.Rows) (row, error) {
		var out row
		var expect, took float64
		err := r.Scan(&out.source, &expect, &took)
		out.factor = took / expect
		return out, err
	}, `SELECT expect_from, expect_ms, took_ms FROM assignment WHERE took_ms > 0 AND ended_ms >= ? ORDER BY ended_ms DESC LIMIT ?`, sinceMs, predictionsRead)
	if err != nil {
		return nil, err
	}
	bySource := map[string][]float64{}
	for _, r := range rows {
		bySource[r.source] = append(bySource[r.source], r.factor)
	}
	var out []api.Prediction
	for source, factors := range bySource {
		out = append(out, predictionOf(source, factors))
	}
	slices.SortFunc(out, func(a, b api.Prediction) int { return int(b.Count - a.Count) })
	return out, nil
}

func predictionOf(source string, factors []float64) api.Prediction {
	off := make([]float64, len(factors))
	for i, f := range factors {
		off[i] = max(f, 1/f)
	}
	slices.Sort(factors)
	slices.Sort(off)
	return api.Prediction{
		Source: source, Count: int64(len(factors)), Factor: factors[len(factors)/2], Off: off[len(off)/2], Off90: off[int(math.Ceil(0.9*float64(len(off))))-1],
	}
}

// UserUsage is device time that a user's jobs in an account used at about AtMs.
type UserUsage struct {
	User, Account string
	AtMs          int64
	Seconds       float64
}

// UsageOfUsers is the device time of users in accounts by hour for the last days,
// and by day before them, since sinceMs: what fair-share decays.
func (s *Store) UsageOfUsers(ctx context.Context, nowMs, sinceMs int64) ([]UserUsage, error) {
	const hoursFor = 3 * 24 * time.Hour
	edge := account.Floor(account.Day, nowMs-hoursFor.Milliseconds(), s.Zone)
	return query(ctx, s.reader, func(r *sql.Rows) (UserUsage, error) {
		var out UserUsage
		var ns int64
		err := r.Scan(&out.User, &out.Account, &out.AtMs, &ns)
		out.Seconds = float64(ns) / 1e9
		return out, err
	}, `SELECT key, account, start_ms + 1800000, device_ns FROM rollup WHERE kind = 'user' AND grain = 'hour' AND start_ms >= ?1
		UNION ALL SELECT key, account, start_ms + 43200000, device_ns FROM rollup WHERE kind = 'user' AND grain = 'day' AND start_ms >= ?2 AND start_ms < ?1`,
		edge, sinceMs)
}
