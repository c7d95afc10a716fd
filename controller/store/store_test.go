package store_test

import (
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/store"
)

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func job(id int64) store.FillJob {
	return store.FillJob{Cluster: "c", JobID: id, SubmitMs: 1000 + id, ArrayTask: -1, Name: "n", UID: 5, User: "ann", Partition: "pipefill", LimitMs: 60000, Requeue: true}
}

func see(t *testing.T, s *store.Store, jobs ...store.FillJob) []store.FillJob {
	t.Helper()
	if err := s.SeeJobs(t.Context(), 9000, jobs); err != nil {
		t.Fatal(err)
	}
	open, err := s.OpenJobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return open
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var mainJob = pipefill.JobKey{Cluster: "c", JobID: 99, SubmitMs: 5}

func TestStore_RequeueKeepsTheRow(t *testing.T) {
	s := open(t, t.TempDir())
	first := see(t, s, job(1))[0]
	again := job(1)
	again.SubmitMs, again.Restarts, again.LimitMs = 8000, 1, 999
	second := see(t, s, again)[0]
	if second.ID != first.ID || second.Restarts != 1 || second.SubmitMs != 8000 || second.FirstMs != 1001 || second.LimitMs != 60000 {
		t.Errorf("after a requeue: %+v", second)
	}
}

func TestStore_ReusedNumberIsAnotherJob(t *testing.T) {
	s := open(t, t.TempDir())
	see(t, s, job(1))
	other := job(1)
	other.SubmitMs, other.UID, other.User = 9999, 6, "bob"
	jobs := see(t, s, other)
	if len(jobs) != 1 || jobs[0].User != "bob" {
		t.Fatalf("open jobs %+v", jobs)
	}
	all, err := s.Jobs(t.Context(), "ann", 0)
	must(t, err)
	if len(all) != 1 || all[0].Outcome != pipefill.OutcomeLost {
		t.Errorf("the first job: %+v", all)
	}
}

func TestStore_OneLiveAssignmentOfAJobAndADevice(t *testing.T) {
	s := open(t, t.TempDir())
	jobs := see(t, s, job(1), job(2))
	id, err := s.Reserve(t.Context(), jobs[0], "n0", "cpu:0", mainJob, 1)
	must(t, err)
	if _, err := s.Reserve(t.Context(), jobs[0], "n1", "cpu:1", mainJob, 1); err == nil {
		t.Error("a second live assignment of a job")
	}
	if _, err := s.Reserve(t.Context(), jobs[1], "n0", "cpu:0", mainJob, 1); err == nil {
		t.Error("a second live assignment on a device")
	}
	must(t, s.Advance(t.Context(), id, pipefill.AssignmentAttached, 1))
	must(t, s.End(t.Context(), id, pipefill.OutcomeEvicted, "main job ended", 0, "", 2))
	second, err := s.Reserve(t.Context(), jobs[1], "n0", "cpu:0", mainJob, 3)
	if err != nil {
		t.Errorf("a freed device: %v", err)
	}
	must(t, s.End(t.Context(), second, pipefill.OutcomeLost, "the slot went away", 0, "", 4))
	open, err := s.OpenJobs(t.Context())
	must(t, err)
	if !open[0].Front || open[0].Attempts != 1 {
		t.Errorf("evicted job %+v, want it in front after one attempt", open[0])
	}
	if !open[1].Front || open[1].Attempts != 0 {
		t.Errorf("job %+v, want none of its attempts to count: it never started", open[1])
	}
}

// A caller that leaves interrupts no transaction: it may be that of others too.
func TestStore_WritesOutliveTheirCallers(t *testing.T) {
	s := open(t, t.TempDir())
	gone, leave := context.WithCancel(t.Context())
	leave()
	must(t, s.SeeJobs(gone, 9000, []store.FillJob{job(1)}))
	first := s.OpenAll()[0]
	id, err := s.Reserve(gone, *first, "n0", "cpu:0", mainJob, 9001)
	must(t, err)
	_, err = s.TakeUsage(gone, "n0", []pipefill.Usage{{Ledger: "l", Seq: 1, AssignmentID: id, FromMs: 9001, ToMs: 9002, DeviceNs: 1e6}})
	must(t, err)
	must(t, s.End(gone, id, pipefill.OutcomeCompleted, "", 0, pipefill.OutcomeCompleted, 9003))
	if j, err := s.JobByID(t.Context(), "c", 1); err != nil || j.Outcome != pipefill.OutcomeCompleted || j.DeviceMs != 1 {
		t.Errorf("%+v %v", j, err)
	}
}

func TestStore_StatesGoForward(t *testing.T) {
	s := open(t, t.TempDir())
	jobs := see(t, s, job(1))
	id, err := s.Reserve(t.Context(), jobs[0], "n0", "cpu:0", mainJob, 1)
	must(t, err)
	for _, state := range []pipefill.AssignmentState{pipefill.AssignmentRunning, pipefill.AssignmentReleased, pipefill.AssignmentAttached} {
		must(t, s.Advance(t.Context(), id, state, 2))
	}
	live, err := s.Live(t.Context())
	must(t, err)
	if len(live) != 1 || live[0].State != pipefill.AssignmentRunning {
		t.Errorf("live %+v, want running", live)
	}
	if err := s.Advance(t.Context(), id, pipefill.AssignmentEnded, 2); err == nil {
		t.Error("advanced to ended without an outcome")
	}
	must(t, s.End(t.Context(), id, pipefill.OutcomeCompleted, "", 0, pipefill.OutcomeCompleted, 3))
	must(t, s.End(t.Context(), id, pipefill.OutcomeFailed, "again", 1, pipefill.OutcomeFailed, 4))
	got, err := s.JobByID(t.Context(), "c", 1)
	must(t, err)
	if got.Outcome != pipefill.OutcomeCompleted || got.EndedMs != 3 {
		t.Errorf("job %+v, want completed at 3", got)
	}
	if _, err := s.Reserve(t.Context(), jobs[0], "n0", "cpu:0", mainJob, 5); err == nil {
		t.Error("an assignment of a job that has ended")
	}
}

func TestStore_UsageCountsOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	jobs := see(t, s, job(1))
	id, err := s.Reserve(t.Context(), jobs[0], "n0", "cpu:0", mainJob, 1)
	must(t, err)
	records := []pipefill.Usage{
		{Ledger: "l", Seq: 1, AssignmentID: id, FromMs: 10, ToMs: 20, DeviceNs: 5e6, CPUNs: 4e6},
		{Ledger: "l", Seq: 2, AssignmentID: id, FromMs: 20, ToMs: 30, DeviceNs: 7e6, CPUNs: 6e6},
		{Ledger: "l", Seq: 3, AssignmentID: 777, DeviceNs: 1e9},
	}
	for range 3 {
		ack, err := s.TakeUsage(t.Context(), "n0", records)
		must(t, err)
		if ack["l"] != 3 {
			t.Errorf("acknowledged %v, want up to 3", ack)
		}
	}
	if _, err := s.TakeUsage(t.Context(), "n1", records); err != nil {
		t.Fatal(err)
	}
	must(t, s.Close())
	s = open(t, dir)
	report, err := s.Report(t.Context(), "user", "", 0, 1000, 0)
	must(t, err)
	want := []api.ReportRow{{Key: "ann", User: "ann", Sums: api.Sums{DeviceNs: 12e6, CPUNs: 10e6}}}
	if d := cmp.Diff(want, report.Rows); d != "" {
		t.Error(d)
	}
	if _, err := s.TakeUsage(t.Context(), "n0", []pipefill.Usage{{Ledger: "l", Seq: 9, AssignmentID: id, DeviceNs: -1}}); err == nil {
		t.Error("negative usage was counted")
	}
}

