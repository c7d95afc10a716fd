package main

import (
	"os"
	"strings"
	"testing"
)

func TestRenderPage(t *testing.T) {
	lo, hi, p99, target, met := -0.2, 5.2, 7.0, 50.0, true
	var rows []row
	for _, way := range []string{"absent", "hanging", "answering garbage"} {
		rows = append(rows, row{Name: "main job's start later than without the plugin, pipefilld " + way, Value: 2.1, Unit: "ms", Lo: &lo, Hi: &hi, P99: &p99, Target: &target, Met: &met})
	}
	page := "words\n<!-- bench start -->\nold\n<!-- /bench -->\nmore\n<!-- bench gate -->\nkept\n<!-- /bench -->\n"
	text, kept, err := renderPage(page, rows)
	if err != nil {
		t.Fatal(err)
	}
	want := "words\n<!-- bench start -->\n| pipefilld | later, ms [95 % interval] | wanted |\n|---|---|---|\n" +
		"| absent | 2.10 [-0.20, 5.20] | 50 ms: met |\n| hanging | 2.10 [-0.20, 5.20] | 50 ms: met |\n" +
		"| answering garbage | 2.10 [-0.20, 5.20] | 50 ms: met |\n<!-- /bench -->\nmore\n<!-- bench gate -->\nkept\n<!-- /bench -->\n"
	if text != want {
		t.Errorf("page:\n%s\nwant:\n%s", text, want)
	}
	if len(kept) != 1 || !strings.Contains(kept[0], "announce_nobody_waiting") {
		t.Errorf("kept %q", kept)
	}
	for _, bad := range []string{"<!-- bench nothing -->\n<!-- /bench -->", "<!-- bench start -->\nno end"} {
		if _, _, err := renderPage(bad, rows); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestMeasurements_HasEveryTable: the page can be written anew by --docs.
func TestMeasurements_HasEveryTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/measurements.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range tables {
		if !strings.Contains(string(page), "<!-- bench "+name+" -->\n") {
			t.Errorf("docs/measurements.md has no table %q", name)
		}
	}
	if text, _, err := renderPage(string(page), nil); err != nil || text != string(page) {
		t.Errorf("without figures the page changes: %v", err)
	}
}
