// Package chart draws for reports in HTML: lines with their intervals, bars, and
// tracks of time, as SVG that follows the reader's colours, dark, light or on
// paper; and the page that they stand on. It is the one door to gonum's plot.
//
// It knows nothing of what it draws.
package chart

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Width is that of all charts, in points; a page scales them to its own.
const Width = 720

// Series is one line. Lo and Hi, where they are, are the ends of an interval
// around each value. NaN leaves a gap.
type Series struct {
	Name   string
	X, Y   []float64
	Lo, Hi []float64
}

// The colours stand for those of the page (Page), which are told apart also by
// those who see no red or no green (after Okabe and Ito).
var (
	ink     = color.NRGBA{1, 1, 1, 255}
	faint   = color.NRGBA{2, 2, 2, 255}
	palette = []color.NRGBA{{3, 3, 1, 255}, {3, 3, 2, 255}, {3, 3, 3, 255}, {3, 3, 4, 255}, {3, 3, 5, 255}, {3, 3, 6, 255}, {3, 3, 7, 255}}
)

// Colours is how many things a chart can tell apart.
const Colours = 7

var themed = func() *strings.Replacer {
	pairs := []string{hex(ink), "var(--ink)", hex(faint), "var(--faint)"}
	for i, c := range palette {
		pairs = append(pairs, hex(c), fmt.Sprintf("var(--c%d)", i+1), hex(shade(i)), fmt.Sprintf("color-mix(in srgb, var(--c%d) 25%%, transparent)", i+1))
	}
	return strings.NewReplacer(pairs...)
}()

func hex(c color.NRGBA) string { return fmt.Sprintf("#%02X%02X%02X", c.R, c.G, c.B) }

// shade is the colour of an interval around a line. It is no transparent one:
// gonum's SVG would mix it with black.
func shade(i int) color.NRGBA { return color.NRGBA{4, 4, paint(i).B, 255} }

func paint(i int) color.NRGBA { return palette[i%len(palette)] }

// ticks are gonum's, labelled 5000 and not 5000.00.
type ticks struct{}

// Ticks is plot.Ticker's.
func (ticks) Ticks(least, most float64) []plot.Tick {
	all := plot.DefaultTicks{}.Ticks(least, most)
	for i := range all {
		if all[i].Label != "" {
			// Steps are multiples of powers of ten, with errors in the last digits.
			rounded, err := strconv.ParseFloat(strconv.FormatFloat(all[i].Value, 'g', 9, 64), 64)
			if err == nil {
				all[i].Label = strconv.FormatFloat(rounded, 'f', -1, 64)
			}
		}
	}
	return all
}

func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks{}, ticks{}
	text := font.Font{Typeface: "Liberation", Variant: "Sans", Size: 11}
	for _, style := range []*draw.TextStyle{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Color, style.Font = ink, text
	}
	p.X.Color, p.Y.Color, p.X.Tick.Color, p.Y.Tick.Color = ink, ink, ink, ink
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Transparent, faint
	p.Add(grid)
	return p
}

// svg draws a plot and gives it the page's colours and fonts. names are of its
// legend. The title is for those who do not see: the page's heading is above.
func svg(p *plot.Plot, title string, height float64, names []string) (template.HTML, error) {
	c := vgsvg.New(Width, vg.Length(height))
	p.Draw(draw.New(c))
	return embed(c, title, names)
}

// legend is below a picture and not in it: it hides nothing, its letters have the
// page's size, and it breaks into lines where the page is narrow. The swatches
// of those beyond the colours are dashed, as their lines are.
func legend(names []string) string {
	var out strings.Builder
	for i, name := range names {
		if name == "" {
			continue
		}
		style := ""
		if i >= Colours {
			style = fmt.Sprintf(" d%d", min(i/Colours, len(dashes)-1))
		}
		fmt.Fprintf(&out, `<li><span class="k%d%s"></span>%s</li>`, i%Colours+1, style, template.HTMLEscapeString(name))
	}
	if out.Len() == 0 {
		return ""
	}
	return `<ul class="legend">` + out.String() + "</ul>"
}

// dashes tell lines of one colour apart.
var dashes = [][]vg.Length{nil, {7, 3}, {2, 3}, {9, 3, 2, 3}}

