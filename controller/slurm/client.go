// Package slurm is the one door to Slurm: it lists jobs and nodes, holds, pins,
// releases, requeues and cancels.
//
// It speaks to slurmrestd in whichever version it serves, and uses scontrol only
// for what slurmrestd cannot do. It keeps no state but the version and decides
// nothing: which job goes where is the controller's business.
package slurm

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill"
)

// Config says where Slurm is.
type Config struct {
	Endpoint  string        // of slurmrestd: "unix:/path" or "http://host:port"
	TokenFile string        // a JWT of root or SlurmUser, mode 0600, read for every request
	SlurmConf string        // for scontrol; "": its own default
	Scontrol  string        // "": scontrol from PATH
	Timeout   time.Duration // of one request; 0: 30 s (100,000 jobs take slurmrestd 30-60 s: set more there)
	// ArrayAhead is how many pending tasks of an array are split off at a time;
	// 0: 4. Slurm keeps the tasks of an array in one record until each is touched,
	// and only a task with a record of its own can be pinned.
	ArrayAhead int
	// Observe, where it is set, is told of each request and call: "jobs", "job",
	// "ping", ... of slurmrestd, "scontrol update", ...
	Observe func(call string, took time.Duration, err error)
}

// Client is safe for use by several goroutines.
type Client struct {
	rest     *rest
	scontrol scontrol
	ahead    int
	log      *slog.Logger
}

// New checks cfg; it does not contact Slurm yet.
func New(cfg Config, log *slog.Logger) (*Client, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.ArrayAhead <= 0 {
		cfg.ArrayAhead = 4
	}
	if cfg.Scontrol == "" {
		cfg.Scontrol = "scontrol"
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration, error) {}
	}
	r, err := newREST(cfg.Endpoint, cfg.TokenFile, cfg.Timeout)
	if err != nil {
		return nil, err
	}
	r.observe = cfg.Observe
	return &Client{
		rest: r, scontrol: scontrol{path: cfg.Scontrol, conf: cfg.SlurmConf, timeout: min(cfg.Timeout, 30*time.Second), observe: cfg.Observe},
		ahead: cfg.ArrayAhead, log: log,
	}, nil
}

// Ping tells the API version in use, or why Slurm cannot be reached.
func (c *Client) Ping(ctx context.Context) (string, error) {
	if err := c.rest.do(ctx, http.MethodGet, "ping", nil, nil); err != nil {
		return "", err
	}
	return c.rest.api(ctx)
}

// Jobs lists the jobs that are, or may come to be, in one of the partitions; no
// partitions means all. Every Job stands for one job: of an array whose tasks
// Slurm still keeps in one record, the next few are split off first (the rest
// appears as these leave the queue), and held where the owner released them.
func (c *Client) Jobs(ctx context.Context, partitions []string) ([]Job, error) {
	jobs, arrays, err := c.list(ctx, partitions)
	if err != nil || len(arrays) == 0 || len(partitions) == 0 {
		return jobs, err
	}
	split := false
	for _, a := range arrays {
		split = c.split(ctx, a, jobs) || split
	}
	if !split {
		return jobs, nil
	}
	jobs, _, err = c.list(ctx, partitions)
	return jobs, err
}

// array is a record that stands for several pending tasks.
type array struct {
	job     Job
	indices string // "3,5-9", the limit of running ones cut off
}

func (c *Client) list(ctx context.Context, partitions []string) (jobs []Job, arrays []array, err error) {
	err = c.rest.do(ctx, http.MethodGet, "jobs", nil, map[string]func(*json.Decoder) error{"jobs": func(dec *json.Decoder) error {
		var raw rawJob
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("job %d: %w", raw.JobID.n, err)
		}
		job := raw.job()
		if len(partitions) > 0 && !job.InPartition(partitions) {
			return nil
		}
		if indices, _, _ := strings.Cut(raw.ArrayTaskString, "%"); indices != "" && job.ArrayTask < 0 && job.Pending() {
			arrays = append(arrays, array{job: job, indices: indices})
			return nil
		}
		jobs = append(jobs, job)
		return nil
	}})
	return jobs, arrays, err
}

// split gives the first pending tasks records of their own. A failure leaves
// the array for the next round.
func (c *Client) split(ctx context.Context, a array, jobs []Job) bool {
	if !a.job.Held {
		c.log.WarnContext(ctx, "array was released by other hands; holding it", "job_id", a.job.ID, "user", a.job.User)
		if err := c.scontrol.run(ctx, "update", "JobId="+strconv.FormatInt(a.job.ID, 10), "Priority=0"); err != nil {
			c.log.WarnContext(ctx, "cannot hold array", "job_id", a.job.ID, "err", err)
			return false
		}
	}
	waiting := 0
	for _, j := range jobs {
		if j.ArrayID == a.job.ArrayID && j.Pending() {
			waiting++
		}
	}
	tasks := firstIndices(a.indices, c.ahead-waiting)
	if len(tasks) == 0 {
		return false
	}
	ids := make([]string, len(tasks))
	for i, task := range tasks {
		ids[i] = fmt.Sprintf("%d_%d", a.job.ArrayID, task)
	}
	// Holding what is held changes nothing, and touching a task splits it off.
	if err := c.scontrol.run(ctx, "update", "JobId="+strings.Join(ids, ","), "Priority=0"); err != nil {
		c.log.WarnContext(ctx, "cannot split tasks off an array", "job_id", a.job.ID, "err", err)
		return false
	}
	return true
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

// InPartition tells whether one of the partitions is among the job's.
func (j Job) InPartition(partitions []string) bool {
	for p := range strings.SplitSeq(j.Partition, ",") {
		if slices.Contains(partitions, p) {
			return true
		}
	}
	return false
}

// Job reads one job by its number; a code of not_found means Slurm has
// forgotten it (MinJobAge after its end) or never knew it.
func (c *Client) Job(ctx context.Context, id int64) (Job, error) {
	var found *Job
	err := c.rest.do(ctx, http.MethodGet, "job/"+strconv.FormatInt(id, 10), nil, map[string]func(*json.Decoder) error{"jobs": func(dec *json.Decoder) error {
		var raw rawJob
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("job %d: %w", id, err)
		}
		// An array's number brings all its tasks.
		if raw.JobID.n == id {
			job := raw.job()
			found = &job
		}
		return nil
	}})
	if err != nil {
		return Job{}, err
	}
	if found == nil {
		return Job{}, pipefill.Errorf(pipefill.CodeNotFound, "Slurm knows no job %d", id)
	}
	return *found, nil
}

// PendingMain lists the jobs outside the fill partitions that wait for nodes
// and are not held: fill jobs leave the nodes they could use.
func (c *Client) PendingMain(ctx context.Context, fillPartitions []string) ([]Job, error) {
	jobs, arrays, err := c.list(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, a := range arrays {
		jobs = append(jobs, a.job)
	}
	return slices.DeleteFunc(jobs, func(j Job) bool {
		return !j.Pending() || j.Held || j.InPartition(fillPartitions)
	}), nil
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	err := c.rest.do(ctx, http.MethodGet, "nodes", nil, map[string]func(*json.Decoder) error{"nodes": func(dec *json.Decoder) error {
		var raw rawNode
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("node: %w", err)
		}
		nodes = append(nodes, raw.node())
		return nil
	}})
	return nodes, err
}
