package measure

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteText writes the figures for people.
func (r Report) WriteText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	if r.Main.LossFirst > 0 {
		line("main job\t%d iterations, loss %.3f -> %.3f nats", r.Main.Iterations, r.Main.LossFirst, r.Main.LossLast)
		line("bubble fraction\t%.1f %% of its time (theory %.1f %%)", 100*r.Main.BubbleFraction, 100*r.Main.BubbleFractionTheory)
	} else {
		line("main job\t%d iterations", r.Main.Iterations)
	}
	line("iteration, median\t%.1f ms with the gates shut, %.1f ms with fill jobs", r.Main.BaselineMs, r.Main.FilledMs)
	if r.Main.OverheadKnown {
		line("slow-down\t%+.2f %% (95 %% interval %+.2f to %+.2f %%)", r.Main.OverheadPct, r.Main.OverheadCI95[0], r.Main.OverheadCI95[1])
	} else {
		line("slow-down\tnot known: too few iterations")
	}
	line("bubbles\t%.1f device-seconds while fill jobs were there", r.Bubbles.Seconds)
	line("filled\t%.1f device-seconds, %.1f %% (%.2f outside bubbles)", r.Bubbles.FilledSeconds, r.Bubbles.RecoveredPct, r.Bubbles.OutsideSeconds)
	if r.UsefulSeconds > 0 {
		line("useful\t%.1f %%: what completed takes %.1f s on an idle device", r.Bubbles.UsefulPct, r.UsefulSeconds)
	}
	for _, g := range append([]GateFigures{r.Gate.GateFigures}, r.Gate.Modes...) {
		if g.Openings == 0 {
			continue // a recording does not tell
		}
		line("gate open to fill work\t%s: median %.0f us, p99 %.0f us, %d openings", g.Mode, g.OpenToRunP50, g.OpenToRunP99, g.Openings)
	}
	return w.Flush()
}
