package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"pipefill/measure"
	"pipefill/timeline"
)

// writeTimeline writes the run's last half minute as Perfetto draws it.
func (d *demo) writeTimeline() error {
	const lastNs = 30e9
	t, err := timeline.Read(filepath.Join(d.out, "traces"))
	if err != nil {
		return err
	}
	_, end, _ := t.Bounds()
	path := filepath.Join(d.out, "timeline.json")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write timeline: %w", err)
	}
	return errors.Join(t.Clip(end-lastNs, end).WriteJSON(file), file.Close())
}

// writePage writes the run's report in HTML.
func (d *demo) writePage(traces measure.Traces, report measure.Report) error {
	t, err := timeline.Read(filepath.Join(d.out, "traces"))
	if err != nil {
		return err
	}
	run := timeline.Run{Title: "pipefill: the demo's run", Timeline: t, Traces: traces, Report: report}
	for _, j := range d.jobs {
		result := j.reason
		if j.program != nil && j.state == "COMPLETED" {
			result = "digest as outside"
		}
		run.Jobs = append(run.Jobs, timeline.Job{ID: j.id, User: j.user, What: j.what, State: j.state, Result: result})
	}
	page, err := run.Page()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(d.out, "report.html"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return errors.Join(page.Write(file), file.Close())
}
