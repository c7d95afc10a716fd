package slurm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"pipefill"
)

// Listing is what Slurm has, as of one moment.
type Listing struct {
	// Same: nothing has changed since; the rest is empty.
	Same bool
	Jobs []Job // one a job or array task that has a record of its own
	// Arrays are records that stand for several pending tasks each. Only a task
	// with a record of its own can be pinned: Split gives it one.
	Arrays []Array
	// Main are the pending jobs outside the partitions asked for that are not held.
	Main []Job
	// Ends is by when the limits of the running jobs outside these partitions end
	// them, in ms; those without a limit are not in it.
	Ends map[int64]int64
}

// Array is a record that stands for several pending tasks.
type Array struct {
	Job
	Tasks []int64 // the first of them
}

// tasksShown is how many tasks of an array are read from its record.
const tasksShown = 1024

// take sorts a record into the listing.
func (l *Listing) take(raw *rawJob, partitions []string) {
	job := raw.job()
	if len(partitions) > 0 && !job.InPartition(partitions) {
		switch {
		case job.Pending() && !job.Held:
			l.Main = append(l.Main, job)
		case job.Running() && job.TimeLimitMin < Infinite && job.EndMs > 0:
			if l.Ends == nil {
				l.Ends = map[int64]int64{}
			}
			l.Ends[job.ID] = job.EndMs
		}
		return
	}
	if indices, _, _ := strings.Cut(raw.ArrayTaskString, "%"); indices != "" && job.ArrayTask < 0 && job.Pending() {
		l.Arrays = append(l.Arrays, Array{Job: job, Tasks: firstIndices(indices, tasksShown)})
		return
	}
	l.Jobs = append(l.Jobs, job)
}

// changedBefore is how long before the time given a change is told of again:
// clocks differ, and Slurm counts whole seconds.
const changedBefore = 2 * time.Second

// List lists the jobs that are, or may come to be, in one of the partitions; no
// partitions means all. With since, the time of the last listing, Slurm first
// says whether anything has changed, which is cheap for all sides; a zero since
// asks for everything. Nobody but Slurm's own daemons is asked to do more work
// than one request.
func (c *Client) List(ctx context.Context, partitions []string, since time.Time) (Listing, error) {
	var l Listing
	path := "jobs"
	if !since.IsZero() {
		path += "?update_time=" + strconv.FormatInt(since.Add(-changedBefore).Unix(), 10)
	}
	err := c.rest.do(ctx, http.MethodGet, path, nil, map[string]func(*decoder) error{"jobs": func(dec *decoder) error {
		var raw rawJob
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("job %d: %w", raw.JobID.n, err)
		}
		if l.Jobs == nil { // a slice of 100,000 that grows is held twice each time
			const spare = 16
			l.Jobs = make([]Job, 0, c.expect.Load()*(spare+1)/spare+spare)
		}
		l.take(&raw, partitions)
		return nil
	}})
	if err == nil {
		c.expect.Store(int64(len(l.Jobs)))
	}
	if isSame(err) && !since.IsZero() {
		return Listing{Same: true}, nil
	}
	return l, explain(err)
}

// Read reads one job by its number, or all tasks of an array by the array's; a
// code of not_found means that Slurm has none of that number.
func (c *Client) Read(ctx context.Context, id int64) (Listing, error) {
	var l Listing
	err := c.rest.do(ctx, http.MethodGet, "job/"+strconv.FormatInt(id, 10), nil, map[string]func(*decoder) error{"jobs": func(dec *decoder) error {
		var raw rawJob
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("job %d: %w", id, err)
		}
		l.take(&raw, nil)
		return nil
	}})
	if err == nil && len(l.Jobs)+len(l.Arrays) == 0 {
		err = pipefill.Errorf(pipefill.CodeNotFound, "Slurm knows no job %d", id)
	}
	return l, err
}

