package plan

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"slices"

	"pipefill"
)

// How a plan is drawn, in pixels.
const (
	drawWidth  = 1000
	drawLeft   = 110
	drawRow    = 26
	drawTop    = 40
	drawBottom = 30
	drawRows   = 40 // cycles x devices; a longer period is cut
)

// drawColours are told apart also by those who do not see red and green
// (Okabe and Ito, "Color Universal Design", 2008).
var drawColours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"}

// SVG draws a plan over its cycles, a row for each cycle of the period and each
// device: bubbles in grey, chunks in a colour for each job and configuration, and
// what each chunk is as its title. cycles are by device.
func SVG(w io.Writer, p Plan, cycles []pipefill.BubbleCycle, ps []Profile) error {
	var out bytes.Buffer
	rows := p.PeriodCycles * len(cycles)
	shown := min(rows, drawRows)
	height := drawTop + shown*drawRow + drawBottom + 18*len(colourKeys(p))
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", drawLeft+drawWidth+20, height)
	fmt.Fprintf(&out, `<text x="4" y="16">%s</text>`+"\n", html.EscapeString(p.Summary(cycles[0])))
	for row := range shown {
		drawCycle(&out, p, cycles, row/len(cycles), row%len(cycles), drawTop+row*drawRow)
	}
	y := drawTop + shown*drawRow + 14
	note := ""
	if shown < rows {
		note = fmt.Sprintf("; %d more cycles are like these", (rows-shown)/len(cycles))
	}
	fmt.Fprintf(&out, `<text x="%d" y="%d">0</text><text x="%d" y="%d" text-anchor="end">%s%s</text>`+"\n",
		drawLeft, y, drawLeft+drawWidth, y, ms(cycles[0].IterationNs), note)
	for i, key := range colourKeys(p) {
		y += 18
		fmt.Fprintf(&out, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			drawLeft, y-10, drawColours[i%len(drawColours)], drawLeft+18, y, html.EscapeString(key.label(ps)))
	}
	out.WriteString("</svg>\n")
	if _, err := out.WriteTo(w); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	return nil
}

// HTML is SVG as a page.
func HTML(w io.Writer, p Plan, cycles []pipefill.BubbleCycle, ps []Profile) error {
	if _, err := io.WriteString(w, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Execution plan</title></head><body>\n"); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	if err := SVG(w, p, cycles, ps); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "</body></html>\n"); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	return nil
}

// Summary is a plan in a line: throughput, period, and how much of the first
// device's usable time is filled.
func (p Plan) Summary(c pipefill.BubbleCycle) string {
	usable, used := p.filled(c)
	period := "a cycle"
	if p.PeriodCycles > 1 {
		period = fmt.Sprintf("a period of %d cycles", p.PeriodCycles)
	}
	return fmt.Sprintf("%.6g samples a cycle, %.6g a second; %s of %s; %.1f %% of the usable time filled",
		p.SamplesPerCycle, p.SamplesPerSecond, period, ms(c.IterationNs), 100*used/max(usable, 1))
}

// filled is the usable and the used nanoseconds of a period on the first device.
func (p Plan) filled(c pipefill.BubbleCycle) (usable, used float64) {
	for _, b := range offered(c) {
		usable += float64(b.DurationNs) * float64(p.PeriodCycles)
	}
	for _, k := range p.Chunks {
		if k.Device == 0 {
			used += float64(k.TimeNs)
		}
	}
	return usable, used
}

// colourKey is what has a colour.
type colourKey struct {
	job    string
	config int
}

func (k colourKey) label(ps []Profile) string {
	for i := range ps {
		if ps[i].Name == k.job && k.config < len(ps[i].Configs) {
			return k.job + ", " + ps[i].Configs[k.config].label(k.config)
		}
	}
	return fmt.Sprintf("%s, config %d", k.job, k.config)
}

func colourKeys(p Plan) []colourKey {
	var keys []colourKey
	for _, k := range p.Chunks {
		if key := (colourKey{k.Job, k.Config}); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

func drawCycle(out io.Writer, p Plan, cycles []pipefill.BubbleCycle, cycle, device, y int) {
	c := cycles[device]
	label := fmt.Sprintf("cycle %d", cycle)
	if len(cycles) > 1 {
		label += fmt.Sprintf(", device %d", device)
	}
	x := func(ns int64) float64 { return drawLeft + drawWidth*float64(ns)/float64(c.IterationNs) }
	keys := colourKeys(p)
	_, _ = fmt.Fprintf(out, `<text x="4" y="%d">%s</text><rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#ccc"/>`+"\n",
		y+16, label, drawLeft, y+2, drawWidth, drawRow-6)
	for _, b := range offered(c) {
		// What wraps around the mark is drawn past it.
		_, _ = fmt.Fprintf(out, `<rect x="%.2f" y="%d" width="%.2f" height="%d" fill="#ddd"><title>bubble %d, %s: %s, %s free</title></rect>`+"\n",
			x(b.StartNs), y+2, x(b.StartNs+b.DurationNs)-x(b.StartNs), drawRow-6, b.Index, html.EscapeString(b.Kind), ms(b.DurationNs), bytesText(b.FreeBytes))
		at := b.StartNs
		for _, k := range p.Chunks {
			if k.Cycle != cycle || k.Device != device || k.Bubble != b.Index {
				continue
			}
			colour := drawColours[slices.Index(keys, colourKey{k.Job, k.Config})%len(drawColours)]
			_, _ = fmt.Fprintf(out, `<rect x="%.2f" y="%d" width="%.2f" height="%d" fill="%s" stroke="#fff" stroke-width="0.5"><title>%s, config %d: %d ops from %d on, %s, %s</title></rect>`+"\n",
				x(at), y+4, x(at+k.TimeNs)-x(at), drawRow-10, colour, html.EscapeString(k.Job), k.Config, k.OpCount, k.FirstOp, ms(k.TimeNs), bytesText(k.PeakBytes))
			at += k.TimeNs
		}
	}
}
