package api

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A munge credential costs its maker, its reader and both their munged a tenth of
// a millisecond each: for a node that reports every five seconds more than the
// report itself. So a node daemon asks for a session along with a request that it
// signs: the controller answers with a key that only root can read, in a
// credential of its own, and signs the requests that follow with that key.

// SessionHeader asks for a session in a request (its value is SessionWanted), and
// holds a credential with a Session in the answer.
const (
	SessionHeader = "Pipefill-Session"
	SessionWanted = "wanted"
	// NodePaths is what the paths begin with that a session is for.
	NodePaths     = "/v1/node/"
	sessionScheme = "Pipefill "
)

// Session is the payload of the credential that opens one.
type Session struct {
	ID    string `json:"id"`
	Key   []byte `json:"key"` // of HMAC-SHA256
	ForMs int64  `json:"for_ms"`
}

// NewSession returns one with a key that nobody has.
func NewSession(life time.Duration) (Session, error) {
	key := make([]byte, sha256.Size)
	if _, err := rand.Read(key); err != nil {
		return Session{}, fmt.Errorf("make a key: %w", err)
	}
	return Session{ID: rand.Text(), Key: key, ForMs: life.Milliseconds()}, nil
}

// Sign is the Authorization of the session's request number n, of a Digest.
func (s *Session) Sign(n uint64, digest string) string {
	return sessionScheme + s.ID + " " + strconv.FormatUint(n, 10) + " " + hex.EncodeToString(s.mac(n, digest))
}

// Signed tells whether mac is that of request n.
func (s *Session) Signed(n uint64, digest string, mac []byte) bool {
	return hmac.Equal(s.mac(n, digest), mac)
}

func (s *Session) mac(n uint64, digest string) []byte {
	h := hmac.New(sha256.New, s.Key)
	_, _ = fmt.Fprintf(h, "%d\n%s", n, digest) // a hash never fails
	return h.Sum(nil)
}

// ParseSession reads what Sign writes; false: the header is another scheme's, or
// is mangled.
func ParseSession(authorization string) (id string, n uint64, mac []byte, ok bool) {
	rest, ok := strings.CutPrefix(authorization, sessionScheme)
	parts := strings.Split(rest, " ")
	if !ok || len(parts) != 3 || parts[0] == "" {
		return "", 0, nil, false
	}
	n, err1 := strconv.ParseUint(parts[1], 10, 64)
	mac, err2 := hex.DecodeString(parts[2])
	return parts[0], n, mac, err1 == nil && err2 == nil && len(mac) == sha256.Size
}

// Opener reads the credential of a session (package munge).
type Opener interface {
	Verify(credential string) (payload []byte, uid, gid uint32, err error)
}

// session is a client's: used for three quarters of its time, so that a request
// under way finds it alive.
type session struct {
	opener Opener
	now    func() time.Time

	mu    sync.Mutex
	is    *Session
	until time.Time
	sent  uint64
}

// sign signs with the session; false: there is none.
func (s *session) sign(digest string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.is == nil || !s.now().Before(s.until) {
		return "", false
	}
	s.sent++
	return s.is.Sign(s.sent, digest), true
}

// take takes up the session that an answer holds, if it does.
func (s *session) take(answer *http.Response) {
	credential := answer.Header.Get(SessionHeader)
	if credential == "" {
		return
	}
	payload, _, _, err := s.opener.Verify(credential)
	if err != nil {
		return // as one that holds none: requests are signed one by one
	}
	var is Session
	if err := json.Unmarshal(payload, &is); err != nil || is.ID == "" || len(is.Key) != sha256.Size || is.ForMs <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.is, s.sent, s.until = &is, 0, s.now().Add(time.Duration(is.ForMs)*time.Millisecond*3/4)
}

// drop forgets the session: the controller knows it no more.
func (s *session) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.is = nil
}
