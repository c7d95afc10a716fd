package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"pipefill"
)

// FillJob is a row of the queue.
type FillJob struct {
	ID            int64
	Cluster       string
	JobID         int64
	SubmitMs      int64 // of the attempt that comes: a requeue moves it
	Restarts      int
	ArrayTask     int64
	Name          string
	UID           uint32
	User          string
	Account       string
	Partition     string
	MemBytes      int64         // device memory asked for; 0: unknown
	GPUs          string        // asked for, as Slurm writes it; such jobs need a slot of kind gpu
	Mode          pipefill.Mode // asked for with mode=; ""
	LimitMs       int64         // the user's --time, which means device time
	Requeue       bool          // false: never restarted
	RequiredNodes string
	ExcludedNodes string
	Unfit         string // why it can never run; ""
	UserHeld      bool
	Priority      int64 // among its owner's jobs
	SitePriority  int64 // an operator's, before all else
	Front         bool  // was evicted: goes before its peers
	Attempts      int
	FirstMs       int64 // of its first sighting: its place in the queue
	Outcome       pipefill.Outcome
	Reason        string
	EndedMs       int64
	DeviceMs      int64 // charged so far, all attempts
	ExpectMs      int64 // device time of jobs like it; 0: no history

	DeadlineMs int64 // by when its user wants it done; 0: none

	Devices int // slots of one node that it needs at once; 0: one

	// Not of this table.
	Profile  string // names its fill profile; "": none
	WorkMs   int64  // device time by its profile; 0: not known
	OnSlotMs int64  // for Reserve: from start to end on the slot, as is expected
	Source   string // for Reserve: where that is from

	deviceNs int64 // what DeviceMs is of
}

// Key names the attempt that comes.
func (j FillJob) Key() pipefill.JobKey {
	return pipefill.JobKey{Cluster: j.Cluster, JobID: j.JobID, SubmitMs: j.SubmitMs, Restarts: j.Restarts}
}

const jobColumns = `j.id, j.cluster, j.job_id, j.submit_ms, j.restarts, j.array_task, j.name, j.uid, j.user, j.account, j.partition,
	j.mem_bytes, j.limit_ms, j.gpus, j.mode, j.requeue, j.required_nodes, j.excluded_nodes, j.unfit, j.user_held, j.priority, j.site_priority, j.front,
	j.attempts, j.first_ms, j.outcome, j.reason, j.ended_ms, j.deadline_ms, j.devices,
	(SELECT coalesce(sum(u.device_ns), 0) FROM assignment a JOIN usage u ON u.assignment_id = a.id WHERE a.fill_job_id = j.id)`

func scanJob(rows *sql.Rows) (FillJob, error) {
	var j FillJob
	err := rows.Scan(&j.ID, &j.Cluster, &j.JobID, &j.SubmitMs, &j.Restarts, &j.ArrayTask, &j.Name, &j.UID, &j.User, &j.Account, &j.Partition,
		&j.MemBytes, &j.LimitMs, &j.GPUs, &j.Mode, &j.Requeue, &j.RequiredNodes, &j.ExcludedNodes, &j.Unfit, &j.UserHeld, &j.Priority, &j.SitePriority, &j.Front,
		&j.Attempts, &j.FirstMs, &j.Outcome, &j.Reason, &j.EndedMs, &j.DeadlineMs, &j.Devices, &j.deviceNs)
	j.DeviceMs = j.deviceNs / 1e6
	return j, err
}

// Jobs lists open jobs and those that ended since sinceMs, by first sighting;
// user narrows it to one user's.
func (s *Store) Jobs(ctx context.Context, user string, sinceMs int64) ([]FillJob, error) {
	jobs, err := query(ctx, s.reader, scanJob, "SELECT "+jobColumns+` FROM fill_job j
		WHERE j.outcome <> '' AND j.ended_ms >= ?2 AND (?1 = '' OR j.user = ?1)`, user, sinceMs)
	if err != nil {
		return nil, err
	}
	for _, j := range s.OpenAll() {
		if user == "" || j.User == user {
			jobs = append(jobs, *j)
		}
	}
	slices.SortStableFunc(jobs, func(a, b FillJob) int {
		return cmp.Or(cmp.Compare(a.FirstMs, b.FirstMs), cmp.Compare(a.JobID, b.JobID))
	})
	return jobs, nil
}

// EndedJobs lists those that ended since sinceMs.
func (s *Store) EndedJobs(ctx context.Context, sinceMs int64) ([]FillJob, error) {
	return query(ctx, s.reader, scanJob, "SELECT "+jobColumns+" FROM fill_job j WHERE j.outcome <> '' AND j.ended_ms >= ? ORDER BY j.ended_ms", sinceMs)
}

