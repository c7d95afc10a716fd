package slurm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"pipefill"
)

// versions of slurmrestd's API that the decoder was held against, newest first.
// v0.0.39 was served by neither release at hand; its answers lie between.
var versions = [...]string{"v0.0.42", "v0.0.41", "v0.0.40", "v0.0.39", "v0.0.38", "v0.0.37", "v0.0.36"}

// maxAnswer bounds an answer: 100,000 pending jobs are 310 MB on 22.05 and
// 760 MB on 24.11. Jobs are decoded one by one, so this is not memory.
const maxAnswer = 1 << 30

// Slurm's error numbers that mean something to us.
const (
	errInvalidJobID     = 2017
	errAccessDenied     = 2002
	errUserIDMissing    = 2010
	errAlreadyDone      = 2021
	errNotPending       = 2056
	errProtocolAuth     = 1007
	errNoChange         = 1900
	unspecifiedRESTText = "Unspecified error"
)

// rest speaks to slurmrestd: one version, negotiated on first use.
type rest struct {
	http      *http.Client
	base      string
	tokenFile string
	observe   func(call string, took time.Duration, err error)

	mu      sync.Mutex
	version string
}

func newREST(endpoint, tokenFile string, timeout time.Duration) (*rest, error) {
	r := &rest{tokenFile: tokenFile, observe: func(string, time.Duration, error) {}}
	transport := &http.Transport{MaxIdleConns: 4, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: timeout}
	switch {
	case strings.HasPrefix(endpoint, "unix:/"):
		path := strings.TrimPrefix(endpoint, "unix:")
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		r.base = "http://localhost"
	case strings.HasPrefix(endpoint, "http://"), strings.HasPrefix(endpoint, "https://"):
		r.base = strings.TrimRight(endpoint, "/")
	default:
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "slurmrestd: %q: write unix:/path/to/socket or http://host:port", endpoint)
	}
	r.http = &http.Client{
		Transport: transport, Timeout: timeout,
		// A redirect would carry the administrator's token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return r, nil
}

// api returns the version to speak, asking for the newest first.
func (r *rest) api(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.version != "" {
		return r.version, nil
	}
	for _, v := range versions {
		err := r.call(ctx, http.MethodGet, "/slurm/"+v+"/ping", nil, nil)
		if refused, ok := errors.AsType[*refusal](err); ok && refused.status == http.StatusNotFound {
			continue
		}
		if err != nil {
			return "", explain(err)
		}
		r.version = v
		return v, nil
	}
	return "", pipefill.Errorf(pipefill.CodeUnavailable, "slurmrestd serves none of %s to %s; start it with one of them (-s)",
		versions[len(versions)-1], versions[0])
}

func (r *rest) forget() {
	r.mu.Lock()
	r.version = ""
	r.mu.Unlock()
}

// do asks path (below the version) and hands each element of the lists named in
// each to its function.
func (r *rest) do(ctx context.Context, method, path string, body any, each map[string]func(*decoder) error) error {
	v, err := r.api(ctx)
	if err != nil {
		return err
	}
	begin := time.Now() //nolint:forbidigo // how long a request takes, and no decision
	err = r.call(ctx, method, "/slurm/"+v+"/"+path, body, each)
	name, _, _ := strings.Cut(path, "/")
	name, _, _ = strings.Cut(name, "?")
	if isSame(err) {
		r.observe(name, time.Since(begin), nil)
		return err
	}
	r.observe(name, time.Since(begin), err)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.status == http.StatusNotFound && len(refused.errors) == 0 {
		r.forget() // another release answers now
	}
	return explain(err)
}

func (r *rest) call(ctx context.Context, method, path string, body any, each map[string]func(*decoder) error) error {
	user, token, err := readToken(r.tokenFile)
	if err != nil {
		return err
	}
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("slurmrestd: %s %s: %w", method, path, err)
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, payload)
	if err != nil {
		return fmt.Errorf("slurmrestd: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("X-SLURM-USER-NAME", user)
	req.Header.Set("X-SLURM-USER-TOKEN", token)
	answer, err := r.http.Do(req)
	if err != nil {
		return pipefill.Errorf(pipefill.CodeUnavailable, "slurmrestd does not answer: %w; is it running?", err)
	}
	defer func() { _ = answer.Body.Close() }() // read only
	return readAnswer(answer, each)
}

// problem is one entry of errors[] or warnings[].
type problem struct {
	Number      number `json:"error_number"`
	Code        number `json:"error_code"` // 22.05's submit
	Error       string `json:"error"`
	Description string `json:"description"`
	Source      string `json:"source"`
}

// UnmarshalJSON lets an entry be a plain text too.
func (p *problem) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &p.Description)
	}
	type plain problem
	return json.Unmarshal(b, (*plain)(p))
}

