package simulator

import (
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"github.com/go-analyze/charts"

	_ "embed"
)

//go:embed report.html.tmpl
var reportText string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"cell": cell, "number": func(v any) bool { _, text := v.(string); return !text },
}).Parse(reportText))

// htmlSection is a section with its plot drawn.
type htmlSection struct {
	Section
	SVG template.HTML
}

// writeHTML writes a page that needs nothing besides itself: plots are SVG within
// it, and it can be printed and read on a dark screen.
func writeHTML(out io.Writer, title, about string, sections []Section, warnings []string, assumptions []Assumption) error {
	var drawn []htmlSection
	for _, s := range sections {
		h := htmlSection{Section: s}
		if s.Plot != nil && len(s.Rows) > 0 {
			svg, err := s.draw()
			if err != nil {
				return fmt.Errorf("draw %s: %w", s.Title, err)
			}
			h.SVG = template.HTML(svg) //nolint:gosec // made by the charts library, which escapes text
		}
		drawn = append(drawn, h)
	}
	err := reportTemplate.Execute(out, map[string]any{
		"Title": title, "About": about, "Sections": drawn, "Warnings": warnings, "Assumptions": assumptions,
	})
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// curveColors are dark, so that a dark page's filter makes them light, and told
// apart also by those who see no red or no green (after Okabe and Ito).
var curveColors = []charts.Color{
	charts.ParseColor("#0072B2"), charts.ParseColor("#B34A00"), charts.ParseColor("#00735C"), charts.ParseColor("#A0407A"),
	charts.ParseColor("#7A6200"), charts.ParseColor("#3B3B3B"), charts.ParseColor("#5B3A9A"), charts.ParseColor("#2E7FA8"),
}

const (
	plotWidth, plotHeight = 760, 380
	// mostLabel is where a label on the x axis is cut.
	mostLabel = 24
)

// series returns what is plotted: the labels along the x axis, and for each curve
// its name and its values.
func (s *Section) series() (labels []string, names []string, values [][]float64) {
	at := map[string]int{}
	for _, row := range s.Rows {
		label := cell(row[s.Plot.X])
		if !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
		for _, y := range s.Plot.Y {
			name := s.curve(row, y)
			if _, ok := at[name]; !ok {
				at[name] = len(names)
				names = append(names, name)
			}
		}
	}
	values = make([][]float64, len(names))
	for i := range values {
		values[i] = slices.Repeat([]float64{charts.GetNullValue()}, len(labels))
	}
	for _, row := range s.Rows {
		x := slices.Index(labels, cell(row[s.Plot.X]))
		for _, y := range s.Plot.Y {
			if v, ok := asFloat(row[y]); ok {
				values[at[s.curve(row, y)]][x] = v
			}
		}
	}
	for i := range labels {
		labels[i] = labels[i][:min(len(labels[i]), mostLabel)]
	}
	return labels, names, values
}

// curve names the curve that a row's column belongs to.
func (s *Section) curve(row []any, y int) string {
	var words []string
	for _, i := range s.Plot.By {
		switch row[i].(type) {
		case string:
			words = append(words, cell(row[i]))
		default:
			words = append(words, strings.ToLower(s.Columns[i])+" "+cell(row[i]))
		}
	}
	if len(s.Plot.Y) > 1 || len(words) == 0 {
		words = append(words, strings.ToLower(s.Columns[y]))
	}
	return strings.Join(words, ", ")
}

func asFloat(v any) (float64, bool) {
	switch x := v.(type) {
	case float64:
		return x, true
	case int:
		return float64(x), true
	}
	return 0, false
}

// draw makes the section's plot, as SVG.
func (s *Section) draw() (string, error) {
	labels, names, values := s.series()
	theme := charts.GetTheme(charts.ThemeLight).WithBackgroundColor(charts.ColorTransparent).WithSeriesColors(curveColors)
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: plotWidth, Height: plotHeight + 18*((len(names)+2)/3), Theme: theme})
	x := charts.CategoryAxisOption{Labels: labels, Title: s.Plot.XAxis}
	y := []charts.ValueAxisOption{{Title: s.Plot.YAxis, Min: charts.Ptr(0.0)}}
	legend := charts.LegendOption{SeriesNames: names}
	if s.Plot.Bars {
		option := charts.NewBarChartOptionWithData(values)
		option.Theme, option.CategoryAxis, option.ValueAxis, option.Legend = theme, x, y, legend
		if err := p.BarChart(option); err != nil {
			return "", err
		}
	} else {
		option := charts.NewLineChartOptionWithData(values)
		option.Theme, option.XAxis, option.YAxis, option.Legend = theme, x, y, legend
		if err := p.LineChart(option); err != nil {
			return "", err
		}
	}
	svg, err := p.Bytes()
	if err != nil {
		return "", err
	}
	// Let the page set the width; the drawing keeps its shape.
	text := string(svg)
	return text[max(0, strings.Index(text, "<svg")):], nil
}
