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
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver
	"github.com/pressly/goose/v3"

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
}

// Options of a DSN; set there since a PRAGMA reaches only one pooled connection.
// FULL costs 0.2 ms a write and survives power loss.
const pragmas = "?_txlock=immediate&_busy_timeout=5000&_foreign_keys=on&_journal_mode=WAL&_synchronous=FULL"

// Open opens or makes dir/queue.db and brings it to this program's schema. A
// database of a newer program is refused and left alone.
func Open(ctx context.Context, dir string, log *slog.Logger) (*Store, error) {
	path := filepath.Join(dir, "queue.db")
	writer, err := sql.Open("sqlite3", "file:"+path+pragmas)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	writer.SetMaxOpenConns(1)
	if err := migrate(ctx, writer, path, log); err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	reader, err := sql.Open("sqlite3", "file:"+path+pragmas+"&_query_only=true")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), writer.Close())
	}
	reader.SetMaxOpenConns(4)
	return &Store{writer: writer, reader: reader, Zone: time.Local}, nil //nolint:gosmopolitan // the site's own, unless the configuration names one
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

// Close closes the database.
func (s *Store) Close() error { return errors.Join(s.reader.Close(), s.writer.Close()) }

// write runs change in one transaction.
func (s *Store) write(ctx context.Context, doing string, change func(tx *sql.Tx) error) (err error) {
	if s.OnWrite != nil {
		if err := s.OnWrite(doing, false); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", doing, err), ignoreDone(tx.Rollback()))
		}
	}()
	if err := change(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil || s.OnWrite == nil {
		return err
	}
	return s.OnWrite(doing, true)
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
