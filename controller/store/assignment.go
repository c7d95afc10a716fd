package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"pipefill"
)

// Assignment is an attempt, with the row of its job.
type Assignment struct {
	pipefill.Assignment
	FillJobID  int64
	Requeue    bool // its job may be restarted
	ExitCode   int
	ReservedMs int64
	ReleasedMs int64
	EndedMs    int64
	ExpectMs   int64 // from start to end, as was expected; 0: not known
}

const assignmentColumns = `a.id, a.fill_job_id, j.cluster, j.job_id, a.submit_ms, a.restarts, j.uid, j.user, j.account, a.node, a.device, a.others,
	a.main_job_id, a.main_submit_ms, a.main_restarts, j.mem_bytes, j.limit_ms, j.requeue, a.state, a.outcome, a.reason, a.exit_code,
	a.reserved_ms, a.released_ms, a.ended_ms, a.expect_ms`

func scanAssignment(rows *sql.Rows) (Assignment, error) {
	var a Assignment
	err := rows.Scan(&a.ID, &a.FillJobID, &a.Job.Cluster, &a.Job.JobID, &a.Job.SubmitMs, &a.Job.Restarts, &a.UID, &a.User, &a.Account,
		&a.Node, &a.Device, &a.Others, &a.MainJob.JobID, &a.MainJob.SubmitMs, &a.MainJob.Restarts, &a.MemBytes, &a.DeviceTimeMs, &a.Requeue,
		&a.State, &a.Outcome, &a.Reason, &a.ExitCode, &a.ReservedMs, &a.ReleasedMs, &a.EndedMs, &a.ExpectMs)
	a.MainJob.Cluster = a.Job.Cluster
	return a, err
}

// AttemptsOf lists all assignments of a job, oldest first.
func (s *Store) AttemptsOf(ctx context.Context, fillJobID int64) ([]Assignment, error) {
	return query(ctx, s.reader, scanAssignment, "SELECT "+assignmentColumns+
		" FROM assignment a JOIN fill_job j ON j.id = a.fill_job_id WHERE a.fill_job_id = ? ORDER BY a.id", fillJobID)
}

// Reserve writes a new assignment of job to a device, or to it and others of the
// node, in state reserved: to all or to none. The database itself refuses a second
// one of the job or of a device.
func (s *Store) Reserve(_ context.Context, job FillJob, node string, device pipefill.DeviceID, main pipefill.JobKey, nowMs int64, others ...pipefill.DeviceID) (int64, error) {
	var id int64
	err := s.change("reserve", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		result, err := tx.ExecContext(ctx, `INSERT INTO assignment (fill_job_id, submit_ms, restarts, node, device, main_job_id, main_submit_ms,
				main_restarts, state, reserved_ms, expect_ms, expect_from, others) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'reserved', ?9, ?10, ?11, ?12
			WHERE EXISTS (SELECT 1 FROM fill_job WHERE id = ?1 AND outcome = '')`,
			job.ID, job.SubmitMs, job.Restarts, node, device, main.JobID, main.SubmitMs, main.Restarts, nowMs, job.OnSlotMs, job.Source, pipefill.DevicesOf(others))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n != 1 {
			return fmt.Errorf("job %d has ended meanwhile (%w)", job.JobID, err)
		}
		id, err = result.LastInsertId()
		if err != nil {
			return err
		}
		touched.assignment(id)
		for _, d := range append([]pipefill.DeviceID{device}, others...) {
			if _, err := tx.ExecContext(ctx, "INSERT INTO occupied (node, device, assignment_id) VALUES (?, ?, ?)", node, d, id); err != nil {
				return fmt.Errorf("hold %s %s: %w", node, d, err)
			}
		}
		_, err = tx.ExecContext(ctx, "UPDATE fill_job SET attempts = attempts + 1, front = 0 WHERE id = ?", job.ID)
		return err
	})
	return id, err
}

// Advance writes that an assignment has come to state, which is not ended;
// states only go forward, and writing one again changes nothing.
func (s *Store) Advance(_ context.Context, id int64, state pipefill.AssignmentState, nowMs int64) error {
	before := map[pipefill.AssignmentState]string{
		pipefill.AssignmentReleased: "'reserved'",
		pipefill.AssignmentAttached: "'reserved', 'released'",
		pipefill.AssignmentRunning:  "'reserved', 'released', 'attached'",
	}[state]
	if before == "" {
		return fmt.Errorf("advance assignment %d: not to state %q", id, state)
	}
	return s.change("advance assignment to "+string(state), func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		touched.assignment(id)
		_, err := tx.ExecContext(ctx, "UPDATE assignment SET state = ?1, "+string(state)+"_ms = ?2 WHERE id = ?3 AND state IN ("+before+")", //nolint:gosec // both are words of the map above
			state, nowMs, id)
		return err
	})
}