// An attempt that was given up before its node had heard of that, and had let it
// start, counts after all, once; a job that may start once does not wait any more.
func TestStore_LateStart(t *testing.T) {
	s := open(t, t.TempDir())
	once := job(1)
	once.Requeue = false
	jobs := see(t, s, once)
	id, err := s.Reserve(t.Context(), jobs[0], "n0", "cpu:0", mainJob, 1)
	must(t, err)
	attempts := func() int {
		t.Helper()
		open, err := s.OpenJobs(t.Context())
		must(t, err)
		return open[0].Attempts
	}
	must(t, s.SeeStarted(t.Context(), []int64{id}, 2))
	if n := attempts(); n != 1 {
		t.Errorf("%d attempts while it lives", n)
	}
	must(t, s.End(t.Context(), id, pipefill.OutcomeLost, "Slurm did not start it", 0, "", 3))
	if n := attempts(); n != 0 {
		t.Errorf("%d attempts when it was given up", n)
	}
	again, err := s.Reserve(t.Context(), jobs[0], "n1", "cpu:0", mainJob, 3)
	must(t, err)
	for range 2 {
		must(t, s.SeeStarted(t.Context(), []int64{id, 4711}, 4))
		if live, err := s.Live(t.Context()); err != nil || len(live) > 0 {
			t.Errorf("it has assignment %d still: %+v, %v", again, live, err)
		}
		if n := attempts(); n != 1 {
			t.Errorf("%d attempts after the node's word", n)
		}
	}
}

