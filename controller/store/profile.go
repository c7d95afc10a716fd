package store

import (
	"context"
	"database/sql"

	"pipefill"
)

// profilesKept bounds what one user's uploads take: the oldest go.
const profilesKept = 100

// PutProfile keeps the text of a fill profile under its digest.
func (s *Store) PutProfile(_ context.Context, digest, name, text string, uid uint32, nowMs int64) error {
	return s.write("keep a fill profile", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO fill_profile (digest, uid, name, text, seen_ms) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (digest) DO UPDATE SET seen_ms = excluded.seen_ms`, digest, uid, name, text, nowMs)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM fill_profile WHERE digest IN (
			SELECT digest FROM fill_profile WHERE uid = ? ORDER BY seen_ms DESC, digest LIMIT -1 OFFSET ?)`, uid, profilesKept)
		return err
	})
}

// Profile returns the text of a fill profile; not_found if nobody has uploaded
// it, or too many others since.
func (s *Store) Profile(ctx context.Context, digest string) (string, error) {
	texts, err := query(ctx, s.reader, func(r *sql.Rows) (string, error) {
		var text string
		err := r.Scan(&text)
		return text, err
	}, "SELECT text FROM fill_profile WHERE digest = ?", digest)
	if err == nil && len(texts) == 0 {
		err = pipefill.Errorf(pipefill.CodeNotFound, "fill profile %s: it is not kept here; submit with pipefill-cli submit --pipefill=fill,profile=FILE", digest)
	}
	if err != nil {
		return "", err
	}
	return texts[0], nil
}
