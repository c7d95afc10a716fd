package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"pipefill"
)

// MaxBody bounds a request's and an answer's body: a sync of a node with
// thousands of unsent usage records stays far below it.
const MaxBody = 64 << 20

// Signer makes the credential of a request sent over TCP (package munge).
type Signer interface {
	Sign(payload []byte) (credential string, err error)
}

// Digest is what a credential covers: the hex SHA-256 of the method, the
// path with its query, and the body, so that a credential taken from the wire
// fits no other request.
func Digest(method, requestURI string, body []byte) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n%s\n", method, requestURI) // a hash never fails
	_, _ = h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// JobFilter narrows a queue listing; empty fields match everything.
type JobFilter struct {
	User    string
	State   string
	SinceMs int64 // those that ended since then too; 0: a short while ago
}

// Status is the answer to a ping.
type Status struct {
	Version string   `json:"version"`
	Cluster string   `json:"cluster"`
	NowMs   int64    `json:"now_ms"`
	Faults  []string `json:"faults"` // what a person should know: Slurm away, token expired, nodes lost
}

// Client talks to pipefillctld. It is safe for concurrent use.
type Client struct {
	base    string
	signer  Signer
	session *session // of a node daemon over TCP, else nil
	http    *http.Client

	next  *Client     // another controller's; nil: there is none
	later atomic.Bool // it, or one after it, answered last
}

// NewClient returns a client for "unix:/path" (who calls is known by peer
// credentials; signer may be nil) or "http://host:port" (signer required).
// Where a controller has a standby, several endpoints stand between commas: the
// one that answered last is asked first.
func NewClient(endpoint string, signer Signer) (*Client, error) {
	first, others, several := strings.Cut(endpoint, ",")
	c, err := newClient(first, signer)
	if err != nil || !several {
		return c, err
	}
	c.next, err = NewClient(others, signer)
	return c, err
}

// NewNodeClient is NewClient for a node daemon, as root: over TCP it asks for a
// session, and signs by munge only where it has none.
func NewNodeClient(endpoint string, m NodeMunge) (*Client, error) {
	c, err := NewClient(endpoint, m)
	for each := c; each != nil; each = each.next {
		if each.signer != nil {
			each.session = &session{opener: m, now: time.Now} //nolint:forbidigo // the clock is handed on from here
		}
	}
	return c, err
}

// NodeMunge is what a node daemon needs of munge.
type NodeMunge interface {
	Signer
	Opener
}

func newClient(endpoint string, signer Signer) (*Client, error) {
	if path, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return nil, pipefill.Errorf(pipefill.CodeInvalid, "controller %q: write unix:/absolute/path or http://host:port", endpoint)
		}
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}
		return &Client{base: "http://pipefillctld", http: &http.Client{Transport: transport}}, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.Path != "" {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "controller %q: write unix:/absolute/path or http://host:port", endpoint)
	}
	if signer == nil {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "controller %q: requests over TCP are signed with munge, which is not set up", endpoint)
	}
	return &Client{base: endpoint, signer: signer, http: &http.Client{Transport: &http.Transport{}}}, nil
}

// Sync sends a node's state and returns what the node should hold. The
// controller may take NodeSync.WaitMs to answer; ctx bounds the whole.
func (c *Client) Sync(ctx context.Context, state NodeSync) (NodeOrders, error) {
	var orders NodeOrders
	err := c.call(ctx, http.MethodPost, "/v1/node/sync", state, &orders)
	return orders, err
}

// Jobs lists the fill jobs the caller may see.
func (c *Client) Jobs(ctx context.Context, f JobFilter) ([]FillJob, error) {
	q := url.Values{}
	if f.User != "" {
		q.Set("user", f.User)
	}
	if f.State != "" {
		q.Set("state", f.State)
	}
	if f.SinceMs > 0 {
		q.Set("since_ms", strconv.FormatInt(f.SinceMs, 10))
	}
	var jobs []FillJob
	err := c.call(ctx, http.MethodGet, withQuery("/v1/jobs", q), nil, &jobs)
	return jobs, err
}

// Job returns one fill job; not_found also when it is not the caller's to see.
func (c *Client) Job(ctx context.Context, id int64) (FillJob, error) {
	var job FillJob
	err := c.call(ctx, http.MethodGet, jobPath(id), nil, &job)
	return job, err
}

// Hold keeps a fill job from being assigned; why may be empty, as of the others.
func (c *Client) Hold(ctx context.Context, id int64, why string) error {
	return c.act(ctx, id, "hold", Order{Why: why})
}

// Release undoes Hold.
func (c *Client) Release(ctx context.Context, id int64, why string) error {
	return c.act(ctx, id, "release", Order{Why: why})
}

// Cancel cancels a fill job in Slurm, running or not.
func (c *Client) Cancel(ctx context.Context, id int64, why string) error {
	return c.act(ctx, id, "cancel", Order{Why: why})
}

// Order is the body of an order about a fill job.
type Order struct {
	Priority *int64 `json:"priority,omitempty"` // of the action priority
	Why      string `json:"why,omitempty"`      // an operator's reason, for the audit log
}

