package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/account"
)

// TakeUsage counts a node's ledger records, each exactly once, and returns up to
// which number each ledger is counted. Records of an assignment that this
// database does not know are counted for nobody, but acknowledged: they can
// never be.
func (s *Store) TakeUsage(_ context.Context, node string, records []pipefill.Usage) (map[string]int64, error) {
	c := s.CountUsage(node, records, true)
	<-c.Done()
	return c.Result()
}

// takeUsage counts records within a transaction.
func (s *Store) takeUsage(ctx context.Context, tx *sql.Tx, touched *rows, sums *rollup, owners map[int64]*owner, node string, records []pipefill.Usage) error {
	purged, err := purgedOf(ctx, tx, node)
	if err != nil {
		return err
	}
	// Not prepared here: only what the driver prepares is kept for the next time.
	const insert = `INSERT INTO usage (node, ledger, seq, assignment_id, from_ms, to_ms, device_ns, cpu_ns, overrun_ns, openings)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	for _, u := range records {
		o, err := ownerOf(ctx, tx, owners, u.AssignmentID)
		if err != nil {
			return err
		}
		if o == nil || o.node != node || u.Seq <= purged[u.Ledger] {
			continue
		}
		result, err := tx.ExecContext(ctx, insert, node, u.Ledger, u.Seq, u.AssignmentID, u.FromMs, u.ToMs, u.DeviceNs, u.CPUNs, u.OverrunNs, u.Openings)
		if err != nil {
			return fmt.Errorf("ledger %s record %d: %w", u.Ledger, u.Seq, err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			if err != nil {
				return err
			}
			continue // counted before
		}
		if a := s.live(u.AssignmentID); a != nil {
			touched.used[a.FillJobID] += u.DeviceNs
		} else {
			touched.assignment(u.AssignmentID) // has ended: its job may be open
		}
		sums.add(usedBy(u, o.outcome == pipefill.OutcomeCompleted), u.FromMs, u.ToMs, o.subjects()...)
	}
	return nil
}

// usedBy is a record as sums. Useful is what an attempt that completed used.
func usedBy(u pipefill.Usage, completed bool) api.Sums {
	s := api.Sums{DeviceNs: u.DeviceNs, OverrunNs: u.OverrunNs, CPUNs: u.CPUNs, Openings: u.Openings}
	if completed {
		s.UsefulNs = s.FilledNs()
	}
	return s
}

// purgedOf tells, by ledger of a node, up to where it was purged.
func purgedOf(ctx context.Context, tx *sql.Tx, node string) (map[string]int64, error) {
	type row struct {
		ledger string
		seq    int64
	}
	rows, err := query(ctx, tx, func(r *sql.Rows) (row, error) {
		var out row
		err := r.Scan(&out.ledger, &out.seq)
		return out, err
	}, "SELECT ledger, purged FROM ledger WHERE node = ?", node)
	out := map[string]int64{}
	for _, r := range rows {
		out[r.ledger] = r.seq
	}
	return out, err
}

// NodeMains are the main devices of a node, in a run of its daemon.
type NodeMains struct {
	Node  string
	Run   int64
	Mains []api.MainDevice
}

// SeeMains writes the totals of nodes' main devices and adds what is new to the
// roll-ups. users are the names of the owners.
func (s *Store) SeeMains(_ context.Context, nodes []NodeMains, users map[uint32]string, nowMs int64) error {
	if len(nodes) == 0 {
		return nil
	}
	return s.write("see main jobs", func(ctx context.Context, tx *sql.Tx) error {
		sums := newRollup(s.Zone)
		for _, n := range nodes {
			for _, m := range n.Mains {
				if err := seeMain(ctx, tx, sums, n.Node, n.Run, m, users[m.UID], nowMs); err != nil {
					return err
				}
			}
		}
		return sums.save(ctx, tx)
	})
}

func seeMain(ctx context.Context, tx *sql.Tx, sums *rollup, node string, run int64, m api.MainDevice, user string, nowMs int64) error {
	var before api.MainTotals
	fromMs := m.StartedMs
	err := tx.QueryRowContext(ctx, `SELECT seen_ms, iterations, control_iterations, iteration_ns, bubble_ns, offered_ns, comm_ns, other_ns,
			filled_iteration_ns, overhead_lo, overhead_hi FROM main_total
		WHERE node = ? AND device = ? AND job_id = ? AND started_ms = ? AND run = ?`, node, m.Device, m.Job.JobID, m.StartedMs, run).
		Scan(&fromMs, &before.Iterations, &before.ControlIterations, &before.IterationNs, &before.BubbleNs, &before.OfferedNs, &before.CommNs,
			&before.OtherNs, &before.FilledIterationNs, &before.OverheadLo, &before.OverheadHi)
	if errors.Is(err, sql.ErrNoRows) {
		// A daemon that started again took the job over since it was last seen.
		err = tx.QueryRowContext(ctx, `SELECT max(?5, coalesce(max(seen_ms), 0)) FROM main_total
			WHERE node = ?1 AND device = ?2 AND job_id = ?3 AND started_ms = ?4`, node, m.Device, m.Job.JobID, m.StartedMs, m.StartedMs).Scan(&fromMs)
	}
	if err != nil {
		return err
	}
	t := m.Totals
	_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO main_total (node, device, job_id, started_ms, run, submit_ms, restarts, uid, stage, seen_ms,
			iterations, control_iterations, iteration_ns, bubble_ns, offered_ns, comm_ns, other_ns, filled_iteration_ns, overhead_lo, overhead_hi)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		node, m.Device, m.Job.JobID, m.StartedMs, run, m.Job.SubmitMs, m.Job.Restarts, m.UID, m.Stage, nowMs,
		t.Iterations, t.ControlIterations, t.IterationNs, t.BubbleNs, t.OfferedNs, t.CommNs, t.OtherNs, t.FilledIterationNs, t.OverheadLo, t.OverheadHi)
	if err != nil {
		return err
	}
	fresh := account.Main(t)
	fresh.Subtract(account.Main(before))
	sums.add(fresh, fromMs, nowMs, subject{kind: "cluster", key: m.Job.Cluster}, subject{kind: "node", key: node},
		subject{kind: "main", key: fmt.Sprint(m.Job.JobID), user: user})
	return nil
}