// End ends an assignment and, with jobOutcome, its job, in one step. Without
// it the job goes back to the queue, before its peers. An assignment that has
// ended keeps its outcome.
func (s *Store) End(_ context.Context, id int64, outcome pipefill.Outcome, reason string, exitCode int, jobOutcome pipefill.Outcome, nowMs int64) error {
	return s.change("end assignment", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		return s.end(ctx, tx, touched, id, outcome, reason, exitCode, jobOutcome, nowMs)
	})
}

func (s *Store) end(ctx context.Context, tx *sql.Tx, touched *rows, id int64, outcome pipefill.Outcome, reason string, exitCode int, jobOutcome pipefill.Outcome, nowMs int64) error {
	touched.assignment(id)
	result, err := tx.ExecContext(ctx, `UPDATE assignment SET state = 'ended', outcome = ?1, reason = ?2, exit_code = ?3, ended_ms = ?4,
			took_ms = iif(?1 = 'completed' AND expect_ms > 0 AND running_ms > 0, max(1, ?4 - running_ms), 0)
		WHERE id = ?5 AND state <> 'ended'`, outcome, reason, exitCode, nowMs, id)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM occupied WHERE assignment_id = ?", id); err != nil {
		return err
	}
	if err := s.rollUpEnd(ctx, tx, id, outcome, nowMs); err != nil {
		return err
	}
	var job, unstarted int64
	err = tx.QueryRowContext(ctx, "SELECT fill_job_id, attached_ms = 0 AND running_ms = 0 FROM assignment WHERE id = ?", id).Scan(&job, &unstarted)
	if err != nil {
		return err
	}
	if jobOutcome != "" {
		return s.endJob(ctx, tx, job, jobOutcome, reason, nowMs)
	}
	// An attempt that never started costs a --no-requeue job nothing.
	_, err = tx.ExecContext(ctx, "UPDATE fill_job SET front = 1, attempts = attempts - ? WHERE id = ? AND outcome = ''", unstarted, job)
	return err
}

// SeeStarted counts attempts that were given up as never started, and had started
// all the same: their nodes had not heard of that yet. Where such a job may start
// once, and has been given another slot meanwhile, it loses that, if it was not
// released to it yet. Of other assignments nothing changes.
func (s *Store) SeeStarted(ctx context.Context, ids []int64, nowMs int64) error {
	var late []int64
	for _, id := range ids {
		found, err := query(ctx, s.reader, func(r *sql.Rows) (id int64, err error) { return id, r.Scan(&id) },
			"SELECT id FROM assignment WHERE id = ? AND state = 'ended' AND attached_ms = 0 AND running_ms = 0", id)
		if err != nil {
			return err
		}
		late = append(late, found...)
	}
	if len(late) == 0 {
		return nil
	}
	return s.change("see a late start", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		for _, id := range late {
			var job int64
			err := tx.QueryRowContext(ctx, `UPDATE assignment SET attached_ms = ?1 WHERE id = ?2 AND state = 'ended' AND attached_ms = 0 AND running_ms = 0
				RETURNING fill_job_id`, nowMs, id).Scan(&job)
			if errors.Is(err, sql.ErrNoRows) {
				continue // counted meanwhile
			}
			if err != nil {
				return err
			}
			touched.job(job)
			if _, err := tx.ExecContext(ctx, "UPDATE fill_job SET attempts = attempts + 1 WHERE id = ? AND outcome = ''", job); err != nil {
				return err
			}
			again, err := query(ctx, tx, func(r *sql.Rows) (id int64, err error) { return id, r.Scan(&id) },
				`SELECT a.id FROM assignment a JOIN fill_job j ON j.id = a.fill_job_id
					WHERE a.fill_job_id = ? AND a.state = 'reserved' AND j.requeue = 0 AND j.outcome = ''`, job)
			if err != nil {
				return err
			}
			for _, other := range again {
				if err := s.end(ctx, tx, touched, other, pipefill.OutcomeCancelled, "it has started before, and may start once", 0, "", nowMs); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Ended tells which of ids are assignments that have ended or never were: the
// node may drop them.
func (s *Store) Ended(_ context.Context, ids []int64) (map[int64]bool, error) {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	ended := map[int64]bool{}
	for _, id := range ids {
		ended[id] = s.index.live[id] == nil
	}
	return ended, nil
}
