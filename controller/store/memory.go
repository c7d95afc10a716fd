package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
)

// Memory is a store that is nowhere but in memory: for tests that need
// thousands, and for what only pretends.
func Memory(ctx context.Context, log *slog.Logger) (*Store, error) {
	db, err := sql.Open("sqlite3", "file::memory:?_txlock=immediate&_foreign_keys=on&_stmt_cache_size=64")
	if err != nil {
		return nil, fmt.Errorf("open a database in memory: %w", err)
	}
	db.SetMaxOpenConns(1)
	db.SetConnMaxLifetime(0)
	if err := migrate(ctx, db, "memory", log); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return start(ctx, db, db)
}

// Again is what another process would find in the database of s, which is not
// used any more.
func (s *Store) Again(ctx context.Context) (*Store, error) {
	s.stop()
	again, err := start(ctx, s.writer, s.reader)
	if err == nil {
		again.Zone = s.Zone
	}
	return again, err
}

// Clear removes all rows.
func (s *Store) Clear(_ context.Context) error {
	err := s.write("clear", func(ctx context.Context, tx *sql.Tx) error {
		for _, table := range []string{"usage", "rollup", "ledger", "main_total", "occupied", "assignment", "fill_job", "controller"} {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+table); err != nil { //nolint:gosec // names of the list above
				return err
			}
		}
		return nil
	})
	return err
}
