package controller

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pipefill/api"
)

// in makes a request that is signed with a session.
func (d *desk) in(s *api.Session, n uint64, remote, uri, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, uri, strings.NewReader(body))
	r.RemoteAddr = remote
	r.Header.Set("Authorization", s.Sign(n, api.Digest(http.MethodPost, uri, []byte(body))))
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

// open asks for a session as a node daemon does.
func (d *desk) open(uid uint32, uri string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, uri, strings.NewReader(emptySync))
	r.RemoteAddr = nodeHost
	r.Header.Set("Authorization", "Munge "+fakeMunge{}.sign(uid, api.Digest(http.MethodPost, uri, []byte(emptySync))))
	r.Header.Set(api.SessionHeader, api.SessionWanted)
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

const (
	emptySync = `{"node": "n0", "orders_seen": 1}`
	syncPath  = "/v1/node/sync"
	nodeHost  = "10.0.0.7:999"
)

func sessionOf(t *testing.T, w *httptest.ResponseRecorder) api.Session {
	t.Helper()
	payload, uid, _, err := fakeMunge{}.Verify(w.Header().Get(api.SessionHeader))
	var s api.Session
	if err := errors.Join(err, json.Unmarshal(payload, &s)); err != nil || w.Code != http.StatusOK || uid != 0 {
		t.Fatalf("%d %v, for %d: %v", w.Code, w.Header(), uid, err)
	}
	return s
}

// A session is believed for what a munge credential is: who sent exactly this, once,
// and for a while, from where it was opened.
func TestSession(t *testing.T) {
	d := newDesk(t)
	now := time.Unix(1_000_000, 0)
	d.sessions.now = func() time.Time { return now }
	s := sessionOf(t, d.open(0, syncPath))
	other := sessionOf(t, d.open(0, syncPath))
	if s.ID == other.ID || string(s.Key) == string(other.Key) {
		t.Error("two sessions are one")
	}
	forged := s
	forged.Key = make([]byte, len(s.Key))
	stranger := s
	stranger.ID = "stranger"
	const ok, no = http.StatusOK, http.StatusUnauthorized
	for _, c := range []struct {
		name    string
		session api.Session
		n       uint64
		remote  string
		uri     string
		change  func(*http.Request)
		after   time.Duration
		want    int
	}{
		{"the first", s, 1, nodeHost, syncPath, nil, 0, ok},
		{"the first again", s, 1, nodeHost, syncPath, nil, 0, no},
		{"from another port", s, 2, "10.0.0.7:1000", syncPath, nil, 0, ok},
		{"from another host", s, 3, "10.0.0.8:999", syncPath, nil, 0, no},
		{"overtaken by another", s, 5, nodeHost, syncPath, nil, 0, ok},
		{"and there it is", s, 4, nodeHost, syncPath, nil, 0, ok},
		{"but once", s, 4, nodeHost, syncPath, nil, 0, no},
		{"number 0", other, 0, nodeHost, syncPath, nil, 0, no},
		{"another key", forged, 6, nodeHost, syncPath, nil, 0, no},
		{"one that there is not", stranger, 6, nodeHost, syncPath, nil, 0, no},
		{"another session's", other, 1, nodeHost, syncPath, nil, 0, ok},
		{"another body", s, 7, nodeHost, syncPath, func(r *http.Request) { r.Body = http.NoBody }, 0, no},
		{"another query", s, 8, nodeHost, syncPath, func(r *http.Request) { r.RequestURI += "?x" }, 0, no},
		{"for what is no node's", s, 9, nodeHost, "/v1/jobs/100/cancel", nil, 0, no},
		{"a number less", s, 10, nodeHost, syncPath, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), " 10 ", " 9 ", 1))
		}, 0, no},
		{"no code", s, 11, nodeHost, syncPath, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Join(strings.Split(r.Header.Get("Authorization"), " ")[:3], " "))
		}, 0, no},
		{"far ahead", s, 1000, nodeHost, syncPath, nil, 0, ok},
		{"too far behind", s, 936, nodeHost, syncPath, nil, 0, no},
		{"as far behind as may be", s, 937, nodeHost, syncPath, nil, 0, ok},
		{"at its end", s, 1001, nodeHost, syncPath, nil, sessionLife, ok},
		{"after it", s, 1002, nodeHost, syncPath, nil, sessionLife + time.Millisecond, no},
	} {
		t.Run(c.name, func(t *testing.T) {
			now = time.Unix(1_000_000, 0).Add(c.after)
			if w := d.in(&c.session, c.n, c.remote, c.uri, emptySync, c.change); w.Code != c.want || c.want == no && w.Body.Len() > 0 {
				t.Errorf("%d %s, want %d", w.Code, w.Body, c.want)
			}
		})
	}
}

// Only root gets one, for what nodes ask, and only who wants it; those that are
// over are forgotten.
func TestSession_IsForNodes(t *testing.T) {
	d := newDesk(t)
	if w := d.open(1000, syncPath); w.Header().Get(api.SessionHeader) != "" {
		t.Error("a user has a session")
	}
	if w := d.open(0, "/v1/jobs/100/hold"); w.Header().Get(api.SessionHeader) != "" {
		t.Error("there is a session for jobs")
	}
	if w := d.ask(0, http.MethodPost, syncPath, emptySync); w.Code != http.StatusOK || w.Header().Get(api.SessionHeader) != "" {
		t.Errorf("not asked for: %d %v", w.Code, w.Header())
	}
	now := time.Unix(1_000_000, 0)
	d.sessions.now = func() time.Time { return now }
	for range 3000 {
		sessionOf(t, d.open(0, syncPath))
		now = now.Add(time.Second)
	}
	if n := len(d.sessions.by); n < 600 || n > 2*1024+600 {
		t.Errorf("%d sessions are remembered, of 600 that are open", n)
	}
	refused := func([]byte, uint32) (string, error) { return "", errors.New("munged is away") }
	if _, err := d.sessions.open("h", 0, refused); err == nil {
		t.Error("a session that nobody can be told of")
	}
}
