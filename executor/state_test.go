package executor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
)

func TestState_RoundTrip(t *testing.T) {
	s := state{t.TempDir(), disk{}}
	job := pipefill.JobKey{Cluster: "c", JobID: 5, Restarts: 1}
	m := mainRecord{Job: job, UID: 1000, Options: "budget=1%", Devices: []mainPageRecord{{Device: "cpu:0", Main: inode{1, 2}}}}
	f := fillRecord{Assignment: pipefill.Assignment{ID: 9, Job: job, State: pipefill.AssignmentAttached}, Steps: []string{"batch"}}
	n := nodeRecord{OrdersSeen: 4, Partitions: []string{"pipefill"}}
	for _, err := range []error{s.saveMain(m), s.saveFill(f), s.saveNode(n)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mains, fills, node, faults := s.load()
	if diff := cmp.Diff([]mainRecord{m}, mains); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]fillRecord{f}, fills); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(n, node); diff != "" || len(faults) != 0 {
		t.Error(diff, faults)
	}
	if err := s.dropFill(9); err != nil {
		t.Fatal(err)
	}
	if err := s.dropFill(9); err != nil {
		t.Errorf("dropping again: %v", err)
	}
	if _, fills, _, _ := s.load(); len(fills) != 0 {
		t.Errorf("%+v is still there", fills)
	}
}

func TestState_ADamagedRecordIsReportedAndLeft(t *testing.T) {
	s := state{t.TempDir(), disk{}}
	path := filepath.Join(s.dir, "assignment-3.json")
	left := filepath.Join(s.dir, ".new-123")
	for _, p := range []string{path, left} {
		if err := os.WriteFile(p, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, fills, _, faults := s.load()
	if len(fills) != 0 || len(faults) != 1 {
		t.Errorf("%+v, faults %q", fills, faults)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the damaged record is gone")
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("an unfinished write was left behind")
	}
}

// TestState_AnEmptyMainRecordIsOfTheTimeBeforeABoot: nobody waits for the disk
// when one is written.
func TestState_AnEmptyMainRecordIsOfTheTimeBeforeABoot(t *testing.T) {
	s := state{t.TempDir(), disk{}}
	path := filepath.Join(s.dir, "main-3-0.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if mains, _, _, faults := s.load(); len(mains) != 0 || len(faults) != 0 {
		t.Errorf("%+v, faults %q", mains, faults)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the empty record is still there")
	}
}

func TestDisk_ReplaceLeavesTheOldWhereItFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := (disk{}).replace(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := (disk{}).replace(filepath.Join(dir, "no", "such"), nil); err == nil {
		t.Error("a write into no folder passed")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "one" {
		t.Errorf("%q %v", data, err)
	}
}

func TestProcess_IsKnownByItsStart(t *testing.T) {
	me, err := readProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !me.alive() {
		t.Error("this process is not alive")
	}
	other := me
	other.Start--
	if other.alive() || (process{}).alive() {
		t.Error("another process passes for this one")
	}
}
