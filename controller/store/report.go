package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/account"
)

// Report sums up kind (api.ReportKinds) of [startMs, endMs), widened to whole
// hours, or to whole days before hourMs, where hours are kept no more. A user's
// name narrows it to what is theirs.
func (s *Store) Report(ctx context.Context, kind, user string, startMs, endMs, hourMs int64) (api.Report, error) {
	report := api.Report{Kind: kind, Rows: []api.ReportRow{}}
	spans := s.spans(startMs, endMs, hourMs)
	report.StartMs, report.EndMs = spans[0].fromMs, spans[len(spans)-1].toMs
	from, by := kind, "key, account"
	switch {
	case kind == "account":
		from, by = "user", "account"
	case kind == "cluster" && user != "":
		from, by = "user", "''"
	case kind != "cluster" && kind != "user" && kind != "job" && kind != "main" && kind != "node":
		return report, pipefill.Errorf(pipefill.CodeInvalid, "report %q: write one of %s", kind, strings.Join(api.ReportKinds, ", "))
	case kind == "cluster" || kind == "node":
		by = "key"
	}
	name := map[string]string{"account": "account", "''": "''"}[by]
	if name == "" {
		name = "key"
	}
	var columns []string
	for _, column := range api.SumNames {
		columns = append(columns, "sum("+column+")")
	}
	var parts []string
	var args []any
	for _, span := range spans {
		parts = append(parts, "SELECT * FROM rollup WHERE kind = ? AND grain = ? AND start_ms >= ? AND start_ms < ? AND (? = '' OR user = ?)")
		args = append(args, from, span.grain, span.fromMs, span.toMs, user, user)
	}
	rows, err := query(ctx, s.reader, func(r *sql.Rows) (api.ReportRow, error) {
		var row api.ReportRow
		to := []any{&row.Key, &row.User, &row.Account}
		for _, v := range row.Fields() {
			to = append(to, v)
		}
		return row, r.Scan(to...)
	}, fmt.Sprintf("SELECT %s, max(user), max(account), %s FROM (%s) GROUP BY %s ORDER BY %s", name, strings.Join(columns, ", "),
		strings.Join(parts, " UNION ALL "), by, order(kind, by)), args...)
	for _, row := range rows {
		switch kind {
		case "cluster", "node":
			row.User, row.Account = "", ""
		case "account":
			row.User, row.Account = "", row.Key
		}
		report.Rows = append(report.Rows, row)
	}
	return report, err
}

// order sorts jobs by number, all else by name.
func order(kind, by string) string {
	if kind == "job" || kind == "main" {
		return "CAST(key AS INTEGER), " + by
	}
	return by
}

// span is a stretch that is summed up from rows of one grain.
type span struct {
	grain        account.Grain
	fromMs, toMs int64
}

// spans covers [startMs, endMs) by as few rows as there can be: months within,
// days and hours at the ends. Months are kept as long as days; where their days
// are gone, so are they.
func (s *Store) spans(startMs, endMs, hourMs int64) []span {
	startMs, endMs = account.Floor(account.Hour, startMs, s.Zone), account.Ceil(account.Hour, endMs, s.Zone)
	if startMs < hourMs {
		startMs = account.Floor(account.Day, startMs, s.Zone)
	}
	if endMs < hourMs {
		endMs = account.Ceil(account.Day, endMs, s.Zone)
	}
	return s.cover(startMs, endMs, []account.Grain{account.Month, account.Day, account.Hour})
}

// cover takes the whole of the first grain that lie within, and the others at
// the ends.
func (s *Store) cover(startMs, endMs int64, grains []account.Grain) []span {
	if endMs <= startMs || len(grains) == 0 {
		return nil
	}
	if len(grains) == 1 {
		return []span{{grains[0], startMs, endMs}}
	}
	first, last := account.Ceil(grains[0], startMs, s.Zone), account.Floor(grains[0], endMs, s.Zone)
	if last <= first {
		return s.cover(startMs, endMs, grains[1:])
	}
	out := append(s.cover(startMs, first, grains[1:]), span{grains[0], first, last})
	return append(out, s.cover(last, endMs, grains[1:])...)
}