// Usage of several nodes shares a transaction, and nobody's fails for another's.
func TestStore_CountsUsageTogether(t *testing.T) {
	s := open(t, t.TempDir())
	jobs := see(t, s, job(1), job(2))
	var ids []int64
	for i, node := range []string{"n0", "n1"} {
		id, err := s.Reserve(t.Context(), jobs[i], node, "cpu:0", mainJob, 1)
		must(t, err)
		ids = append(ids, id)
	}
	commits := 0
	s.OnWrite = func(doing string, committed bool) error {
		if doing == "take usage" && committed {
			commits++
		}
		return nil
	}
	record := func(seq, id, ns int64) []pipefill.Usage {
		return []pipefill.Usage{{Ledger: "l", Seq: seq, AssignmentID: id, FromMs: 10, ToMs: 20, DeviceNs: ns}}
	}
	count := func(secondNs int64) (acks [2]map[string]int64, errs [2]error) {
		first := s.CountUsage("n0", record(int64(commits+1), ids[0], 5e6), false)
		select {
		case <-first.Done():
			t.Error("it waits for nobody")
		default:
		}
		second := s.CountUsage("n1", record(1, ids[1], secondNs), true)
		for i, c := range []*store.Counting{first, second} {
			<-c.Done()
			acks[i], errs[i] = c.Result()
		}
		return acks, errs
	}
	acks, errs := count(-1)
	if errs[0] != nil || acks[0]["l"] != 1 || errs[1] == nil || acks[1]["l"] != 0 || commits != 1 {
		t.Errorf("one of two is bad: %v, %v, %d commits", acks, errs, commits)
	}
	acks, errs = count(7e6)
	if errs[0] != nil || acks[0]["l"] != 2 || errs[1] != nil || acks[1]["l"] != 1 || commits != 2 {
		t.Errorf("two good ones: %v, %v, %d commits", acks, errs, commits)
	}
	alone := s.CountUsage("n0", record(3, ids[0], 5e6), false)
	<-alone.Done() // in a second
	if ack, err := alone.Result(); err != nil || ack["l"] != 3 || commits != 3 {
		t.Errorf("nobody comes: %v, %v, %d commits", ack, err, commits)
	}
	report, err := s.Report(t.Context(), "node", "", 0, 1000, 0)
	must(t, err)
	got := map[string]int64{}
	for _, r := range report.Rows {
		got[r.Key] = r.DeviceNs
	}
	if got["n0"] != 15e6 || got["n1"] != 7e6 {
		t.Errorf("counted %v", got)
	}
}

func TestStore_NewerDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	must(t, open(t, dir).Close())
	db, err := sql.Open("sqlite3", filepath.Join(dir, "queue.db"))
	must(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
	must(t, err)
	must(t, db.Close())
	_, err = store.Open(t.Context(), dir, slog.New(slog.DiscardHandler))
	if pipefill.ErrorCode(err) != pipefill.CodeConflict || !strings.Contains(err.Error(), "schema version 999, this program knows up to ") {
		t.Errorf("error %v", err)
	}
}

func TestStore_HotQueriesUseIndices(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	db, err := sql.Open("sqlite3", filepath.Join(dir, "queue.db"))
	must(t, err)
	defer func() { _ = db.Close() }()
	for _, text := range []string{
		"SELECT * FROM assignment WHERE fill_job_id = 1",
		"SELECT * FROM usage WHERE assignment_id = 1",
		"SELECT * FROM fill_job WHERE cluster = 'c' AND job_id = 1 AND outcome = ''",
		"SELECT * FROM usage WHERE to_ms >= 1 AND to_ms < 2",
	} {
		rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text)
		must(t, err)
		for rows.Next() {
			var id, parent, unused int
			var detail string
			must(t, rows.Scan(&id, &parent, &unused, &detail))
			if strings.HasPrefix(detail, "SCAN") {
				t.Errorf("%s: %s", text, detail)
			}
		}
		must(t, rows.Err())
		must(t, rows.Close()) //nolint:sqlclosecheck // of this turn, before the next
	}
}

