package store

import (
	"context"
	"database/sql"
	"fmt"

	"pipefill"
	"pipefill/api"
)

// TakeUsage counts a node's ledger records, each exactly once, and returns up to
// which number each ledger is counted. Records of an assignment that this
// database does not know are counted for nobody, but acknowledged: they can
// never be.
func (s *Store) TakeUsage(ctx context.Context, node string, records []pipefill.Usage) (map[string]int64, error) {
	ack := map[string]int64{}
	if len(records) == 0 {
		return ack, nil
	}
	err := s.write(ctx, "take usage", func(tx *sql.Tx) error {
		for _, u := range records {
			_, err := tx.ExecContext(ctx, `INSERT INTO usage (node, ledger, seq, assignment_id, from_ms, to_ms, device_ns, cpu_ns, overrun_ns, openings)
				SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 WHERE EXISTS (SELECT 1 FROM assignment WHERE id = ?4 AND node = ?1)
				ON CONFLICT DO NOTHING`,
				node, u.Ledger, u.Seq, u.AssignmentID, u.FromMs, u.ToMs, u.DeviceNs, u.CPUNs, u.OverrunNs, u.Openings)
			if err != nil {
				return fmt.Errorf("ledger %s record %d: %w", u.Ledger, u.Seq, err)
			}
			ack[u.Ledger] = max(ack[u.Ledger], u.Seq)
		}
		return nil
	})
	return ack, err
}

// SeeMains writes the totals of a node's main devices.
func (s *Store) SeeMains(ctx context.Context, node string, mains []api.MainDevice, nowMs int64) error {
	if len(mains) == 0 {
		return nil
	}
	return s.write(ctx, "see main jobs", func(tx *sql.Tx) error {
		for _, m := range mains {
			_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO main_device (node, device, job_id, submit_ms, restarts, started_ms, seen_ms,
					iterations, control_iterations, bubble_ns, offered_ns, filled_ns, overhead_lo, overhead_hi)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
				node, m.Device, m.Job.JobID, m.Job.SubmitMs, m.Job.Restarts, m.StartedMs, nowMs,
				m.Totals.Iterations, m.Totals.ControlIterations, m.Totals.BubbleNs, m.Totals.OfferedNs, m.Totals.FilledNs,
				m.Totals.OverheadLo, m.Totals.OverheadHi)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// What the rows of each report are about. Usage counts where it ended, jobs
// where they ended.
var reportKeys = map[string]string{
	"cluster": "j.cluster",
	"user":    "j.user",
	"account": "j.account",
	"job":     "CAST(j.job_id AS TEXT)",
}

// Report sums usage and outcomes within [startMs, endMs) by cluster, user,
// account or job; user narrows it to one user's jobs. Kind main is about main
// jobs, by node and device.
func (s *Store) Report(ctx context.Context, kind, user string, startMs, endMs int64) ([]api.ReportRow, error) {
	if kind == "main" {
		return s.mainReport(ctx, startMs, endMs)
	}
	key, ok := reportKeys[kind]
	if !ok {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "report %q: write cluster, user, account, job or main", kind)
	}
	return query(ctx, s.reader, func(r *sql.Rows) (api.ReportRow, error) {
		var row api.ReportRow
		err := r.Scan(&row.Key, &row.Jobs, &row.Completed, &row.Failed, &row.DeviceMs, &row.CPUMs, &row.OverrunMs)
		return row, err
	}, `WITH used AS (
			SELECT a.fill_job_id AS id, sum(u.device_ns) AS device_ns, sum(u.cpu_ns) AS cpu_ns, sum(u.overrun_ns) AS overrun_ns
			FROM usage u JOIN assignment a ON a.id = u.assignment_id WHERE u.to_ms >= ?1 AND u.to_ms < ?2 GROUP BY a.fill_job_id)
		SELECT `+key+`, count(*), sum(j.outcome = 'completed'), sum(j.outcome = 'failed'), coalesce(sum(used.device_ns), 0) / 1000000,
			coalesce(sum(used.cpu_ns), 0) / 1000000, coalesce(sum(used.overrun_ns), 0) / 1000000
		FROM fill_job j LEFT JOIN used ON used.id = j.id
		WHERE (used.id IS NOT NULL OR (j.outcome <> '' AND j.ended_ms >= ?1 AND j.ended_ms < ?2)) AND (?3 = '' OR j.user = ?3)
		GROUP BY 1 ORDER BY 1`, startMs, endMs, user)
}

func (s *Store) mainReport(ctx context.Context, startMs, endMs int64) ([]api.ReportRow, error) {
	return query(ctx, s.reader, func(r *sql.Rows) (api.ReportRow, error) {
		row := api.ReportRow{Jobs: 1}
		err := r.Scan(&row.Key, &row.DeviceMs, &row.BubbleMs, &row.OfferedMs, &row.Iterations)
		return row, err
	}, `SELECT job_id || ' ' || node || ' ' || device, filled_ns / 1000000, bubble_ns / 1000000, offered_ns / 1000000, iterations
		FROM main_device WHERE seen_ms >= ? AND started_ms < ? ORDER BY job_id, node, device`, startMs, endMs)
}
