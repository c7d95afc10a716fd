// Package lease decides which of several controllers with one state directory
// is the one that acts, as the heartbeat in Slurm's StateSaveLocation does for
// slurmctld. It owns the files controller.lease and controller.claim.* there and
// nothing else.
//
// The directory may be on NFS or another shared file system: no lock is relied
// on, and no two hosts' clocks are compared. The holder writes a record with a
// counter every two seconds. Another controller watches the counter by its own clock:
// one that has not moved for twenty is dead, or cut off from the directory. A
// holder of this same kernel is looked up among its processes instead, so that a
// controller that was killed is followed at once. Who takes over makes the claim
// of the next generation, by a hard link, which one of several wins; and the
// generation goes into the database, where every write checks it (store.Own).
//
// The holder that cannot write its record stops acting before another may start:
// after twelve, by a clock that goes on while the machine sleeps.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
)

// times are how long things take. A holder has stopped acting for takeover -
// fence before another begins.
type times struct{ beat, fence, takeover time.Duration }

var usual = times{beat: 2 * time.Second, fence: 12 * time.Second, takeover: 20 * time.Second}

const (
	leaseFile   = "controller.lease"
	claimPrefix = "controller.claim."
)

// record is the content of the lease and of a claim.
type record struct {
	Generation int64 `json:"generation"`
	Beats      int64 `json:"beats"`
	holder
}

// holder is a process, as it can be found again.
type holder struct {
	Host      string `json:"host"`
	Boot      string `json:"boot"` // of the kernel
	Namespace string `json:"pid_namespace"`
	PID       int    `json:"pid"`
	Started   string `json:"started"` // of the process, in the kernel's ticks
}

// Lease is held until it is lost or released. It is safe for concurrent use.
type Lease struct {
	times

	dir string
	log *slog.Logger

	mu   sync.Mutex
	mine record
	at   time.Duration // of the last record written, by CLOCK_BOOTTIME
	lost error
}

// Take makes this process the holder. Where another lives, it waits for its end
// if standby is set, and else returns a conflict that names it. nil, without an
// error, is for a ctx that ended meanwhile.
func Take(ctx context.Context, dir string, standby bool, log *slog.Logger) (*Lease, error) {
	return take(ctx, dir, standby, usual, log)
}

func take(ctx context.Context, dir string, standby bool, t times, log *slog.Logger) (*Lease, error) {
	self, err := thisProcess()
	if err != nil {
		return nil, err
	}
	l := &Lease{dir: dir, times: t, log: log, mine: record{holder: self}}
	told := false
	var w watch
	for {
		state, err := l.look(&w)
		if err != nil {
			return nil, err
		}
		if state == nil {
			won, err := l.claim(w.generation + 1)
			if err != nil {
				return nil, err
			}
			if won {
				err := l.renew()
				return l, errors.Join(err, l.sweep())
			}
			w = watch{} // somebody else was first
			continue
		}
		if !standby && state.alive() != unknown {
			return nil, conflict(dir, state)
		}
		if !told {
			log.InfoContext(ctx, "another pipefillctld may live, waiting", "host", state.Host, "pid", state.PID, "standby", standby)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, nil //nolint:nilnil // told to end while it waited
		case <-time.After(t.beat / 4):
		}
		if !standby && w.moved {
			return nil, conflict(dir, state)
		}
	}
}

func conflict(dir string, r *record) error {
	return pipefill.Errorf(pipefill.CodeConflict, "%s is used by another pipefillctld, process %d on %s: end that one first, or start this one with --standby",
		dir, r.PID, r.Host)
}

// watch is what is known of the holder by looking again and again.
type watch struct {
	generation int64 // the highest seen
	last       string
	since      time.Duration
	moved      bool // while we looked
}