func TestStore_WhatHasEndedIsNotSeenAgain(t *testing.T) {
	for name, c := range map[string]struct {
		requeue bool
		outcome pipefill.Outcome
		again   func(*store.FillJob) // as Slurm has it now
		want    int                  // open jobs
	}{
		"completed, and forgotten by Slurm": {true, pipefill.OutcomeCompleted, func(*store.FillJob) {}, 0},
		"completed, and requeued":           {true, pipefill.OutcomeCompleted, func(j *store.FillJob) { j.Restarts, j.SubmitMs = 1, j.SubmitMs+9 }, 0},
		"failed, and requeued by its owner": {true, pipefill.OutcomeFailed, func(j *store.FillJob) { j.Restarts, j.SubmitMs = 1, j.SubmitMs+9 }, 1},
		"lost":                              {true, pipefill.OutcomeLost, func(*store.FillJob) {}, 1},
		"lost, and not to be restarted":     {false, pipefill.OutcomeLost, func(*store.FillJob) {}, 0},
		"not to be restarted, and requeued": {false, pipefill.OutcomeEvicted, func(j *store.FillJob) { j.Restarts, j.SubmitMs = 1, j.SubmitMs+9 }, 0},
		"another job of that number":        {false, pipefill.OutcomeCompleted, func(j *store.FillJob) { j.SubmitMs += 9 }, 1},
		"another user's job of that number": {false, pipefill.OutcomeCompleted, func(j *store.FillJob) { j.UID++ }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			j := job(1)
			j.Requeue = c.requeue
			must(t, s.EndJob(t.Context(), see(t, s, j)[0].ID, c.outcome, "", 10))
			c.again(&j)
			must(t, s.SeeJobs(t.Context(), 20, []store.FillJob{j}))
			jobs, err := s.OpenJobs(t.Context())
			if err != nil || len(jobs) != c.want {
				t.Errorf("%d open jobs, %v, want %d", len(jobs), err, c.want)
			}
		})
	}
}

// A gang has all its devices or none, and gives them back together.
func TestStore_AGangHasAllItsDevicesOrNone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	gang := job(2)
	gang.Devices = 2
	jobs := see(t, s, job(1), gang, job(3))
	if jobs[0].Devices != 1 || jobs[1].Devices != 2 {
		t.Errorf("%+v", jobs)
	}
	single, err := s.Reserve(t.Context(), jobs[0], "n0", "cpu:1", mainJob, 1)
	must(t, err)
	if _, err := s.Reserve(t.Context(), jobs[1], "n0", "cpu:0", mainJob, 1, "cpu:1"); err == nil {
		t.Error("a device that another has")
	}
	if len(s.LiveAll()) != 1 || s.Open("c", 2).Attempts != 0 {
		t.Errorf("something of it is left: %d live, %d attempts", len(s.LiveAll()), s.Open("c", 2).Attempts)
	}
	other, err := s.Reserve(t.Context(), jobs[2], "n0", "cpu:0", mainJob, 1)
	must(t, err)
	must(t, s.End(t.Context(), other, pipefill.OutcomeLost, "", 0, "", 2))
	must(t, s.End(t.Context(), single, pipefill.OutcomeLost, "", 0, "", 2))
	id, err := s.Reserve(t.Context(), jobs[1], "n0", "cpu:0", mainJob, 3, "cpu:1")
	must(t, err)
	for _, device := range []pipefill.DeviceID{"cpu:0", "cpu:1"} {
		if _, err := s.Reserve(t.Context(), jobs[0], "n0", device, mainJob, 3); err == nil {
			t.Errorf("%s is given away twice", device)
		}
	}
	must(t, s.Close())
	s = open(t, dir) // what is on disk is the same
	if live := s.LiveAll(); len(live) != 1 || live[0].Device != "cpu:0" || live[0].Others != "cpu:1" || s.Open("c", 2).Devices != 2 {
		t.Fatalf("%+v", live)
	}
	must(t, s.End(t.Context(), id, pipefill.OutcomeEvicted, "", 0, "", 4))
	_, err = s.Reserve(t.Context(), jobs[0], "n0", "cpu:1", mainJob, 5)
	must(t, err)
	_, err = s.Reserve(t.Context(), jobs[2], "n0", "cpu:0", mainJob, 5)
	must(t, err)
}
