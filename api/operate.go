package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// DrainKinds are what can be drained.
var DrainKinds = []string{"site", "node", "account"}

// Drain is something that gets no new fill jobs.
type Drain struct {
	Kind    string `json:"kind"` // DrainKinds
	Name    string `json:"name"` // a node's or account's; of the site, the cluster's
	User    string `json:"user"`
	Why     string `json:"why"`
	SinceMs int64  `json:"since_ms"`
	Evict   bool   `json:"evict"` // what runs goes back to the queue too
}

// DrainRequest asks to drain or to resume.
type DrainRequest struct {
	Kind  string   `json:"kind"`
	Names []string `json:"names"` // nodes may be written as n[0-3]; of the site, none
	Why   string   `json:"why"`
	Evict bool     `json:"evict"`
}

// AuditEntry is one order of an operator.
type AuditEntry struct {
	ID     int64  `json:"id"`
	AtMs   int64  `json:"at_ms"`
	UID    uint32 `json:"uid"`
	User   string `json:"user"`
	Action string `json:"action"` // hold, release, cancel, priority, drain, resume, load
	Target string `json:"target"` // "job 12", "node n0"
	Detail string `json:"detail"`
	Why    string `json:"why"`
	Result string `json:"result"` // ok, why not, or "" where the controller ended meanwhile
}

// Drains lists what is drained.
func (c *Client) Drains(ctx context.Context) ([]Drain, error) {
	var drains []Drain
	err := c.call(ctx, http.MethodGet, "/v1/drains", nil, &drains)
	return drains, err
}

// Drain keeps fill jobs from starting; operators only.
func (c *Client) Drain(ctx context.Context, r DrainRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/drain", r, nil)
}

// Resume undoes Drain; operators only.
func (c *Client) Resume(ctx context.Context, r DrainRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/resume", r, nil)
}

// Audit lists the orders of operators within [startMs, endMs), oldest first;
// operators only.
func (c *Client) Audit(ctx context.Context, startMs, endMs int64) ([]AuditEntry, error) {
	q := url.Values{}
	q.Set("start_ms", strconv.FormatInt(startMs, 10))
	q.Set("end_ms", strconv.FormatInt(endMs, 10))
	var entries []AuditEntry
	err := c.call(ctx, http.MethodGet, withQuery("/v1/audit", q), nil, &entries)
	return entries, err
}
