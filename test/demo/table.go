package main

import (
	"fmt"
	"text/tabwriter"

	"pipefill/measure"
)

// print writes the report for people.
func (d *demo) print(r measure.Report) {
	w := tabwriter.NewWriter(d.stdout, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	line("")
	line("JOBID\tUSER\tWHAT\tSTATE\tRESULT")
	for _, j := range d.jobs {
		result := j.reason
		if j.program != nil && j.state == "COMPLETED" {
			result = "digest as outside"
		}
		line("%d\t%s\t%s\t%s\t%s", j.id, j.user, j.what, j.state, result)
	}
	line("")
	line("main job\t%d iterations, loss %.3f -> %.3f nats", r.Main.Iterations, r.Main.LossFirst, r.Main.LossLast)
	line("bubble fraction\t%.1f %% of its time (theory %.1f %%)", 100*r.Main.BubbleFraction, 100*r.Main.BubbleFractionTheory)
	line("iteration, median\t%.1f ms with the gates shut, %.1f ms with fill jobs", r.Main.BaselineMs, r.Main.FilledMs)
	if r.Main.OverheadKnown {
		line("slow-down\t%+.2f %% (95 %% interval %+.2f to %+.2f %%)", r.Main.OverheadPct, r.Main.OverheadCI95[0], r.Main.OverheadCI95[1])
	} else {
		line("slow-down\tnot known: too few iterations")
	}
	line("bubbles\t%.1f device-seconds while fill jobs were there", r.Bubbles.Seconds)
	line("filled\t%.1f device-seconds, %.1f %% (%.2f outside bubbles)", r.Bubbles.FilledSeconds, r.Bubbles.RecoveredPct, r.Bubbles.OutsideSeconds)
	line("useful\t%.1f %%: what completed takes %.1f s on an idle device", r.Bubbles.UsefulPct, r.UsefulSeconds)
	for _, g := range append([]measure.GateFigures{r.Gate.GateFigures}, r.Gate.Modes...) {
		line("gate open to fill work\t%s: median %.0f us, p99 %.0f us, %d openings", g.Mode, g.OpenToRunP50, g.OpenToRunP99, g.Openings)
	}
	line("")
	_ = w.Flush()
}
