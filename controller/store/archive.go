package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pipefill"
	"pipefill/api"
)

// archived are the tables of an archive, in an order in which they can be
// loaded, with what is older than ?1 and what makes two rows the same thing.
var archived = []struct {
	table, where, order string
	same                []string // columns that a row with the same key must share
}{
	{"fill_job", "outcome <> '' AND ended_ms < ?1", "id", []string{"cluster", "job_id", "uid"}},
	{"assignment", "state = 'ended' AND fill_job_id IN (SELECT id FROM fill_job WHERE outcome <> '' AND ended_ms < ?1)", "id", []string{"fill_job_id", "node", "reserved_ms"}},
	{"usage", `assignment_id IN (SELECT a.id FROM assignment a JOIN fill_job j ON j.id = a.fill_job_id
		WHERE a.state = 'ended' AND j.outcome <> '' AND j.ended_ms < ?1)`, "node, ledger, seq", []string{"assignment_id", "device_ns"}},
	{"main_total", "seen_ms < ?1", "node, device, job_id, started_ms, run", nil},
	{"rollup", "start_ms < ?1", "kind, grain, start_ms, key, account", nil},
	{"audit", "at_ms < ?1", "id", nil},
}

// Archive calls each for every row of the accounting that is older than
// beforeMs, as of one moment.
func (s *Store) Archive(ctx context.Context, beforeMs int64, each func(api.ArchiveRow) error) (err error) {
	conn, err := s.reader.Conn(ctx)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// BeginTx would take the lock for writing (_txlock), which a reader may not.
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer func() {
		_, back := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		err = errors.Join(err, back)
	}()
	for _, a := range archived {
		if err := archiveTable(ctx, conn, a.table, "SELECT * FROM "+a.table+" WHERE "+a.where+" ORDER BY "+a.order, beforeMs, each); err != nil {
			return fmt.Errorf("archive %s: %w", a.table, err)
		}
	}
	return nil
}

func archiveTable(ctx context.Context, conn *sql.Conn, table, text string, beforeMs int64, each func(api.ArchiveRow) error) (err error) {
	rows, err := conn.QueryContext(ctx, text, beforeMs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values := make([]any, len(columns))
	to := make([]any, len(columns))
	for i := range values {
		to[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		row := api.ArchiveRow{Table: table, Row: make(map[string]any, len(columns))}
		for i, name := range columns {
			row.Row[name] = values[i]
		}
		if err := each(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Load takes rows of an archive in, in one transaction, and returns how many
// were not here. What is here stays; a row that is another thing under the same
// key is a conflict.
func (s *Store) Load(_ context.Context, rows []api.ArchiveRow) (loaded int64, err error) {
	err = s.write("load archive", func(ctx context.Context, tx *sql.Tx) error {
		known := map[string][]string{}
		for i, row := range rows {
			n, err := load(ctx, tx, known, row)
			if err != nil {
				return fmt.Errorf("row %d of %s: %w", i+1, row.Table, err)
			}
			loaded += n
		}
		return nil
	})
	return loaded, err
}

func load(ctx context.Context, tx *sql.Tx, known map[string][]string, row api.ArchiveRow) (int64, error) {
	i := slices.IndexFunc(archived, func(a struct {
		table, where, order string
		same                []string
	},
	) bool {
		return a.table == row.Table
	})
	if i < 0 {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "archive: there is no table %q", row.Table)
	}
	a := archived[i]
	if known[a.table] == nil {
		columns, err := query(ctx, tx, func(r *sql.Rows) (name string, err error) { return name, r.Scan(&name) },
			"SELECT name FROM pragma_table_info(?)", a.table)
		if err != nil {
			return 0, err
		}
		known[a.table] = columns
	}
	var names []string
	var values []any
	for _, name := range known[a.table] {
		value, ok := row.Row[name]
		if !ok {
			continue // of a later schema: its default
		}
		v, err := columnValue(value)
		if err != nil {
			return 0, pipefill.Errorf(pipefill.CodeInvalid, "archive: %s.%s: %w", a.table, name, err)
		}
		names, values = append(names, name), append(values, v)
	}
	for name := range row.Row {
		if !slices.Contains(known[a.table], name) {
			return 0, pipefill.Errorf(pipefill.CodeConflict, "archive: this program knows no %s.%s: the archive is of a newer release", a.table, name)
		}
	}
	if a.table == "audit" {
		return loadAudit(ctx, tx, names, values, row)
	}
	if len(names) == 0 {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "archive: a row of %s without a column", a.table)
	}
	result, err := tx.ExecContext(ctx, "INSERT INTO "+a.table+" ("+strings.Join(names, ", ")+") VALUES (?"+strings.Repeat(", ?", len(names)-1)+ //nolint:gosec // names of the schema's own
		") ON CONFLICT DO NOTHING", values...)
	if err != nil {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "archive: a row of %s: %w", a.table, err)
	}
	n, err := result.RowsAffected()
	if err != nil || n == 1 {
		return n, err
	}
	return 0, sameThing(ctx, tx, a.table, strings.Split(a.order, ", "), a.same, row)
}

// loadAudit gives an entry a new number: the order to load has one already.
func loadAudit(ctx context.Context, tx *sql.Tx, names []string, values []any, row api.ArchiveRow) (int64, error) {
	var where []string
	var same []any
	if i := slices.Index(names, "id"); i >= 0 {
		names, values = slices.Delete(names, i, i+1), slices.Delete(values, i, i+1)
	}
	for i, name := range names {
		where, same = append(where, name+" = ?"), append(same, values[i])
	}
	if len(names) == 0 {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "archive: a row of %s without a column", row.Table)
	}
	result, err := tx.ExecContext(ctx, "INSERT INTO audit ("+strings.Join(names, ", ")+") SELECT ?"+strings.Repeat(", ?", len(names)-1)+ //nolint:gosec // names of the schema's own
		" WHERE NOT EXISTS (SELECT 1 FROM audit WHERE "+strings.Join(where, " AND ")+")", append(values, same...)...)
	if err != nil {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "archive: a row of audit: %w", err)
	}
	return result.RowsAffected()
}

// sameThing holds a row that was here against one that was to be loaded.
func sameThing(ctx context.Context, tx *sql.Tx, table string, key, same []string, row api.ArchiveRow) error {
	if len(same) == 0 {
		return nil
	}
	var where []string
	var values []any
	for _, name := range slices.Concat(key, same) {
		v, err := columnValue(row.Row[name])
		if err != nil {
			return err
		}
		where, values = append(where, name+" = ?"), append(values, v)
	}
	var here bool
	err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+table+" WHERE "+strings.Join(where, " AND ")+")", values...).Scan(&here)
	if err == nil && !here {
		err = pipefill.Errorf(pipefill.CodeConflict, "archive: %s %v is another one here: the archive is of another database; "+
			"load it into the one that it was dumped from, or into an empty one", table, row.Row[key[0]])
	}
	return err
}

// columnValue turns a value of JSON, or of the database, into one for it.
func columnValue(v any) (any, error) {
	switch v := v.(type) {
	case string, int64, float64, nil:
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		return f, err
	}
	return nil, fmt.Errorf("%v is neither a number nor a text", v)
}
