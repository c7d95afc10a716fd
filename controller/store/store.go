// Package store is the one door to SQLite: fill jobs, assignments, usage and
// main jobs' totals. Each method is one transaction, so that whatever kills the
// controller, what was answered is on disk. It decides nothing.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver
	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"

	"pipefill"
	schema "pipefill/sql"
)

// Store is the controller's database. It is safe for concurrent use.
type Store struct {
	writer *sql.DB // one connection: several writers starve each other
	reader *sql.DB

	Zone *time.Location // of the hours and days that usage is summed up by

	// OnWrite, where a test sets it, is called before a transaction and after
	// its commit, with what it is about. An error is the write's, as if the
	// program had been killed there.
	OnWrite func(doing string, committed bool) error
	// OnChange, where it is set before the first write, is told of each commit
	// before its writers are answered. It must not write.
	OnChange func(Change)

	index      *index
	countings  countings
	generation atomic.Int64 // of Own; 0: not asked for
	requests   chan *request
	once       sync.Once
	closing    chan struct{}
	closed     chan struct{}
}

// Options of a DSN; set there since a PRAGMA reaches only one pooled connection.
// FULL costs 0.2 ms a write and survives power loss. To prepare a statement is
// half of what running one costs.
const pragmas = "?_txlock=immediate&_busy_timeout=5000&_foreign_keys=on&_journal_mode=WAL&_synchronous=FULL&_stmt_cache_size=64"

// writerPages is the writer's cache, 16 MiB: the roll-ups of an hour of thousands
// of jobs are read again with each report.
const writerPages = "&_cache_size=-16384"

// Open opens or makes dir/queue.db and brings it to this program's schema. A
// database of a newer program is refused and left alone.
func Open(ctx context.Context, dir string, log *slog.Logger) (*Store, error) {
	return open(ctx, dir, shared(dir), log)
}

// shared tells whether a folder is on a file system of several hosts. There
// SQLite's index of the write-ahead log, which is shared memory, is of no use:
// one connection has the file to itself.
func shared(dir string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false // Open will say it
	}
	const lustre, gpfs, beegfs, ocfs2, gfs2 = 0x0bd00bd0, 0x47504653, 0x19830326, 0x7461636f, 0x01161970
	switch int64(fs.Type) { //nolint:unconvert // int32 on other machines
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC,
		lustre, gpfs, beegfs, ocfs2, gfs2:
		return true
	}
	return false
}

func open(ctx context.Context, dir string, shared bool, log *slog.Logger) (*Store, error) {
	path := filepath.Join(dir, "queue.db")
	options := pragmas
	if shared {
		options += "&_locking_mode=EXCLUSIVE"
	}
	writer, err := sql.Open("sqlite3", "file:"+path+options+writerPages)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	writer.SetMaxOpenConns(1)
	// Each request of a transaction is a savepoint, whose journal is a temporary
	// file else. The driver has no word for this, and the writer one connection.
	if _, err := writer.ExecContext(ctx, "PRAGMA temp_store = MEMORY"); err != nil {
		return nil, errors.Join(pipefill.Errorf(pipefill.CodeUnavailable, "%s: %w: is its folder writable?", path, err), writer.Close())
	}
	if err := migrate(ctx, writer, path, log); err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	if shared {
		return start(ctx, writer, writer)
	}
	reader, err := sql.Open("sqlite3", "file:"+path+pragmas+"&_query_only=true")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), writer.Close())
	}
	reader.SetMaxOpenConns(4)
	return start(ctx, writer, reader)
}

// start is a store on handles that are open.
func start(ctx context.Context, writer, reader *sql.DB) (*Store, error) {
	s := &Store{
		writer: writer, reader: reader, index: newIndex(),
		Zone:     time.Local, //nolint:gosmopolitan // the site's own, unless the configuration names one
		requests: make(chan *request, mostInOne), closing: make(chan struct{}), closed: make(chan struct{}),
	}
	if err := s.index.load(ctx, reader); err != nil {
		return nil, errors.Join(err, reader.Close(), writer.Close())
	}
	go s.serve() //nolint:contextcheck // its transactions are nobody's alone: Close ends it
	return s, nil
}

func migrate(ctx context.Context, db *sql.DB, path string, log *slog.Logger) error {
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, schema.Migrations, goose.WithSlog(log))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, target, err := provider.GetVersions(ctx)
	if err != nil {
		return pipefill.Errorf(pipefill.CodeUnavailable, "%s: %w: is it a database of pipefillctld, and its folder writable?", path, err)
	}
	if have > target {
		return pipefill.Errorf(pipefill.CodeConflict,
			"%s has schema version %d, this program knows up to %d: install the newer pipefillctld again, or restore the backup made before it",
			path, have, target)
	}
	if _, err := provider.Up(ctx); err != nil {
		return pipefill.Errorf(pipefill.CodeUnavailable, "%s: bring to version %d: %w", path, target, err)
	}
	return nil
}

// Close closes the database, after the transaction under way.
func (s *Store) Close() error {
	s.stop()
	return errors.Join(s.reader.Close(), s.writer.Close())
}

func (s *Store) stop() {
	s.once.Do(func() { close(s.closing) })
	<-s.closed
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// query collects the rows of a SELECT.
func query[T any](ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, scan func(*sql.Rows) (T, error), text string, args ...any,
) (out []T, err error) {
	rows, err := db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		row, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("query: %w", err)
		}
		out = append(out, row)
	}
	return out, rows.Err()
}
