package simulator

import (
	"html/template"
	"io"
	"math"
	"slices"
	"strings"

	"pipefill/chart"
)

// mostLabel is where a label on the x axis is cut.
const mostLabel = 24

// writeHTML writes a page that needs nothing besides itself.
func writeHTML(out io.Writer, title, about string, sections []Section, warnings []string, assumptions []Assumption) error {
	page := chart.Page{Title: title, About: about, Warnings: warnings}
	for i := range sections {
		s := &sections[i]
		drawn := chart.Section{Heading: s.Title, Text: s.Note, Table: s.table()}
		if s.Plot != nil && len(s.Rows) > 0 {
			var err error
			if drawn.Picture, err = s.draw(); err != nil {
				return err
			}
		}
		page.Sections = append(page.Sections, drawn)
	}
	assumed := &chart.Table{Header: []string{"what", "value", "source"}}
	for _, a := range assumptions {
		assumed.Rows = append(assumed.Rows, []string{a.Name, a.Value, a.Source})
	}
	page.Sections = append(page.Sections, chart.Section{Heading: "What is assumed", Table: assumed})
	return page.Write(out)
}

func (s *Section) table() *chart.Table {
	t := &chart.Table{Header: s.Columns}
	for i, row := range s.Rows {
		cells := make([]string, len(row))
		for k, v := range row {
			cells[k] = cell(v)
			if _, text := v.(string); i == 0 {
				t.Right = append(t.Right, !text)
			}
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// series returns what is plotted: the labels along the x axis, and for each curve
// its name and its values.
func (s *Section) series() (labels, names []string, values [][]float64) {
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
		values[i] = slices.Repeat([]float64{math.NaN()}, len(labels))
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

// draw makes the section's plot.
func (s *Section) draw() (template.HTML, error) {
	labels, names, values := s.series()
	if s.Plot.Bars {
		return chart.Bars(s.Title, s.Plot.XAxis, s.Plot.YAxis, labels, names, values, false)
	}
	var series []chart.Series
	for i, name := range names {
		line := chart.Series{Name: name}
		for x, y := range values[i] {
			line.X, line.Y = append(line.X, float64(x)), append(line.Y, y)
		}
		series = append(series, line)
	}
	return chart.Over(s.Title, s.Plot.XAxis, s.Plot.YAxis, labels, series...)
}