// Priority sets a fill job's place among its owner's jobs; operators may set
// anybody's.
func (c *Client) Priority(ctx context.Context, id, priority int64, why string) error {
	return c.act(ctx, id, "priority", Order{Priority: &priority, Why: why})
}

// Slots lists the devices of running main jobs.
func (c *Client) Slots(ctx context.Context) ([]Slot, error) {
	var slots []Slot
	err := c.call(ctx, http.MethodGet, "/v1/slots", nil, &slots)
	return slots, err
}

// KeepProfile sends a fill profile's file, which jobs then name by its digest.
func (c *Client) KeepProfile(ctx context.Context, text []byte) (Profile, error) {
	var kept Profile
	err := c.call(ctx, http.MethodPost, "/v1/profiles", json.RawMessage(text), &kept)
	return kept, err
}

// Ping asks whether the controller lives and what troubles it.
func (c *Client) Ping(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, "/v1/ping", nil, &s)
	return s, err
}

func (c *Client) act(ctx context.Context, id int64, action string, body any) error {
	return c.call(ctx, http.MethodPost, jobPath(id)+"/"+action, body, nil)
}

func jobPath(id int64) string { return "/v1/jobs/" + strconv.FormatInt(id, 10) }

func withQuery(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// send sends one request; the caller closes the answer's body. A session that the
// controller does not know, as one that was started since, costs a second one.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("encode %s %s: %w", method, path, err)
		}
	}
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	inSession, err := c.sign(req, method, path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(req)
	if err != nil || !inSession || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	_ = resp.Body.Close() // it is empty
	c.session.drop()
	if req, err = c.request(ctx, method, path, body); err != nil {
		return nil, err
	}
	if _, err = c.sign(req, method, path, body); err != nil {
		return nil, err
	}
	return c.do(req)
}

func (c *Client) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request %s %s: %w", method, path, err)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// sign signs a request, with the session where there is one.
func (c *Client) sign(req *http.Request, method, path string, body []byte) (inSession bool, err error) {
	if c.signer == nil {
		return false, nil
	}
	digest := Digest(method, path, body)
	if c.session != nil && strings.HasPrefix(path, NodePaths) {
		if signed, ok := c.session.sign(digest); ok {
			req.Header.Set("Authorization", signed)
			return true, nil
		}
		req.Header.Set(SessionHeader, SessionWanted)
	}
	credential, err := c.signer.Sign([]byte(digest))
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Munge "+credential)
	return false, nil
}

func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, pipefill.Errorf(pipefill.CodeUnavailable, "no answer from pipefillctld: %w (is it running? see pipefill-cli doctor)", err)
	}
	if c.session != nil {
		c.session.take(resp)
	}
	return resp, nil
}

// call sends one request, to the first controller that there is, and decodes its
// answer into out, if not nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	if c.next == nil {
		return c.ask(ctx, method, path, in, out)
	}
	first, second := c.ask, c.next.call
	if c.later.Load() {
		first, second = second, first
	}
	err := first(ctx, method, path, in, out)
	if pipefill.ErrorCode(err) != pipefill.CodeUnavailable || ctx.Err() != nil {
		return err
	}
	other := second(ctx, method, path, in, out)
	if pipefill.ErrorCode(other) == pipefill.CodeUnavailable {
		return err
	}
	c.later.Store(!c.later.Load())
	return other
}

func (c *Client) ask(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return pipefill.Errorf(pipefill.CodeUnavailable, "the answer of pipefillctld broke off: %w", err)
	}
	if len(answer) > MaxBody {
		return pipefill.Errorf(pipefill.CodeUnavailable, "the answer of pipefillctld is longer than %d bytes", MaxBody)
	}
	return decode(resp, answer, out)
}

func decode(resp *http.Response, answer []byte, out any) error {
	if v := resp.Header.Get(VersionHeader); v != Version && resp.StatusCode != http.StatusUnauthorized {
		return pipefill.Errorf(pipefill.CodeUnavailable,
			"pipefillctld speaks version %q of the wire, this program version %q: install the same release on both", v, Version)
	}
	if resp.StatusCode/100 != 2 {
		return failure(resp.StatusCode, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return pipefill.Errorf(pipefill.CodeUnavailable, "the answer of pipefillctld is not understood: %w", err)
	}
	return nil
}

func failure(status int, answer []byte) error {
	if status == http.StatusUnauthorized {
		return pipefill.Errorf(pipefill.CodeDenied, "pipefillctld does not know who is calling: munge must run with the same key on both hosts")
	}
	var f Failure
	if err := json.Unmarshal(answer, &f); err != nil || f.Message == "" {
		return &pipefill.Error{
			Code:    pipefill.CodeOfHTTP(status),
			Message: fmt.Sprintf("pipefillctld answered %d %s", status, http.StatusText(status)),
			Err:     errors.New(strings.TrimSpace(string(answer[:min(len(answer), 200)]))),
		}
	}
	return &pipefill.Error{Code: f.Code, Message: f.Message}
}
