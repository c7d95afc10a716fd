package executor

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pipefill"
)

// shakyDisk fails or dies at its n-th step, before or after doing it.
type shakyDisk struct {
	disk
	at    int // the step that fails; 0: none
	after bool
	tear  int // bytes of an append that get out before a failure
	steps int
	full  bool // every write fails from now on
}

var (
	_           storage = (*shakyDisk)(nil)
	errShaky            = errors.New("the disk failed on purpose")
	errFullDisk         = &os.PathError{Op: "write", Path: "ledger", Err: syscall.ENOSPC}
)

func (d *shakyDisk) step(do func() error) error {
	if d.full {
		return errFullDisk
	}
	d.steps++
	if d.steps != d.at {
		return do()
	}
	if d.after {
		if err := do(); err != nil {
			return err
		}
	}
	return errShaky
}

func (d *shakyDisk) replace(path string, data []byte) error {
	return d.step(func() error { return d.disk.replace(path, data) })
}

func (d *shakyDisk) add(f *os.File, data []byte) error {
	if d.steps+1 == d.at && !d.after && d.tear > 0 {
		_, _ = f.Write(data[:min(d.tear, len(data))])
	}
	return d.step(func() error { return d.disk.add(f, data) })
}

func (d *shakyDisk) remove(path string) error {
	return d.step(func() error { return d.disk.remove(path) })
}

func mustOpen(t *testing.T, path string, s storage) *ledger {
	t.Helper()
	l, err := openLedger(path, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// sum adds up records, as the controller does.
func sum(records []pipefill.Usage) (u used) {
	for _, r := range records {
		u.DeviceNs += r.DeviceNs
		u.CPUNs += r.CPUNs
		u.OverrunNs += r.OverrunNs
		u.Openings += r.Openings
	}
	return u
}

func TestLedger_SurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := mustOpen(t, path, disk{})
	for i := int64(1); i <= 5; i++ {
		if err := l.charge(7, used{DeviceNs: 10 * i, CPUNs: 8 * i, Openings: i}, i, i+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.acknowledge(map[string]int64{l.name: 2, "another": 99}); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, path, disk{})
	if again.name != l.name || again.next != 6 {
		t.Errorf("name %s next %d, want %s 6", again.name, again.next, l.name)
	}
	if got, want := again.sums[7], (used{50, 40, 0, 5}); got != want {
		t.Errorf("sum %+v, want %+v", got, want)
	}
	// What was acknowledged may be sent again: the controller counts it once.
	if diff := cmp.Diff(used{50, 40, 0, 5}, sum(again.unsent(100))); diff != "" {
		t.Error(diff)
	}
	if err := again.charge(7, used{DeviceNs: 50, CPUNs: 40, Openings: 5}, 6, 7); err != nil || again.next != 6 {
		t.Errorf("an empty record was written: %v", err)
	}
}

func TestLedger_CompactsWhatWasCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := mustOpen(t, path, disk{})
	const n = 1100
	for i := int64(1); i <= n; i++ {
		if err := l.charge(1, used{DeviceNs: i}, i, i+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.acknowledge(map[string]int64{l.name: n - 1}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 1000 {
		t.Errorf("%d bytes after compaction, %v", info.Size(), err)
	}
	again := mustOpen(t, path, disk{})
	if again.next != n+1 || len(again.unsent(10)) != 1 || again.sums[1].DeviceNs != n {
		t.Errorf("next %d, %d unsent, sum %+v", again.next, len(again.unsent(10)), again.sums[1])
	}
}

// Killed before, within or after any write, the usage counted by (ledger, seq)
// is what was used, and no number stands for two things.
func TestLedger_CountsOnceWhereverItIsKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at := 1; at <= 14; at++ {
			for _, tear := range []int{0, 1, 30} {
				path := filepath.Join(t.TempDir(), "ledger")
				counted := map[string]map[int64]pipefill.Usage{}
				count := func(records []pipefill.Usage) {
					for _, r := range records {
						if counted[r.Ledger] == nil {
							counted[r.Ledger] = map[int64]pipefill.Usage{}
						}
						if old, ok := counted[r.Ledger][r.Seq]; ok && old != r {
							t.Fatalf("at %d: seq %d stands for %+v and %+v", at, r.Seq, old, r)
						}
						counted[r.Ledger][r.Seq] = r
					}
				}
				shaky := &shakyDisk{at: at, after: after, tear: tear}
				l, err := openLedger(path, shaky)
				for i := int64(1); err == nil && i <= 12; i++ {
					err = l.charge(3, used{DeviceNs: 5 * i, Openings: i}, i, i+1)
					count(l.unsent(100))
				}
				if l != nil {
					l.close() // the process is gone
				}
				l = mustOpen(t, path, disk{})
				if err := l.charge(3, used{DeviceNs: 100, Openings: 20}, 50, 51); err != nil {
					t.Fatal(err)
				}
				count(l.unsent(100))
				var got used
				for _, records := range counted {
					for _, r := range records {
						got.DeviceNs += r.DeviceNs
						got.Openings += r.Openings
					}
				}
				if want := (used{DeviceNs: 100, Openings: 20}); got != want {
					t.Errorf("killed at step %d (after %t, torn %d): counted %+v, want %+v", at, after, tear, got, want)
				}
			}
		}
	}
}

func TestLedger_GoesOnAfterAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	shaky := &shakyDisk{}
	l := mustOpen(t, path, shaky)
	shaky.full = true
	if err := l.charge(1, used{DeviceNs: 5}, 1, 2); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v, want ENOSPC", err)
	}
	if err := l.probe(); err == nil {
		t.Error("a full disk passes the probe")
	}
	if len(l.unsent(10)) != 0 {
		t.Error("a record that is not on disk would be sent")
	}
	shaky.full = false
	if err := l.charge(1, used{DeviceNs: 9}, 1, 3); err != nil {
		t.Fatal(err)
	}
	if got := sum(mustOpen(t, path, disk{}).unsent(10)); got.DeviceNs != 9 {
		t.Errorf("%+v", got)
	}
}

