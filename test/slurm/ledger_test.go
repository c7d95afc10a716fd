//go:build slurm

package slurmtest

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pipefill/api"
)

// reading is a line of readings-<assignment>.jsonl (docs/traces.md); Job stands
// in the line that each supervisor begins with.
type reading struct {
	Job   int64 `json:"job"`
	AtNs  int64 `json:"at_ns"`
	CPUNs int64 `json:"cpu_ns"`
	Open  bool  `json:"open"`
}

// opening is a stretch in which a fill job was let run; EndNs is 0 while it is.
type opening struct {
	BeginNs, EndNs int64
	CPUNs          int64 // used until the gate shut
	BeforeCPUNs    int64 // used before
}

// openings reads what the supervisors of a fill job's attempts traced: all its
// openings, by assignment.
func (c *cluster) openings(t *testing.T, id int64) map[string][]opening {
	t.Helper()
	files, err := filepath.Glob(c.dir + "/trace/*/readings-*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]opening{}
	for _, path := range files {
		if list := readOpenings(t, path, id); list != nil {
			found[path] = list
		}
	}
	return found
}

func readOpenings(t *testing.T, path string, id int64) []opening {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // read only
	var list []opening
	var before int64
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var r reading
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			break // half a line: the supervisor is writing it
		}
		switch {
		case r.Job != 0 && r.Job != id:
			return nil
		case r.Job != 0: // another supervisor takes over
		case r.Open:
			list, before = append(list, opening{BeginNs: r.AtNs, BeforeCPUNs: r.CPUNs}), r.CPUNs
		case len(list) > 0 && list[len(list)-1].EndNs == 0:
			list[len(list)-1].EndNs, list[len(list)-1].CPUNs = r.AtNs, r.CPUNs-before
		case len(list) > 0: // the gate was shut before, now the fill job has stopped
			list[len(list)-1].EndNs = r.AtNs
		}
	}
	return list
}

// charged is what the report says of a fill job.
func (c *cluster) charged(t *testing.T, id int64) api.ReportRow {
	t.Helper()
	report, err := c.controller(t).Report(t.Context(), "job", 0, time.Now().Add(time.Hour).UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Rows {
		if r.Key == strconv.FormatInt(id, 10) {
			return r
		}
	}
	return api.ReportRow{}
}

// bubble is a line of events-<device>.jsonl.
type bubble struct {
	BeginNs    int64 `json:"begin_ns"`
	EndNs      int64 `json:"end_ns"`
	DeadlineNs int64 `json:"deadline_ns"`
}

// bubbles reads what the daemon of one node drained, in order.
func bubbles(t *testing.T, dir string) []bubble {
	t.Helper()
	files, err := filepath.Glob(dir + "/events-*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var list []bubble
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var b bubble
			if json.Unmarshal([]byte(line), &b) == nil { // the last may be half a line
				list = append(list, b)
			}
		}
	}
	slices.SortFunc(list, func(a, b bubble) int { return cmp.Compare(a.BeginNs, b.BeginNs) })
	return list
}

// least is what an opening costs at least: its time up to the end or the
// deadline of its bubble. After that only the CPU time counts, and where the
// daemon was dead nobody has noted the bubble.
func (o opening) least(list []bubble) int64 {
	i, _ := slices.BinarySearchFunc(list, o.BeginNs, func(b bubble, at int64) int { return cmp.Compare(b.BeginNs, at+1) })
	if i > 0 && list[i-1].EndNs > o.BeginNs {
		return min(o.EndNs, list[i-1].EndNs, list[i-1].DeadlineNs) - o.BeginNs
	}
	return o.CPUNs
}

// traced is the device time of all attempts of a fill job by the traces: it
// lies between the two.
func (c *cluster) traced(t *testing.T, id int64) (leastNs, mostNs int64) {
	t.Helper()
	for path, list := range c.openings(t, id) {
		all := bubbles(t, filepath.Dir(path))
		for _, o := range list {
			if o.EndNs != 0 {
				leastNs, mostNs = leastNs+max(0, o.least(all)), mostNs+o.EndNs-o.BeginNs
			}
		}
	}
	return leastNs, mostNs
}

