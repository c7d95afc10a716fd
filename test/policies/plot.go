package main

import (
	"fmt"
	"math"
	"strings"
)

// plot draws two rows of bars: the mean completion time relative to fifo's, and
// the deadlines missed, by trace and load.
func plot(lines []line) string {
	const (
		width, panel, left, gap = 900.0, 190.0, 60.0, 70.0
		height                  = 2*panel + 2*gap + 60
	)
	colours := []string{"#666666", "#1f77b4", "#9ecae1", "#d62728", "#2ca02c", "#9467bd"}
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&out, `<rect width="%.0f" height="%.0f" fill="white"/>`+"\n", width, height)
	groups := len(lines) / len(contestants)
	step := (width - left - 20) / float64(groups)
	bar := step * 0.85 / float64(len(contestants))
	panels := []struct {
		title string
		most  float64
		value func(l, fifo line) float64
	}{
		{"mean completion time, fifo = 1", 1.5, func(l, fifo line) float64 { return l.completionH / fifo.completionH }},
		{"deadlines missed, %", 100, func(l, _ line) float64 { return l.missedPct }},
	}
	for p, panelOf := range panels {
		bottom := 50 + panel + float64(p)*(panel+gap)
		fmt.Fprintf(&out, `<text x="%.0f" y="%.0f" font-size="14">%s</text>`+"\n", left, bottom-panel-8, panelOf.title)
		for tick := 0.0; tick <= 1; tick += 0.25 {
			y := bottom - tick*panel
			fmt.Fprintf(&out, `<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="#ddd"/><text x="%.0f" y="%.1f" text-anchor="end">%g</text>`+"\n",
				left, y, width-20, y, left-6, y+4, tick*panelOf.most)
		}
		for g := range groups {
			of := lines[g*len(contestants) : (g+1)*len(contestants)]
			x := left + float64(g)*step + step*0.07
			for i, l := range of {
				value := panelOf.value(l, of[0])
				h := math.Min(value/panelOf.most, 1) * panel
				fmt.Fprintf(&out, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s, load %.1f, %s: %.2f</title></rect>`+"\n",
					x+float64(i)*bar, bottom-h, bar*0.92, h, colours[i%len(colours)], l.trace, l.load, l.policy, value)
			}
			fmt.Fprintf(&out, `<text x="%.1f" y="%.1f" text-anchor="middle">load %.1f</text>`+"\n", x+step*0.43, bottom+16, of[0].load)
			if g%len(loads) == 1 {
				fmt.Fprintf(&out, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x+step*0.43, bottom+32, of[0].trace)
			}
		}
	}
	for i, c := range contestants {
		x := left + float64(i)*135
		fmt.Fprintf(&out, `<rect x="%.0f" y="%.0f" width="12" height="12" fill="%s"/><text x="%.0f" y="%.0f">%s</text>`+"\n",
			x, height-24, colours[i%len(colours)], x+17, height-14, c.name)
	}
	out.WriteString("</svg>\n")
	return out.String()
}
