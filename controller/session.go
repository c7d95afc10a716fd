package controller

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"pipefill"
	"pipefill/api"
)

const (
	// sessionLife is how long a node's requests are believed by its session before
	// it has to show a credential of munge again.
	sessionLife = 10 * time.Minute
	// sessionsMost bounds what is remembered: root of any host can ask for more.
	sessionsMost = 1 << 16
	// sessionAhead is by how many requests one may be overtaken by others.
	sessionAhead = 64
)

// sessions are those of node daemons (api.Session). They are kept in memory alone:
// who comes with one of an earlier controller is refused, and signs by munge.
type sessions struct {
	now func() time.Time

	mu      sync.Mutex
	by      map[string]*session
	cleanAt int // so many, or more, are looked through for those that are over
}

// session is whom one was opened for, and which of its requests were heard.
type session struct {
	api.Session

	host  string
	uid   uint32
	until time.Time
	last  uint64 // the highest number so far
	heard uint64 // bit k: number last-k was heard
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, by: map[string]*session{}, cleanAt: 1024}
}

// open makes a session for a user of a host, and returns the credential that tells
// it to that user alone.
func (s *sessions) open(host string, uid uint32, seal func(payload []byte, uid uint32) (string, error)) (string, error) {
	is, err := api.NewSession(sessionLife)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(is)
	if err != nil {
		return "", fmt.Errorf("encode a session: %w", err)
	}
	credential, err := seal(payload, uid)
	if err != nil {
		return "", err
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by) >= s.cleanAt {
		for id, old := range s.by {
			if now.After(old.until) {
				delete(s.by, id)
			}
		}
		s.cleanAt = min(2*len(s.by)+1024, sessionsMost)
	}
	if len(s.by) >= sessionsMost {
		return "", pipefill.Errorf(pipefill.CodeUnavailable, "%d sessions are open", len(s.by))
	}
	s.by[is.ID] = &session{Session: is, host: host, uid: uid, until: now.Add(sessionLife)}
	return credential, nil
}

// verify returns who sent a request that is signed with a session: from the host
// that it was opened for, in its time, and for the first time.
func (s *sessions) verify(authorization, host string, digest func() string) (uid uint32, ok bool) {
	id, n, mac, ok := api.ParseSession(authorization)
	if !ok {
		return 0, false
	}
	s.mu.Lock()
	is := s.by[id]
	s.mu.Unlock()
	// All but what was heard stays as it is.
	if is == nil || is.host != host || s.now().After(is.until) || !is.Signed(n, digest(), mac) {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return is.uid, is.first(n)
}

// first tells whether a number comes for the first time, and remembers it.
func (s *session) first(n uint64) bool {
	switch {
	case n > s.last:
		s.heard = s.heard<<min(n-s.last, sessionAhead) | 1
		s.last = n
		return true
	case n == 0 || s.last-n >= sessionAhead || s.heard&(1<<(s.last-n)) != 0:
		return false
	}
	s.heard |= 1 << (s.last - n)
	return true
}

// hostOf is where a request is from.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// offer opens a session for a node daemon that asks for one. It may do without.
func (s *Server) offer(w http.ResponseWriter, r *http.Request, uid uint32) {
	if uid != 0 || r.Header.Get(api.SessionHeader) != api.SessionWanted || !strings.HasPrefix(r.URL.Path, api.NodePaths) {
		return
	}
	credential, err := s.sessions.open(hostOf(r), uid, s.munge.SignFor)
	if err != nil {
		if s.sessionless.CompareAndSwap(false, true) {
			s.log.WarnContext(r.Context(), "nodes get no sessions, and have to sign each request by munge", "remote", r.RemoteAddr, "err", err)
		}
		return
	}
	w.Header().Set(api.SessionHeader, credential)
}