// checkLedger holds the report of ended fill jobs against the supervisors' own
// traces: all device time is charged, none of it twice.
func (c *cluster) checkLedger(t *testing.T, ids ...int64) {
	t.Helper()
	for _, id := range ids {
		var least, most int64
		var row api.ReportRow
		// The last record comes with the next sync, the trace every 100 ms.
		poll(func() bool {
			least, most = c.traced(t, id)
			row = c.charged(t, id)
			return least > 0 && row.DeviceNs >= least-1e6 && row.DeviceNs <= most+1e6
		})
		if least == 0 || row.DeviceNs < least-1e6 || row.DeviceNs > most+1e6 {
			t.Errorf("job %d ran for %d to %d ns in its openings and is charged %d ns", id, least, most, row.DeviceNs)
		}
		if row.CPUNs > row.DeviceNs+row.DeviceNs/10+50e6 || row.OverrunNs > row.DeviceNs {
			t.Errorf("job %d: charged %+v", id, row)
		}
	}
}

// completedOnce holds that a fill job ended as completed in Slurm and for the
// controller, that one attempt came to its end, and each attempt began once.
func (c *cluster) completedOnce(t *testing.T, id int64, out string) {
	t.Helper()
	j := c.job(t, id)
	text := c.read(t, out)
	if j.State != "COMPLETED" || strings.Count(text, "ended") != 1 || strings.Count(text, "begun") > j.Restarts+1 {
		t.Errorf("job %d is %s after %d restarts: %q", id, j.State, j.Restarts, text)
	}
	await(t, fmt.Sprintf("the controller to say that job %d has completed", id), func() bool {
		f, err := c.controller(t).Job(t.Context(), id)
		return err == nil && f.State == "completed"
	})
	if row := c.charged(t, id); row.Completed != 1 || row.Ended() != 1 {
		t.Errorf("job %d: the report says %+v", id, row)
	}
}

// busy is a shell loop of about so many ms of CPU time, told where it begins
// and ends.
func busy(ms int) string {
	return fmt.Sprintf("echo begun; i=0; while [ $i -lt %d ]; do i=$((i+1)); done; echo ended", ms*600)
}

// noneDrained fails where a node was taken out of service.
func (c *cluster) noneDrained(t *testing.T) {
	t.Helper()
	out := c.must(t, "root", "sinfo", "-h", "-N", "-p", "main", "-o", "%N %T %E")
	if strings.Count(out, "\n") != 2 {
		t.Errorf("sinfo: %q", out)
	}
	for _, bad := range []string{"drain", "down", "fail"} {
		if strings.Contains(out, bad) {
			t.Errorf("sinfo: %s", out)
		}
	}
}

// checkRunaway holds that a chunked fill job which ignored its gate was stopped
// from outside after a few openings, and that what it ran outside was charged
// as an overrun.
func (c *cluster) checkRunaway(t *testing.T, id int64) {
	t.Helper()
	var outside time.Duration
	var count int
	for _, list := range c.openings(t, id) {
		count += len(list)
		for i := 1; i < len(list); i++ {
			outside += time.Duration(list[i].BeforeCPUNs - list[i-1].BeforeCPUNs - list[i-1].CPUNs)
		}
	}
	row := c.charged(t, id)
	poll(func() bool {
		row = c.charged(t, id)
		return row.CPUNs >= 200e6
	})
	t.Logf("%d openings, %s outside them, charged %+v", count, outside, row)
	// Nine openings, each with its grace of 5 ms and a stop. Next to others'
	// programs a fill job at idle priority hardly gets to run outside at all.
	if count < 5 || outside > 200*time.Millisecond {
		t.Errorf("it ran for %s outside of its %d openings", outside, count)
	}
	counted := time.Duration(row.OverrunNs)
	if outside > 10*time.Millisecond && counted < outside/2 || row.DeviceNs < row.CPUNs {
		t.Errorf("charged %+v, and it ran for %s outside of its openings", row, outside)
	}
}
