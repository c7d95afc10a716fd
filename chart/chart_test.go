package chart_test

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"testing"

	"pipefill/chart"
)

func TestLines(t *testing.T) {
	nan := math.NaN()
	got, err := chart.Lines("a <title>", "x & y", "%", chart.Series{
		Name: "<b>", X: []float64{1, 2, 3, 4, 5}, Y: []float64{1, 2, nan, 4, 5}, Lo: []float64{0, 1, nan, 3, 4}, Hi: []float64{2, 3, nan, 5, 6},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg role=", "a &lt;title&gt;", "&lt;b&gt;", "x &amp; y", "var(--c1)", "var(--ink)"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "NaN") || strings.Contains(string(got), "<b>") {
		t.Error(got)
	}
	if _, err := chart.Lines("t", "", "", chart.Series{X: []float64{1}, Y: nil}); err == nil {
		t.Error("an x without y")
	}
	if got, err := chart.Lines("nothing", "", ""); err != nil || strings.Contains(string(got), "NaN") || strings.Contains(string(got), "Inf") {
		t.Errorf("%v: %s", err, got)
	}
}

// More curves than colours are told apart by their dashes, and a name that is too
// long for the axis stands aslant.
func TestOver(t *testing.T) {
	labels := []string{"one", strings.Repeat("a long label ", 8), "<three>"}
	var series []chart.Series
	for i := range chart.Colours + 1 {
		series = append(series, chart.Series{Name: fmt.Sprintf("curve <%d>", i), X: []float64{0, 1, 2, 2}, Y: []float64{1, 2, math.NaN(), float64(i)}})
	}
	got, err := chart.Over("over", "x", "y", labels, series...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"&lt;three&gt;", "stroke-dasharray", `<span class="k1 d1"></span>curve &lt;7&gt;`, "rotate(", "var(--c7)"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%.3000s", want, got)
		}
	}
	if strings.Contains(string(got), "NaN") {
		t.Error("NaN is drawn")
	}
	if got, err := chart.Over("nothing", "", "", nil); err != nil || strings.Contains(string(got), "NaN") {
		t.Errorf("%v: %s", err, got)
	}
}

func TestBars(t *testing.T) {
	got, err := chart.Bars("bars", "stage", "s", []string{"stage 0", "stage 1"}, []string{"a", "b"}, [][]float64{{1, 2}, {3, math.NaN()}}, false)
	if err != nil || !strings.Contains(string(got), "stage 1") || !strings.Contains(string(got), "var(--c2)") {
		t.Errorf("%v: %s", err, got)
	}
	if _, err := chart.Bars("bars", "", "s", []string{"x"}, []string{"a"}, [][]float64{{1, 2}}, true); err == nil {
		t.Error("two values for one group")
	}
}

func TestTracks(t *testing.T) {
	got, err := chart.Tracks("tracks", "s", 0, 10, []chart.Track{{Name: "<0>", Spans: []chart.Span{{Begin: 1, End: 2}, {Begin: -5, End: -1, Colour: 3}, {Begin: 9, End: 99, Colour: 1}}}}, []string{"x"})
	if err != nil || !strings.Contains(string(got), "&lt;0&gt;") || strings.Contains(string(got), "var(--c4)") || !strings.Contains(string(got), "var(--c2)") {
		t.Errorf("%v: %s", err, got)
	}
	if _, err := chart.Tracks("tracks", "s", 5, 5, nil, nil); err == nil {
		t.Error("no time at all")
	}
}

func TestPage_Escapes(t *testing.T) {
	var out strings.Builder
	p := chart.Page{Title: "<t>", Sections: []chart.Section{{Heading: "h", Picture: template.HTML("<svg></svg>"), Table: &chart.Table{Header: []string{"n"}, Right: []bool{true}, Rows: [][]string{{"<i>"}}}}}}
	if err := p.Write(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "&lt;t&gt;") || !strings.Contains(text, `<td class="n">&lt;i&gt;</td>`) || !strings.Contains(text, "<svg></svg>") {
		t.Error(text)
	}
}
