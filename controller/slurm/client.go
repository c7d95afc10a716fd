// Package slurm is the one door to Slurm: it lists jobs and nodes, holds, pins,
// releases, requeues and cancels.
//
// It speaks to slurmrestd in whichever version it serves, and uses scontrol only
// for what slurmrestd cannot do. It keeps no state but the version and decides
// nothing: which job goes where is the controller's business.
package slurm

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"pipefill"
)

// Config says where Slurm is.
type Config struct {
	Endpoint  string        // of slurmrestd: "unix:/path" or "http://host:port"
	TokenFile string        // a JWT of root or SlurmUser, mode 0600, read for every request
	SlurmConf string        // for scontrol; "": its own default
	Scontrol  string        // "": scontrol from PATH
	Sacctmgr  string        // "": sacctmgr from PATH
	Timeout   time.Duration // of one request; 0: 30 s (100,000 jobs take slurmrestd 30-60 s: set more there)
	Expect    int           // about so many jobs the first listing will have
	// Observe, where it is set, is told of each request and call: "jobs", "job",
	// "ping", ... of slurmrestd, "scontrol update", ...
	Observe func(call string, took time.Duration, err error)
}

// Client is safe for use by several goroutines.
type Client struct {
	rest     *rest
	scontrol scontrol
	sacctmgr scontrol
	expect   atomic.Int64 // jobs of a listing: as many as the last had
	log      *slog.Logger
}

// New checks cfg; it does not contact Slurm yet.
func New(cfg Config, log *slog.Logger) (*Client, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Scontrol == "" {
		cfg.Scontrol = "scontrol"
	}
	if cfg.Sacctmgr == "" {
		cfg.Sacctmgr = "sacctmgr"
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration, error) {}
	}
	r, err := newREST(cfg.Endpoint, cfg.TokenFile, cfg.Timeout)
	if err != nil {
		return nil, err
	}
	r.observe = cfg.Observe
	tool := func(name, path string) scontrol {
		return scontrol{name: name, path: path, conf: cfg.SlurmConf, timeout: min(cfg.Timeout, 30*time.Second), observe: cfg.Observe}
	}
	c := &Client{rest: r, scontrol: tool("scontrol", cfg.Scontrol), sacctmgr: tool("sacctmgr", cfg.Sacctmgr), log: log}
	c.expect.Store(int64(cfg.Expect))
	return c, nil
}

// Ping tells the API version in use, or why Slurm cannot be reached.
func (c *Client) Ping(ctx context.Context) (string, error) {
	if err := c.rest.do(ctx, http.MethodGet, "ping", nil, nil); err != nil {
		return "", err
	}
	return c.rest.api(ctx)
}

// Down tells whether no slurmctld answers; not where that cannot be told. scontrol
// says so in a few milliseconds: slurmrestd 22.05 takes nine seconds to say that it
// cannot load slurmctld's configuration, and says the same of a token that has
// expired. Without munged scontrol finds every slurmctld down.
func (c *Client) Down(ctx context.Context) bool {
	said, _ := c.scontrol.ask(ctx, "ping") // fails too where one is down
	return strings.Contains(said, " is DOWN") && !strings.Contains(said, " is UP") && !strings.Contains(said, "authentication error")
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
	found, err := c.Read(ctx, id)
	if err != nil {
		return Job{}, err
	}
	for _, j := range found.Jobs {
		if j.ID == id {
			return j, nil
		}
	}
	for _, a := range found.Arrays {
		if a.ID == id {
			return a.Job, nil
		}
	}
	return Job{}, pipefill.Errorf(pipefill.CodeNotFound, "Slurm knows no job %d", id)
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	err := c.rest.do(ctx, http.MethodGet, "nodes", nil, map[string]func(*decoder) error{"nodes": func(dec *decoder) error {
		var raw rawNode
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("node: %w", err)
		}
		nodes = append(nodes, raw.node())
		return nil
	}})
	return nodes, err
}
