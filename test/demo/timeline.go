package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"pipefill/api"
	"pipefill/measure"
	"pipefill/timeline"
)

// fetchTimeline asks for what the nodes have recorded of the main job, as
// pipefill-cli trace does.
func (d *demo) fetchTimeline(ctx context.Context) error {
	client, err := d.Cluster.Controller()
	if err != nil {
		return err
	}
	var parts []api.Recording
	end, err := client.Recording(ctx, d.trainer.ID, api.RecordingQuery{}, func(part api.Recording) error {
		parts = append(parts, part)
		return nil
	})
	if err == nil && len(end.Missing) > 0 {
		err = fmt.Errorf("no recording from %v", end.Missing)
	}
	if err != nil {
		return err
	}
	d.recorded, _, err = timeline.FromRecordings(parts)
	return err
}

// writeTimeline writes the run's last half minute as Perfetto draws it.
func (d *demo) writeTimeline() error {
	const lastNs = 30e9
	_, end, _ := d.recorded.Bounds()
	path := filepath.Join(d.out, "timeline.json")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write timeline: %w", err)
	}
	return errors.Join(d.recorded.Clip(end-lastNs, end).WriteJSON(file), file.Close())
}

// writePage writes the run's report in HTML.
func (d *demo) writePage(traces measure.Traces, report measure.Report) error {
	run := timeline.Run{Title: "pipefill: the demo's run", Timeline: d.recorded, Traces: traces, Report: report}
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
