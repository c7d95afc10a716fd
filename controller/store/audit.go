package store

import (
	"context"
	"database/sql"

	"pipefill/api"
)

// auditMost bounds one answer.
const auditMost = 100_000

// Audit writes down an order before it is carried out, and returns its number
// for AuditResult.
func (s *Store) Audit(_ context.Context, e api.AuditEntry) (id int64, err error) {
	err = s.write("audit", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "INSERT INTO audit (at_ms, uid, user, action, target, detail, why) VALUES (?, ?, ?, ?, ?, ?, ?)",
			e.AtMs, e.UID, e.User, e.Action, e.Target, e.Detail, e.Why)
		if err != nil {
			return err
		}
		id, err = result.LastInsertId()
		return err
	})
	return id, err
}

// AuditResult writes down what became of an order.
func (s *Store) AuditResult(_ context.Context, id int64, result string) error {
	return s.write("audit", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE audit SET result = ? WHERE id = ?", result, id)
		return err
	})
}

// Audits lists the orders within [startMs, endMs), oldest first.
func (s *Store) Audits(ctx context.Context, startMs, endMs int64) ([]api.AuditEntry, error) {
	return query(ctx, s.reader, func(r *sql.Rows) (api.AuditEntry, error) {
		var e api.AuditEntry
		err := r.Scan(&e.ID, &e.AtMs, &e.UID, &e.User, &e.Action, &e.Target, &e.Detail, &e.Why, &e.Result)
		return e, err
	}, "SELECT id, at_ms, uid, user, action, target, detail, why, result FROM audit WHERE at_ms >= ? AND at_ms < ? ORDER BY at_ms, id LIMIT ?",
		startMs, endMs, auditMost)
}

// Drains lists what is drained.
func (s *Store) Drains(ctx context.Context) ([]api.Drain, error) {
	return query(ctx, s.reader, func(r *sql.Rows) (api.Drain, error) {
		var d api.Drain
		err := r.Scan(&d.Kind, &d.Name, &d.User, &d.Why, &d.SinceMs, &d.Evict)
		return d, err
	}, "SELECT kind, name, user, why, since_ms, evict FROM drain ORDER BY kind DESC, name")
}

// SetDrains drains, all or nothing; what is drained already gets the new reason.
func (s *Store) SetDrains(_ context.Context, drains []api.Drain) error {
	return s.write("drain", func(ctx context.Context, tx *sql.Tx) error {
		for _, d := range drains {
			_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO drain (kind, name, user, why, since_ms, evict) VALUES (?, ?, ?, ?, ?, ?)",
				d.Kind, d.Name, d.User, d.Why, d.SinceMs, d.Evict)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// DropDrains resumes, and returns how many of names were drained.
func (s *Store) DropDrains(_ context.Context, kind string, names []string) (n int64, err error) {
	err = s.write("resume", func(ctx context.Context, tx *sql.Tx) error {
		for _, name := range names {
			result, err := tx.ExecContext(ctx, "DELETE FROM drain WHERE kind = ? AND name = ?", kind, name)
			if err != nil {
				return err
			}
			one, err := result.RowsAffected()
			if err != nil {
				return err
			}
			n += one
		}
		return nil
	})
	return n, err
}