// States reads the state of every job, by a name that holds its number or its
// array's ("7", "7_2"): a hundredth of what a listing costs. ok is false where
// the release has no such list. What it does not show are holds, pins and other
// changes of jobs that stay in their state.
func (c *Client) States(ctx context.Context) (states map[string]string, ok bool, err error) {
	version, err := c.rest.api(ctx)
	if err != nil {
		return nil, false, err
	}
	switch version {
	case "v0.0.36", "v0.0.37", "v0.0.38", "v0.0.39":
		return nil, false, nil
	}
	states = map[string]string{}
	err = c.rest.do(ctx, http.MethodGet, "jobs/state/", nil, map[string]func(*decoder) error{"jobs": func(dec *decoder) error {
		var raw struct {
			ID    json.RawMessage `json:"job_id"` // a text from v0.0.40 on; be ready for a number
			State words           `json:"state"`
		}
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("state of a job: %w", err)
		}
		states[strings.Trim(string(raw.ID), `"`)] = strings.Join(raw.State, ",")
		return nil
	}})
	return states, err == nil, err
}

// NumberOf is the job number in a name of States.
func NumberOf(name string) (int64, bool) {
	digits, _, _ := strings.Cut(name, "_")
	id, err := strconv.ParseInt(digits, 10, 64)
	return id, err == nil && id > 0
}

// Split gives the first pending tasks of an array records of their own, held,
// and holds the array where other hands released it.
func (c *Client) Split(ctx context.Context, a Array, count int) error {
	if !a.Held {
		c.log.WarnContext(ctx, "array was released by other hands; holding it", "job_id", a.ID, "user", a.User)
		if err := c.scontrol.run(ctx, "update", "JobId="+strconv.FormatInt(a.ID, 10), "Priority=0"); err != nil {
			return err
		}
	}
	count = min(count, len(a.Tasks))
	if count <= 0 {
		return nil
	}
	ids := make([]string, count)
	for i, task := range a.Tasks[:count] {
		ids[i] = fmt.Sprintf("%d_%d", a.ArrayID, task)
	}
	// Holding what is held changes nothing, and touching a task splits it off.
	return c.scontrol.run(ctx, "update", "JobId="+strings.Join(ids, ","), "Priority=0")
}

// Partition is one of Slurm's partitions.
type Partition struct {
	Name string
	Up   bool // takes jobs and starts them
	// State is UP, DOWN, DRAIN or INACTIVE.
	State string
}

// Partitions lists the partitions.
func (c *Client) Partitions(ctx context.Context) ([]Partition, error) {
	var all []Partition
	err := c.rest.do(ctx, http.MethodGet, "partitions", nil, map[string]func(*decoder) error{"partitions": func(dec *decoder) error {
		var raw struct {
			Name  string `json:"name"`
			State words  `json:"state"` // up to v0.0.38
			Inner struct {
				State words `json:"state"`
			} `json:"partition"`
		}
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("partition: %w", err)
		}
		state := strings.ToUpper(strings.Join(append(raw.State, raw.Inner.State...), ","))
		// DRAIN takes no new jobs, and starts those it has.
		all = append(all, Partition{Name: raw.Name, State: state, Up: state == "UP" || state == "DRAIN"})
		return nil
	}})
	return all, err
}

// firstIndices reads up to n indices of Slurm's "3,5-9:2"; a list cut short
// with "..." gives what stands before.
func firstIndices(list string, n int) []int64 {
	var out []int64
	for item := range strings.SplitSeq(list, ",") {
		span, stride, _ := strings.Cut(item, ":")
		lo, hi, ranged := strings.Cut(span, "-")
		if !ranged {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, 31)
		b, err2 := strconv.ParseUint(hi, 10, 31)
		step, err3 := strconv.ParseUint(stride, 10, 31)
		if stride == "" {
			step, err3 = 1, nil
		}
		if err1 != nil || err2 != nil || err3 != nil || step == 0 {
			return out
		}
		for v := a; v <= b; v += step {
			if len(out) >= n {
				return out
			}
			out = append(out, int64(v))
		}
	}
	return out
}
