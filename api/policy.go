package api

import (
	"context"
	"net/http"
)

// Policy is one scheduling policy.
type Policy struct {
	Name   string `json:"name"`
	Active bool   `json:"active"`
	File   string `json:"file"` // "": shipped
	Text   string `json:"text"`
}

// Prediction tells how good the expected times from one source were: of attempts
// that completed, in the last 30 days.
type Prediction struct {
	Source string  `json:"source"` // plan, history, limit or nothing
	Count  int64   `json:"count"`
	Factor float64 `json:"factor"` // took / expected, the median
	Off    float64 `json:"off"`    // the greater over the less of both, the median: 1 is exact
	Off90  float64 `json:"off_90"` // the same, at 90 %
}

// PolicyExplanation tells why a fill job is where it is in the queue.
type PolicyExplanation struct {
	JobID      int64            `json:"job_id"`
	State      string           `json:"state"`
	Reason     string           `json:"reason"`
	Policy     string           `json:"policy"`
	Tier       string           `json:"tier"`
	Suits      int              `json:"suits"` // of Slots, busy ones included
	Slots      int              `json:"slots"`
	Place      int              `json:"place"` // 1: the next; 0: suits none
	Node       string           `json:"node,omitempty"`
	Device     string           `json:"device,omitempty"`
	Scores     []float64        `json:"scores"`
	Values     []AttributeValue `json:"values"`
	Source     string           `json:"source"`
	Prediction *Prediction      `json:"prediction"` // of that source; null: none yet
	WaitMs     int64            `json:"wait_ms"`    // as expected; -1: not known
}

// AttributeValue is what a policy sees.
type AttributeValue struct {
	Name  string `json:"name"`
	Unit  string `json:"unit,omitempty"`
	Value any    `json:"value"`
	Used  bool   `json:"used"` // the policy looks at it
}

// Policies lists the scheduling policies.
func (c *Client) Policies(ctx context.Context) ([]Policy, error) {
	var out []Policy
	err := c.call(ctx, http.MethodGet, "/v1/policy", nil, &out)
	return out, err
}

// Predictions tells how good expected times were.
func (c *Client) Predictions(ctx context.Context) ([]Prediction, error) {
	var out []Prediction
	err := c.call(ctx, http.MethodGet, "/v1/policy/predictions", nil, &out)
	return out, err
}

// ExplainPolicy tells why a fill job is where it is in the queue.
func (c *Client) ExplainPolicy(ctx context.Context, id int64) (PolicyExplanation, error) {
	var out PolicyExplanation
	err := c.call(ctx, http.MethodGet, jobPath(id)+"/policy", nil, &out)
	return out, err
}