// JobByID returns the newest row of a job number; not_found if there is none.
func (s *Store) JobByID(ctx context.Context, cluster string, jobID int64) (FillJob, error) {
	jobs, err := query(ctx, s.reader, scanJob, "SELECT "+jobColumns+
		" FROM fill_job j WHERE j.cluster = ? AND j.job_id = ? ORDER BY j.id DESC LIMIT 1", cluster, jobID)
	if err == nil && len(jobs) == 0 {
		err = pipefill.Errorf(pipefill.CodeNotFound, "fill job %d: there is none; pipefill-cli queue lists them", jobID)
	}
	if err != nil {
		return FillJob{}, err
	}
	return jobs[0], nil
}

// SeeJobs takes in what Slurm says of jobs of the fill partitions: new ones get
// a row, known ones what may change while they are pending. A requeue moves the
// attempt (SubmitMs, Restarts). A row whose job number Slurm has given to
// another job ends as lost. The right to requeue stays as first seen, and so do
// limits and sizes once the job has been assigned: later ones may be ours. What
// the index has already costs no transaction.
func (s *Store) SeeJobs(_ context.Context, nowMs int64, seen []FillJob) error {
	var news []FillJob
	for i := range seen {
		if known := s.Open(seen[i].Cluster, seen[i].JobID); known == nil || !known.same(&seen[i]) {
			news = append(news, seen[i])
		}
	}
	for len(news) > 0 {
		// A long transaction would keep the others waiting.
		const most = 2000
		n := min(most, len(news))
		if err := s.seeJobs(nowMs, news[:n]); err != nil {
			return err
		}
		news = news[n:]
	}
	return nil
}

func (s *Store) seeJobs(nowMs int64, seen []FillJob) error {
	return s.change("see jobs", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		for _, j := range seen {
			if err := s.seeJob(ctx, tx, touched, nowMs, j); err != nil {
				return fmt.Errorf("job %d: %w", j.JobID, err)
			}
		}
		return nil
	})
}

// same tells whether seeing a job again would change nothing.
func (j *FillJob) same(seen *FillJob) bool {
	return j.UID == seen.UID && j.SubmitMs == seen.SubmitMs && j.Restarts == seen.Restarts && j.Name == seen.Name && j.Account == seen.Account &&
		j.Partition == seen.Partition && j.Unfit == seen.Unfit && j.RequiredNodes == seen.RequiredNodes && j.ExcludedNodes == seen.ExcludedNodes &&
		(j.fixed(seen) || j.LimitMs == seen.LimitMs && j.MemBytes == seen.MemBytes && j.GPUs == seen.GPUs && j.Mode == seen.Mode && j.Devices == max(seen.Devices, 1))
}

// fixed tells whether limits and sizes stay as they are.
func (j *FillJob) fixed(seen *FillJob) bool { return j.Attempts > 0 || seen.Restarts > 0 }

// endedRecentlyMs is far less than Slurm takes to come round to a job number again.
const endedRecentlyMs = 3_600_000

// requeuedAfter is the reason of a completed job that Slurm had again.
const requeuedAfter = "Slurm requeued it after it had completed; it was not run again: to run it again, submit it again"

