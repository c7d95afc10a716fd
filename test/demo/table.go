package main

import (
	"fmt"
	"text/tabwriter"

	"pipefill/measure"
)

// print writes the report for people.
func (d *demo) print(r measure.Report) {
	w := tabwriter.NewWriter(d.Stdout, 0, 0, 2, ' ', 0)
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
	_ = w.Flush()
	_ = r.WriteText(d.Stdout)
	_, _ = fmt.Fprintln(d.Stdout)
}
