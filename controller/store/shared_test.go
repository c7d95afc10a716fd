package store

import (
	"log/slog"
	"testing"

	"pipefill"
)

// On a shared file system one connection does it all, and nobody else gets in.
func TestStore_OnASharedFileSystem(t *testing.T) {
	dir := t.TempDir()
	s, err := open(t.Context(), dir, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	job := FillJob{Cluster: "c", JobID: 1, SubmitMs: 1, User: "ann", Partition: "pipefill", Requeue: true}
	if err := s.SeeJobs(t.Context(), 1, []FillJob{job}); err != nil {
		t.Fatal(err)
	}
	if jobs, err := s.Jobs(t.Context(), "", 0); err != nil || len(jobs) != 1 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
	if other, err := open(t.Context(), dir, true, slog.New(slog.DiscardHandler)); err == nil {
		_ = other.Close()
		t.Error("another has opened it too")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s, err = open(t.Context(), dir, true, slog.New(slog.DiscardHandler))
	if err != nil || s.Open("c", 1) == nil {
		t.Fatalf("opened again: %v", err)
	}
	_ = s.Close()
}

// A controller that was superseded writes nothing more, whatever it believes.
func TestStore_AnEarlierGenerationWritesNothing(t *testing.T) {
	dir := t.TempDir()
	var stores []*Store
	for range 2 {
		s, err := open(t.Context(), dir, false, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		stores = append(stores, s)
	}
	old, later := stores[0], stores[1]
	job := FillJob{Cluster: "c", JobID: 1, SubmitMs: 1, User: "ann", Partition: "pipefill", Requeue: true}
	if err := old.Own(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if err := old.SeeJobs(t.Context(), 1, []FillJob{job}); err != nil {
		t.Errorf("while it is the latest: %v", err)
	}
	if err := later.Own(t.Context(), 4); pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Errorf("the same generation twice: %v", err)
	}
	if err := later.Own(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	job.JobID = 2
	if err := old.SeeJobs(t.Context(), 1, []FillJob{job}); pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Errorf("superseded: %v", err)
	}
	if err := later.SeeJobs(t.Context(), 1, []FillJob{job}); err != nil {
		t.Errorf("the latest: %v", err)
	}
}