func embed(c *vgsvg.Canvas, title string, names []string) (template.HTML, error) {
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return "", fmt.Errorf("draw %s: %w", title, err)
	}
	text := out.String()
	start := strings.Index(text, "<svg")
	if start < 0 {
		return "", fmt.Errorf("draw %s: no picture came of it", title)
	}
	text = themed.Replace(text[start:])
	// Places were measured in Liberation's letters; others are wider.
	text = strings.ReplaceAll(text, "font-family:Liberation Sans", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif")
	text = sizes.ReplaceAllStringFunc(text, smaller)
	// The name is what a screen reader reads.
	text = strings.Replace(text, "<svg", `<svg role="img" aria-label="`+template.HTMLEscapeString(title)+`"`, 1)
	return template.HTML(`<div class="picture">` + text + "</div>" + legend(names)), nil //nolint:gosec // texts in it are escaped by gonum's plot, and above
}

var sizes = regexp.MustCompile(`font-size:[0-9.]+`)

func smaller(size string) string {
	points, err := strconv.ParseFloat(strings.TrimPrefix(size, "font-size:"), 64)
	if err != nil {
		return size
	}
	return fmt.Sprintf("font-size:%.3g", points*0.88)
}

// Lines draws series over the same axis, each with its interval. The y axis
// begins at 0 where all values are above.
func Lines(title, x, y string, series ...Series) (template.HTML, error) {
	p := newPlot(x, y)
	if err := addLines(p, title, series, false); err != nil {
		return "", err
	}
	return svg(p, title, 200, namesOf(series))
}

// Over draws series over labels: X of a series are indices of them. Values are
// marked, since one alone makes no line.
func Over(title, x, y string, labels []string, series ...Series) (template.HTML, error) {
	p := newPlot(x, y)
	if err := addLines(p, title, series, true); err != nil {
		return "", err
	}
	length := 0
	for _, label := range labels {
		length += len(label) + 2
	}
	if len(labels) == 0 {
		return svg(p, title, 200, nil)
	}
	p.NominalX(labels...)
	p.X.Tick.Length, p.X.Width = 3, 0.5
	height := 240.0
	// A letter is some 5.5 points wide.
	if length*11/2 > Width-80 {
		p.X.Tick.Label.Rotation, p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = math.Pi/4, draw.XRight, draw.YCenter
		height += 60
	}
	p.X.Min, p.X.Max = -0.3, float64(len(labels))-0.7
	return svg(p, title, height, namesOf(series))
}

func namesOf(series []Series) (names []string) {
	for _, s := range series {
		names = append(names, s.Name)
	}
	return names
}

// addLines adds series to a plot, and room around them.
func addLines(p *plot.Plot, title string, series []Series, marked bool) error {
	for i, s := range series {
		if len(s.X) != len(s.Y) || s.Lo != nil && (len(s.Lo) != len(s.X) || len(s.Hi) != len(s.X)) {
			return fmt.Errorf("draw %s: series %s has %d x, %d y, %d and %d ends of intervals", title, s.Name, len(s.X), len(s.Y), len(s.Lo), len(s.Hi))
		}
		for _, run := range runs(s) {
			if s.Lo != nil {
				band := append(points(run.X, run.Lo), reversed(points(run.X, run.Hi))...)
				polygon, err := plotter.NewPolygon(band)
				if err != nil {
					return fmt.Errorf("draw %s: %w", title, err)
				}
				polygon.Color, polygon.Width = shade(i), 0
				p.Add(polygon)
			}
			line, err := plotter.NewLine(points(run.X, run.Y))
			if err != nil {
				return fmt.Errorf("draw %s: %w", title, err)
			}
			line.Color, line.Width, line.Dashes = paint(i), 1.5, dashes[min(i/Colours, len(dashes)-1)]
			p.Add(line)
			if marked {
				marks, err := plotter.NewScatter(points(run.X, run.Y))
				if err != nil {
					return fmt.Errorf("draw %s: %w", title, err)
				}
				marks.Color, marks.Radius, marks.Shape = paint(i), 2.5, draw.CircleGlyph{}
				p.Add(marks)
			}
		}
	}
	if p.Y.Min > 0 {
		p.Y.Min = 0
	}
	if math.IsInf(p.Y.Min, 0) || p.Y.Min >= p.Y.Max {
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	}
	p.Y.Max += (p.Y.Max - p.Y.Min) * 0.04
	return nil
}

// runs are the stretches of a series without NaN.
func runs(s Series) (out []Series) {
	var run Series
	end := func() {
		if len(run.X) > 0 {
			out = append(out, run)
		}
		run = Series{}
	}
	for i := range s.X {
		if math.IsNaN(s.Y[i]) || s.Lo != nil && (math.IsNaN(s.Lo[i]) || math.IsNaN(s.Hi[i])) {
			end()
			continue
		}
		run.X, run.Y = append(run.X, s.X[i]), append(run.Y, s.Y[i])
		if s.Lo != nil {
			run.Lo, run.Hi = append(run.Lo, s.Lo[i]), append(run.Hi, s.Hi[i])
		}
	}
	end()
	return out
}