// look reads who holds the lease; nil where nobody does, or nobody that lives.
func (l *Lease) look(w *watch) (*record, error) {
	held, text, err := l.read(filepath.Join(l.dir, leaseFile))
	if err != nil {
		return nil, err
	}
	// A claim that is newer than the lease is of one that is about to write it,
	// or died before it did.
	names, err := filepath.Glob(filepath.Join(l.dir, claimPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	for _, name := range names {
		generation, err := strconv.ParseInt(strings.TrimPrefix(filepath.Base(name), claimPrefix), 10, 64)
		if err != nil || held != nil && generation <= held.Generation {
			continue
		}
		claimed, claim, err := l.read(name)
		if err != nil {
			return nil, err
		}
		if claimed != nil {
			held, text = claimed, claim
		}
	}
	if held == nil {
		return nil, nil //nolint:nilnil // nobody
	}
	now := boottime()
	if text != w.last {
		w.moved = w.last != ""
		w.last, w.since, w.generation = text, now, max(w.generation, held.Generation)
	}
	switch held.alive() {
	case dead:
		return nil, nil //nolint:nilnil // nobody that lives
	case alive:
		return held, nil
	case unknown:
	}
	if now-w.since >= l.takeover {
		return nil, nil //nolint:nilnil // nobody that lives
	}
	return held, nil
}

func (l *Lease) read(path string) (*record, string, error) {
	text, err := os.ReadFile(path) //nolint:gosec // below the administrator's state_dir
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", pipefill.Errorf(pipefill.CodeUnavailable, "state_dir: %w", err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil || r.Generation <= 0 {
		return nil, "", pipefill.Errorf(pipefill.CodeConflict, "%s is damaged: make sure that no pipefillctld runs, and remove it", path)
	}
	return &r, string(text), nil
}

// claim tries to become the holder of a generation. A hard link is made whole or
// not at all, on NFS too; an answer that was lost shows in the link count.
func (l *Lease) claim(generation int64) (won bool, err error) {
	l.mine.Generation = generation
	temporary, err := l.write()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.Remove(temporary)) }()
	name := filepath.Join(l.dir, claimPrefix+strconv.FormatInt(generation, 10))
	linkErr := os.Link(temporary, name)
	var stat unix.Stat_t
	if err := unix.Stat(temporary, &stat); err != nil {
		return false, fmt.Errorf("claim: %w", err)
	}
	if stat.Nlink == 2 {
		return true, nil
	}
	if errors.Is(linkErr, fs.ErrExist) {
		return false, nil
	}
	return false, pipefill.Errorf(pipefill.CodeUnavailable, "state_dir: %w: its file system must know hard links", linkErr)
}

// write writes the record to a file of its own.
func (l *Lease) write() (path string, err error) {
	text, err := json.Marshal(l.mine)
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp(l.dir, leaseFile+".*.new")
	if err != nil {
		return "", pipefill.Errorf(pipefill.CodeUnavailable, "state_dir: %w", err)
	}
	_, err = file.Write(append(text, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return "", errors.Join(pipefill.Errorf(pipefill.CodeUnavailable, "state_dir: %w", err), os.Remove(file.Name())) //nolint:gosec // made above
	}
	return file.Name(), nil
}

// renew writes the next beat.
func (l *Lease) renew() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	began := boottime()
	held, _, err := l.read(filepath.Join(l.dir, leaseFile))
	if err != nil {
		return err
	}
	if held != nil && (held.Generation > l.mine.Generation || held.Generation == l.mine.Generation && held.holder != l.mine.holder) {
		l.lost = pipefill.Errorf(pipefill.CodeConflict, "pipefillctld on %s (process %d) has taken over", held.Host, held.PID)
		return l.lost
	}
	l.mine.Beats++
	temporary, err := l.write()
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(l.dir, leaseFile)); err != nil { //nolint:gosec // below the administrator's state_dir
		return errors.Join(pipefill.Errorf(pipefill.CodeUnavailable, "state_dir: %w", err), os.Remove(temporary)) //nolint:gosec // made by write
	}
	l.at = began
	return nil
}

// Keep renews the lease until ctx ends, which is nil, or it is lost.
func (l *Lease) Keep(ctx context.Context) error {
	ticker := time.NewTicker(l.beat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := l.renew(); err != nil {
			if l.Held() != nil {
				return l.Held()
			}
			l.log.WarnContext(ctx, "the heartbeat was not written", "err", err)
		}
	}
}

// Held tells whether this process may act; the error says why not. One that
// could not renew its lease in time may never again: another may have begun.
func (l *Lease) Held() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == nil && boottime()-l.at > l.fence {
		l.lost = pipefill.Errorf(pipefill.CodeUnavailable, "no heartbeat was written for %s: another pipefillctld may have taken over", l.fence)
	}
	return l.lost
}

// Generation rises with each holder.
func (l *Lease) Generation() int64 { return l.mine.Generation }

// Release lets the next one begin at once. It is called when nothing acts any
// more.
func (l *Lease) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return nil
	}
	l.lost = pipefill.Errorf(pipefill.CodeUnavailable, "the lease was released")
	held, _, err := l.read(filepath.Join(l.dir, leaseFile))
	if err != nil || held == nil || held.Generation != l.mine.Generation {
		return err
	}
	// Generations go on: the record stays, of a process that there is not.
	l.mine.PID, l.mine.Started = 0, ""
	temporary, err := l.write()
	if err == nil {
		err = os.Rename(temporary, filepath.Join(l.dir, leaseFile))
	}
	if err != nil {
		return fmt.Errorf("release the lease: %w", err)
	}
	return l.sweep()
}

// sweep removes claims that are over.
func (l *Lease) sweep() error {
	names, err := filepath.Glob(filepath.Join(l.dir, claimPrefix+"*"))
	for _, name := range names {
		generation, parseErr := strconv.ParseInt(strings.TrimPrefix(filepath.Base(name), claimPrefix), 10, 64)
		if parseErr == nil && generation <= l.mine.Generation {
			err = errors.Join(err, os.Remove(name))
		}
	}
	return err
}
