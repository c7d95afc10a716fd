package executor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// A mark is an empty file run_dir/jobs/<job number> for each Slurm job that is
// attached here. The plugin's epilog asks the daemon about jobs with a mark
// only: any other job's end, and the next one's start, must not wait for a
// daemon that hangs.

func (n *node) markPath(job int64) string {
	return filepath.Join(n.cfg.RunDir, "jobs", strconv.FormatInt(job, 10))
}

func (n *node) mark(job int64) {
	f, err := os.OpenFile(n.markPath(job), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		n.log.Error("job not marked: its epilog does not wait for its fill processes", "job_id", job, "err", err)
	}
}

func (n *node) unmark(job int64) {
	if err := os.Remove(n.markPath(job)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("mark not removed", "job_id", job, "err", err)
	}
}

// markAll makes the marks those of the jobs that are attached.
func (n *node) markAll() error {
	dir := filepath.Join(n.cfg.RunDir, "jobs")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := makeDir(dir, 0o755); err != nil {
		return err
	}
	for id := range n.mains {
		n.mark(id)
	}
	for _, f := range n.fills {
		if !f.ended() {
			n.mark(f.rec.Assignment.Job.JobID)
		}
	}
	return nil
}
