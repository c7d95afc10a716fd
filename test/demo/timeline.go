package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