func (s *Store) seeJob(ctx context.Context, tx *sql.Tx, touched *rows, nowMs int64, j FillJob) error {
	scan := func(r *sql.Rows) (id int64, err error) { return id, r.Scan(&id) }
	lost, err := query(ctx, tx, scan, `SELECT id FROM fill_job
		WHERE cluster = ? AND job_id = ? AND outcome = '' AND (uid <> ? OR restarts > ? OR (restarts = ? AND submit_ms <> ?))
		AND NOT EXISTS (SELECT 1 FROM assignment a WHERE a.fill_job_id = fill_job.id AND a.state <> 'ended')`,
		j.Cluster, j.JobID, j.UID, j.Restarts, j.Restarts, j.SubmitMs)
	if err != nil {
		return err
	}
	for _, id := range lost {
		if err := s.endJob(ctx, tx, id, pipefill.OutcomeLost, "its job number now belongs to another job", nowMs); err != nil {
			return err
		}
	}
	// A slurmctld that was killed comes back with jobs whose end it has not
	// saved, or requeues them, and a job that may not be restarted can be
	// requeued by an operator or be on its way out: what has an outcome here is not
	// run again (reconcile cancels it). Only a lost job that may be restarted is,
	// and one that failed or was cancelled, by its owner's requeue.
	var over bool
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM fill_job WHERE cluster = ?1 AND job_id = ?2 AND uid = ?3 AND outcome <> ''
			AND ((outcome <> 'lost' OR requeue = 0) AND submit_ms >= ?4 AND restarts >= ?5
				OR requeue = 0 AND restarts < ?5 AND ended_ms > ?6 OR outcome = 'completed' AND restarts < ?5))
		AND NOT EXISTS (SELECT 1 FROM fill_job WHERE cluster = ?1 AND job_id = ?2 AND outcome = '')`,
		j.Cluster, j.JobID, j.UID, j.SubmitMs, j.Restarts, nowMs-endedRecentlyMs).Scan(&over)
	if err != nil {
		return err
	}
	var seen []int64
	if over {
		_, err = tx.ExecContext(ctx, `UPDATE fill_job SET reason = ?1 WHERE cluster = ?2 AND job_id = ?3 AND uid = ?4
			AND outcome = 'completed' AND reason = '' AND restarts < ?5`, requeuedAfter, j.Cluster, j.JobID, j.UID, j.Restarts)
	} else {
		seen, err = query(ctx, tx, scan, seeSQL,
			j.Cluster, j.JobID, j.SubmitMs, j.Restarts, j.ArrayTask, j.Name, j.UID, j.User, j.Account, j.Partition,
			j.MemBytes, j.LimitMs, j.GPUs, j.Mode, j.Requeue, j.RequiredNodes, j.ExcludedNodes, j.Unfit, j.SubmitMs, j.DeadlineMs, max(j.Devices, 1))
	}
	for _, id := range append(lost, seen...) {
		touched.job(id)
	}
	return err
}

const seeSQL = `INSERT INTO fill_job (cluster, job_id, submit_ms, restarts, array_task, name, uid, user, account, partition,
		mem_bytes, limit_ms, gpus, mode, requeue, required_nodes, excluded_nodes, unfit, first_ms, deadline_ms, devices)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (cluster, job_id) WHERE outcome = '' DO UPDATE SET submit_ms = excluded.submit_ms, restarts = excluded.restarts,
		name = excluded.name, account = excluded.account, partition = excluded.partition, unfit = excluded.unfit,
		required_nodes = excluded.required_nodes, excluded_nodes = excluded.excluded_nodes,
		limit_ms = iif(attempts > 0 OR excluded.restarts > 0, limit_ms, excluded.limit_ms),
		mem_bytes = iif(attempts > 0 OR excluded.restarts > 0, mem_bytes, excluded.mem_bytes),
		gpus = iif(attempts > 0 OR excluded.restarts > 0, gpus, excluded.gpus),
		mode = iif(attempts > 0 OR excluded.restarts > 0, mode, excluded.mode),
		devices = iif(attempts > 0 OR excluded.restarts > 0, devices, excluded.devices)
	WHERE submit_ms <> excluded.submit_ms OR restarts <> excluded.restarts OR name <> excluded.name OR account <> excluded.account
		OR partition <> excluded.partition OR unfit <> excluded.unfit OR required_nodes <> excluded.required_nodes
		OR excluded_nodes <> excluded.excluded_nodes OR attempts = 0 AND excluded.restarts = 0 AND (limit_ms <> excluded.limit_ms
			OR mem_bytes <> excluded.mem_bytes OR gpus <> excluded.gpus OR mode <> excluded.mode OR devices <> excluded.devices)
	RETURNING id`

// EndJob gives an open job its outcome; a job that has one keeps it.
func (s *Store) EndJob(_ context.Context, id int64, outcome pipefill.Outcome, reason string, nowMs int64) error {
	return s.change("end job", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		touched.job(id)
		return s.endJob(ctx, tx, id, outcome, reason, nowMs)
	})
}

func (s *Store) endJob(ctx context.Context, tx *sql.Tx, id int64, outcome pipefill.Outcome, reason string, nowMs int64) error {
	result, err := tx.ExecContext(ctx, "UPDATE fill_job SET outcome = ?, reason = ?, ended_ms = ? WHERE id = ? AND outcome = ''", outcome, reason, nowMs, id)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return s.rollUpJobEnd(ctx, tx, id, outcome, nowMs)
}

// SetHeld holds or releases an open job on a person's behalf.
func (s *Store) SetHeld(_ context.Context, id int64, held bool) error {
	return s.change("hold job", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		touched.job(id)
		_, err := tx.ExecContext(ctx, "UPDATE fill_job SET user_held = ? WHERE id = ? AND outcome = ''", held, id)
		return err
	})
}

// SetPriority sets an open job's priority, the site's or the owner's.
func (s *Store) SetPriority(_ context.Context, id, priority int64, site bool) error {
	column := "priority"
	if site {
		column = "site_priority"
	}
	return s.change("set priority", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		touched.job(id)
		_, err := tx.ExecContext(ctx, "UPDATE fill_job SET "+column+" = ? WHERE id = ? AND outcome = ''", priority, id)
		return err
	})
}

// Expectations returns the mean device time on each of their devices, in ms, of
// completed jobs by user and name.
func (s *Store) Expectations(ctx context.Context) (map[[2]string]int64, error) {
	type row struct {
		key [2]string
		ms  int64
	}
	rows, err := query(ctx, s.reader, func(r *sql.Rows) (row, error) {
		var out row
		err := r.Scan(&out.key[0], &out.key[1], &out.ms)
		return out, err
	}, `SELECT j.user, j.name, CAST(sum(u.device_ns / j.devices) / 1000000 / count(DISTINCT j.id) AS INTEGER) FROM fill_job j
		JOIN assignment a ON a.fill_job_id = j.id JOIN usage u ON u.assignment_id = a.id
		WHERE j.outcome = 'completed' GROUP BY j.user, j.name`)
	if err != nil {
		return nil, err
	}
	out := make(map[[2]string]int64, len(rows))
	for _, r := range rows {
		out[r.key] = r.ms
	}
	return out, nil
}