// A file system of four pages that is really full, in the middle of a line too.
func TestLedger_OnAFullFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	l := mustOpen(t, filepath.Join(dir, "ledger"), disk{})
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the file system is not full: %v", err)
	}
	written, refused := int64(0), false
	for i := int64(1); i < 200 && !refused; i++ { // what is left of the ledger's own page
		switch err := l.charge(1, used{DeviceNs: i}, i, i+1); {
		case errors.Is(err, syscall.ENOSPC):
			refused = true
		case err != nil:
			t.Fatal(err)
		default:
			written++
		}
	}
	probes := 0
	for probes < 200 && l.probe() == nil { // its line is shorter
		probes++
	}
	if !refused || probes == 200 {
		t.Fatalf("%d records and %d probes were written on a full file system", written, probes)
	}
	if got := sum(l.unsent(1000)); got.DeviceNs != written {
		t.Errorf("%d ns would be sent, %d are on disk", got.DeviceNs, written)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := l.charge(1, used{DeviceNs: 1000}, 200, 201); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	again := mustOpen(t, filepath.Join(dir, "ledger"), disk{})
	if got := sum(again.unsent(1000)); got.DeviceNs != 1000 || again.damage != "" {
		t.Errorf("read again: %+v, damage %q; want 1000 ns", got, again.damage)
	}
}

func TestLedger_DamagedMiddleGetsANewName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := mustOpen(t, path, disk{})
	for i := int64(1); i <= 3; i++ {
		if err := l.charge(1, used{DeviceNs: i}, i, i+1); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-20] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, path, disk{})
	if again.name == l.name || again.damage == "" || len(again.unsent(10)) != 2 {
		t.Errorf("name %s, damage %q, %d records", again.name, again.damage, len(again.unsent(10)))
	}
	third := mustOpen(t, path, disk{})
	if third.damage != "" || third.name != again.name || len(third.unsent(10)) != 2 || third.unsent(1)[0].Ledger != l.name {
		t.Errorf("reopened: %q %s %+v", third.damage, third.name, third.unsent(10))
	}
}

func FuzzLedger_Read(f *testing.F) {
	f.Add([]byte("00000000 {}\n"))
	f.Add(encodeLine(ledgerLine{Ledger: "a", Next: 3}))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "ledger")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, path, disk{})
		if err := l.charge(1, used{DeviceNs: 1 << 60}, 0, 1); err != nil {
			t.Fatal(err)
		}
	})
}
