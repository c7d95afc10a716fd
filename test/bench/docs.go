package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// docs writes the tables of a page anew from build/bench.json: each stands
// between "<!-- bench NAME -->" and "<!-- /bench -->"; the words around are a
// person's. A table of which a figure is missing stays as it is.
func (b *bench) docs(path string) error {
	data, err := os.ReadFile(filepath.Join(b.build, "bench.json"))
	if err != nil {
		return fmt.Errorf("read figures: %w: run make bench first", err)
	}
	var all []row
	if err := json.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("read figures: %w", err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	text, kept, err := renderPage(string(page), all)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, k := range kept {
		b.say("%s", k)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

// renderPage replaces the tables of a page; kept says which stayed, and why.
func renderPage(page string, all []row) (text string, kept []string, err error) {
	const begin, ends, end = "<!-- bench ", " -->\n", "<!-- /bench -->"
	rows := map[string]row{}
	for _, r := range all {
		rows[r.Name] = r
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(page, begin)
		out.WriteString(before)
		if !found {
			return out.String(), kept, nil
		}
		name, rest, ok1 := strings.Cut(after, ends)
		old, rest, ok2 := strings.Cut(rest, end)
		table := tables[name]
		if !ok1 || !ok2 || table == nil {
			return "", nil, fmt.Errorf("%q is no table of the bench, or does not end in %q", name, end)
		}
		fresh, missing := table(rows)
		if missing != "" {
			kept = append(kept, fmt.Sprintf("table %s stays: no figure %q in bench.json", name, missing))
			fresh = old
		}
		out.WriteString(begin + name + ends + fresh + end)
		page = rest
	}
}

// tables are made of rows by name; missing is the first that is not there.
var tables = map[string]func(rows map[string]row) (text, missing string){
	"gate": gateTable, "start": startTable, "fill": fillTable, "guard": guardTable, "compete": competeTable, "standing": standingTable, "planned": plannedTable,
	"schedule": listed("schedule "), "scale": listed("scale: "), "mirror": listed("mirror: "), "account": listed("accounting: "),
}

// listed is a table of all figures whose names begin so, by name.
func listed(prefix string) func(rows map[string]row) (text, missing string) {
	return func(rows map[string]row) (text, missing string) {
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			what, ours := strings.CutPrefix(name, prefix)
			if !ours {
				continue
			}
			r := rows[name]
			p50, p99 := percentiles(r)
			text += fmt.Sprintf("| %s | %s %s | %s | %s |\n", what, p50, r.Unit, p99, wanted(r))
		}
		if text == "" {
			return "", prefix
		}
		return "| figure | value, or p50 | p99 | wanted |\n|---|---|---|---|\n" + text, ""
	}
}

// figure is a number as tables write it.
func figure(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10 || v <= -10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func percentiles(r row) (p50, p99 string) {
	if r.P50 == nil || r.P99 == nil {
		return figure(r.Value), ""
	}
	return figure(*r.P50), figure(*r.P99)
}

func interval(r row) string {
	if r.Lo == nil || r.Hi == nil {
		return figure(r.Value)
	}
	return fmt.Sprintf("%s [%s, %s]", figure(r.Value), figure(*r.Lo), figure(*r.Hi))
}

// wanted is a target and whether it was met.
func wanted(r row) string {
	if r.Target == nil || r.Met == nil {
		return ""
	}
	return figure0(*r.Target) + " " + r.Unit + ": " + map[bool]string{true: "met", false: "**not met**"}[*r.Met]
}

// figure0 is a target, without needless zeros.
func figure0(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func gateTable(rows map[string]row) (text, missing string) {
	text = "| figure | p50 | p99 | wanted |\n|---|---|---|---|\n"
	for _, line := range [][2]string{
		{"announce_nobody_waiting", "announce (begin and end), C, nobody waiting"},
		{"announce_waiter_same_core", "announce, C, a waiter on the same core"},
		{"announce_idle_waiter_same_core", "announce, C, an idle-class waiter on the same core"},
		{"announce, Python engine: begin + end, nobody waiting", "announce, the Python engine, nobody waiting"},
		{"announce, Python calls: begin + end, nobody waiting", "announce, Python calls, nobody waiting"},
		{"open_to_run_futex_same_core", "gate open to fill work, futex, same core"},
		{"open_to_run_futex_same_core_idle", "the same, idle class"},
		{"open_to_run_armed_other_core", "gate open to fill work, armed on another core"},
		{"open_to_run_asleep_other_core", "gate open to fill work, asleep on another core"},
	} {
		r, ok := rows[line[0]]
		if !ok {
			return "", line[0]
		}
		p50, p99 := percentiles(r)
		text += fmt.Sprintf("| %s | %s %s | %s %s | %s |\n", line[1], p50, r.Unit, p99, r.Unit, wanted(r))
	}
	return text, ""
}

func startTable(rows map[string]row) (text, missing string) {
	text = "| pipefilld | later, ms [95 % interval] | wanted |\n|---|---|---|\n"
	for _, way := range []string{"absent", "hanging", "answering garbage"} {
		name := "main job's start later than without the plugin, pipefilld " + way
		r, ok := rows[name]
		if !ok {
			return "", name
		}
		text += fmt.Sprintf("| %s | %s | %s |\n", way, interval(r), wanted(r))
	}
	return text, ""
}

// settingLine is a line of the slow-down and the shares of one setting.
func settingLine(rows map[string]row, name string, last ...string) (cells []string, missing string) {
	for i, what := range append([]string{": slow-down", ": bubbles filled", ": fill work outside bubbles"}, last...) {
		r, ok := rows[name+what]
		if !ok {
			return nil, name + what
		}
		switch {
		case i == 0:
			cells = append(cells, interval(r))
		case r.P99 != nil:
			p50, p99 := percentiles(r)
			cells = append(cells, p50+" / "+p99)
		default:
			cells = append(cells, figure(r.Value))
		}
		if i < 2 && r.Target != nil {
			cells[i] += " (" + wanted(r) + ")"
		}
	}
	return cells, ""
}

func fillTable(rows map[string]row) (text, missing string) {
	text = "| setting | iterations | slow-down, % | filled, % | outside, % | gate open to fill work, µs, p50 / p99 |\n|---|---|---|---|---|---|\n"
	for _, s := range settings() {
		cells, missing := settingLine(rows, s.name, ": gate open to fill work")
		if missing != "" {
			return "", missing
		}
		text += fmt.Sprintf("| %s | %d | %s |\n", strings.TrimPrefix(s.name, "fill "), rows[s.name+": slow-down"].N, strings.Join(cells, " | "))
	}
	return text, ""
}

func guardTable(rows map[string]row) (text, missing string) {
	text = "| guard | slow-down, % | filled, % | outside, % |\n|---|---|---|---|\n"
	for _, ms := range guards {
		cells, missing := settingLine(rows, guardName(ms))
		if missing != "" {
			return "", missing
		}
		text += fmt.Sprintf("| %g ms | %s |\n", ms, strings.Join(cells, " | "))
	}
	return text, ""
}

func plannedTable(rows map[string]row) (text, missing string) {
	text = "| share, guard | slow-down, % | filled, % | useful, % | chunks past their deadline, % | chunks past the bubble's end, % |\n|---|---|---|---|---|---|\n"
	for _, s := range plannedSettings() {
		cells := make([]string, len(plannedFigures))
		for i, what := range plannedFigures {
			r, ok := rows[s.name+what]
			if !ok {
				return "", s.name + what
			}
			cells[i] = interval(r)
			if r.Target != nil {
				cells[i] += " (" + wanted(r) + ")"
			}
		}
		text += fmt.Sprintf("| %s | %s |\n", strings.TrimPrefix(s.name, "planned inference, "), strings.Join(cells, " | "))
	}
	return text, ""
}

func competeTable(rows map[string]row) (text, missing string) {
	text = "| competitor | slow-down, % | its CPU time over bubble time, % |\n|---|---|---|\n"
	for _, r := range rivals() {
		slow, ok1 := rows[r.name+": slow-down"]
		used, ok2 := rows[r.name+": its CPU time over bubble time"]
		if !ok1 || !ok2 {
			return "", r.name
		}
		text += fmt.Sprintf("| %s | %s | %s |\n", r.name, interval(slow), figure(used.Value))
	}
	for _, s := range settings() {
		slow, ok1 := rows[s.name+": slow-down"]
		filled, ok2 := rows[s.name+": bubbles filled"]
		if !ok1 || !ok2 {
			return "", s.name
		}
		text += fmt.Sprintf("| pipefill, %s | %s | %s within bubbles |\n", strings.TrimPrefix(s.name, "fill "), interval(slow), figure(filled.Value))
	}
	return text, ""
}

func standingTable(rows map[string]row) (text, missing string) {
	r, ok := rows[standingName]
	if !ok {
		return "", standingName
	}
	return fmt.Sprintf("| pairs | slow-down, %% |\n|---|---|\n| %d | %s |\n", r.N, interval(r)), ""
}