func points(x, y []float64) plotter.XYs {
	out := make(plotter.XYs, len(x))
	for i := range x {
		out[i].X, out[i].Y = x[i], y[i]
	}
	return out
}

func reversed(xys plotter.XYs) plotter.XYs {
	out := make(plotter.XYs, len(xys))
	for i := range xys {
		out[len(xys)-1-i] = xys[i]
	}
	return out
}

// Bars draws groups of bars, one of each name in each group, stacked or side by
// side. values are by name, then by group; NaN is no bar.
func Bars(title, x, y string, groups, names []string, values [][]float64, stacked bool) (template.HTML, error) {
	p := newPlot(x, y)
	width := vg.Length(0.6 * (Width - 80) / float64(max(1, len(groups))))
	if !stacked {
		width /= vg.Length(max(1, len(names)))
	}
	width = min(width, 60)
	var below *plotter.BarChart
	for i, name := range names {
		if len(values[i]) != len(groups) {
			return "", fmt.Errorf("draw %s: %d values of %s for %d groups", title, len(values[i]), name, len(groups))
		}
		bars, err := plotter.NewBarChart(heights(values[i]), width)
		if err != nil {
			return "", fmt.Errorf("draw %s: %w", title, err)
		}
		bars.Color, bars.LineStyle.Width = paint(i), 0
		switch {
		case stacked && below != nil:
			bars.StackOn(below)
		case !stacked:
			bars.Offset = width * vg.Length(float64(i)-float64(len(names)-1)/2)
		}
		below = bars
		p.Add(bars)
	}
	p.NominalX(groups...)
	p.X.Width = 0
	p.X.Min, p.X.Max = -0.6, float64(len(groups))-0.4
	p.Y.Max *= 1.04
	return svg(p, title, 220, names)
}

func heights(values []float64) plotter.Values {
	out := make(plotter.Values, len(values))
	for i, v := range values {
		if !math.IsNaN(v) {
			out[i] = v
		}
	}
	return out
}

// Span is one stretch of a track.
type Span struct {
	Begin, End float64
	Colour     int // of Colours
}

// Track is one row of a timeline.
type Track struct {
	Name  string
	Spans []Span
}

// rowHeight is a track's, in points.
const rowHeight = 17

// Tracks draws tracks over one axis of time; names are of the colours, "" of one
// that needs none.
func Tracks(title, x string, begin, end float64, tracks []Track, names []string) (template.HTML, error) {
	if !(begin < end) {
		return "", fmt.Errorf("draw %s: nothing between %g and %g", title, begin, end)
	}
	const left, right, top, bottom = 190, 10, 4, 34
	height := top + bottom + rowHeight*float64(len(tracks))
	c := vgsvg.New(Width, vg.Length(height))
	text := draw.TextStyle{Color: ink, Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: 10}, Handler: plot.DefaultTextHandler}
	area := draw.New(c)
	at := func(v float64) vg.Length { return left + vg.Length((v-begin)/(end-begin)*(Width-left-right)) }
	for row, track := range tracks {
		y := vg.Length(height - top - rowHeight*float64(row+1))
		area.StrokeLine2(draw.LineStyle{Color: faint, Width: 0.5}, left, y, Width-right, y)
		area.FillText(text, vg.Point{X: 4, Y: y + 5}, track.Name)
		for _, s := range track.Spans {
			if s.End <= begin || s.Begin >= end {
				continue
			}
			from, to := at(max(s.Begin, begin)), at(min(s.End, end))
			area.FillPolygon(paint(s.Colour), box(from, y+2, max(to-from, 0.4), rowHeight-4))
		}
	}
	for _, tick := range (ticks{}).Ticks(begin, end) {
		if tick.Label == "" || tick.Value < begin || tick.Value > end {
			continue
		}
		area.StrokeLine2(draw.LineStyle{Color: ink, Width: 0.5}, at(tick.Value), bottom-4, at(tick.Value), bottom)
		area.FillText(text, vg.Point{X: at(tick.Value) - 8, Y: bottom - 16}, tick.Label)
	}
	area.FillText(text, vg.Point{X: left, Y: 4}, x)
	return embed(c, title, names)
}

func box(x, y, w, h vg.Length) []vg.Point {
	return []vg.Point{{X: x, Y: y}, {X: x + w, Y: y}, {X: x + w, Y: y + h}, {X: x, Y: y + h}}
}