// isSame tells whether a refusal says that nothing has changed since the time
// asked about: status 304 without a body.
func isSame(err error) bool {
	refused, ok := errors.AsType[*refusal](err)
	return ok && (refused.status == http.StatusNotModified || refused.number() == errNoChange)
}

// refusal is an answer that says no: errors[] at any status, or a status that
// is not 2xx. 22.05 refuses updates with status 200.
type refusal struct {
	status int
	errors []problem
	body   string
}

// Error implements error.
func (e *refusal) Error() string {
	var said []string
	for _, p := range e.errors {
		said = append(said, strings.TrimSpace(fmt.Sprintf("%s %s", p.Error, p.Description)))
	}
	if len(said) == 0 {
		said = []string{e.body}
	}
	return fmt.Sprintf("slurmrestd: status %d: %s", e.status, strings.Join(said, "; "))
}

func (e *refusal) number() int64 {
	for _, p := range e.errors {
		if n := p.Number.n + p.Code.n; n != 0 {
			return n
		}
	}
	return 0
}

// explain gives a refusal the code and the words a person needs.
func explain(err error) error {
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	switch n := refused.number(); {
	case n == errInvalidJobID, refused.status == http.StatusNotFound:
		return pipefill.Errorf(pipefill.CodeNotFound, "Slurm knows no such job: %w", err)
	case n == errAlreadyDone, n == errNotPending:
		return pipefill.Errorf(pipefill.CodeConflict, "the job's state forbids this: %w", err)
	case n == errAccessDenied, n == errUserIDMissing:
		return pipefill.Errorf(pipefill.CodeDenied, "Slurm refuses us: %w; the token must be root's or SlurmUser's", err)
	case n == errProtocolAuth, refused.status == http.StatusUnauthorized, strings.Contains(refused.Error(), unspecifiedRESTText):
		// 22.05 answers an expired token so, and says no more.
		return pipefill.Errorf(pipefill.CodeUnavailable, "%w; perhaps the token has expired, or slurmctld is down", err)
	}
	return pipefill.Errorf(pipefill.CodeUnavailable, "%w", err)
}

// readAnswer reads an answer without holding its lists in memory.
func readAnswer(answer *http.Response, each map[string]func(*decoder) error) error {
	in := bufio.NewReader(io.LimitReader(answer.Body, maxAnswer))
	refused := &refusal{status: answer.StatusCode}
	if head, _ := in.Peek(512); len(bytes.TrimSpace(head)) == 0 || bytes.TrimSpace(head)[0] != '{' {
		refused.body = fmt.Sprintf("%.200q", head)
		if answer.StatusCode/100 == 2 && len(each) == 0 {
			return nil
		}
		return refused // 401 and 404 are plain text
	}
	if answer.StatusCode/100 != 2 {
		each = nil
	}
	if err := walk(newDecoder(in), each, &refused.errors); err != nil {
		return pipefill.Errorf(pipefill.CodeUnavailable, "slurmrestd's answer (status %d) cannot be read: %w", answer.StatusCode, err)
	}
	if answer.StatusCode/100 != 2 || len(refused.errors) > 0 {
		return refused
	}
	return nil
}

// decoder reads JSON value by value. It is not the standard library's: that one
// takes five times as long over 100,000 jobs.
type decoder struct{ *jsontext.Decoder }

func newDecoder(r io.Reader) *decoder {
	// What users named their jobs is not always UTF-8.
	return &decoder{jsontext.NewDecoder(r, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))}
}

// Decode reads the next value.
func (d *decoder) Decode(out any) error { return jsonv2.UnmarshalDecode(d.Decoder, out) }

func walk(dec *decoder, each map[string]func(*decoder) error, problems *[]problem) error {
	if _, err := dec.ReadToken(); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	seen := map[string]bool{}
	for dec.PeekKind() != '}' {
		token, err := dec.ReadToken()
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		key := token.String()
		seen[key] = true
		switch item, wanted := each[key]; {
		case key == "errors":
			err = dec.Decode(problems)
		case wanted:
			err = walkList(dec, item)
		default:
			err = dec.SkipValue()
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", key, err)
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return fmt.Errorf("read answer's end: %w", err)
	}
	for key := range each {
		if !seen[key] && len(*problems) == 0 {
			return fmt.Errorf("no %q in it", key)
		}
	}
	return nil
}

func walkList(dec *decoder, item func(*decoder) error) error {
	token, err := dec.ReadToken()
	if err != nil || token.Kind() == 'n' { // null is an empty list
		return err
	}
	if token.Kind() != '[' {
		return fmt.Errorf("%s is not a list", token)
	}
	for dec.PeekKind() != ']' {
		if err := item(dec); err != nil {
			return err
		}
	}
	_, err = dec.ReadToken()
	return err
}
