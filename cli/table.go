package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"pipefill"
)

// column is one column of a table.
type column[T any] struct {
	name  string
	right bool // numbers
	text  func(T) string
}

// outputFlags are those of every command that prints rows.
func outputFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.BoolFlag{Name: "json", Usage: "print JSON"},
		&cli.BoolFlag{Name: "parsable2", Aliases: []string{"P"}, Usage: "print fields parted by |, as sacct does"},
		&cli.BoolFlag{Name: "noheader", Aliases: []string{"h", "n"}, Usage: "print no header"},
	}, more...)
}

// printRows prints rows as the flags say: as a table, as JSON, or parsable.
func printRows[T any](w io.Writer, c *cli.Context, rows []T, columns []column[T]) error {
	if c.Bool("json") {
		if rows == nil {
			rows = []T{}
		}
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
	}
	var lines [][]string
	if !c.Bool("noheader") {
		var header []string
		for _, col := range columns {
			header = append(header, col.name)
		}
		lines = append(lines, header)
	}
	for _, row := range rows {
		var line []string
		for _, col := range columns {
			line = append(line, oneLine(col.text(row)))
		}
		lines = append(lines, line)
	}
	var out strings.Builder
	if c.Bool("parsable2") {
		for _, line := range lines {
			for i, field := range line {
				line[i] = strings.ReplaceAll(field, "|", "/")
			}
			out.WriteString(strings.Join(line, "|") + "\n")
		}
	} else {
		align(&out, lines, columns)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func align[T any](out *strings.Builder, lines [][]string, columns []column[T]) {
	widths := make([]int, len(columns))
	for _, line := range lines {
		for i, field := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(field))
		}
	}
	for _, line := range lines {
		var row strings.Builder
		for i, field := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(field))
			if columns[i].right {
				row.WriteString(pad + field)
			} else {
				row.WriteString(field + pad)
			}
			row.WriteString(" ")
		}
		out.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
}

// oneLine keeps what users name their jobs from moving the terminal's cursor.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

// pick returns the columns that a comma-separated list names.
func pick[T any](columns []column[T], list string) ([]column[T], error) {
	if list == "" {
		return columns, nil
	}
	var out []column[T]
	for name := range strings.SplitSeq(list, ",") {
		found := false
		for _, col := range columns {
			if strings.EqualFold(col.name, strings.TrimSpace(name)) {
				out, found = append(out, col), true
			}
		}
		if !found {
			var names []string
			for _, col := range columns {
				names = append(names, strings.ToLower(col.name))
			}
			return nil, pipefill.Errorf(pipefill.CodeInvalid, "format: there is no column %q; there are %s", name, strings.Join(names, ","))
		}
	}
	return out, nil
}

// elapsed writes milliseconds as Slurm does: [D-]HH:MM:SS.
func elapsed(ms int64) string {
	s := ms / 1000
	text := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400; days > 0 {
		text = fmt.Sprintf("%d-%s", days, text)
	}
	return text
}

func limit(ms int64) string {
	if ms <= 0 {
		return "UNLIMITED"
	}
	return elapsed(ms)
}

// size writes bytes with a unit.
func size(bytes int64) string {
	const units = "KMGTP"
	if bytes <= 0 {
		return "N/A"
	}
	value, unit := float64(bytes), ""
	for i := 0; value >= 1024 && i < len(units); i++ {
		value, unit = value/1024, units[i:i+1]+"iB"
	}
	if unit == "" {
		return fmt.Sprintf("%dB", bytes)
	}
	return fmt.Sprintf("%.1f%s", value, unit)
}
