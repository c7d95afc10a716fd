package controller

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	jsonv2 "github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/api"
)

// Munge reads the credential of a request that came over TCP, and makes one that a
// single user can read.
type Munge interface {
	Verify(credential string) (payload []byte, uid, gid uint32, err error)
	SignFor(payload []byte, uid uint32) (credential string, err error)
}

// caller is who asks.
type caller struct {
	uid      uint32
	name     string
	operator bool
}

// Server answers nodes and command lines (docs/protocol.md, section 3).
type Server struct {
	controller *Controller
	munge      Munge
	sessions   *sessions
	log        *slog.Logger
	mux        *http.ServeMux
	lookup     func(uid uint32) (string, error)

	sessionless atomic.Bool // it was said that there are none
}

// NewServer returns the handler of both listeners.
func NewServer(c *Controller, munge Munge, log *slog.Logger) *Server {
	s := &Server{controller: c, munge: munge, sessions: newSessions(c.now), log: log, mux: http.NewServeMux(), lookup: new(names).of}
	s.mux.HandleFunc("POST /v1/node/sync", s.nodeSync)
	s.mux.HandleFunc("POST /v1/node/recording", s.nodeRecording)
	s.mux.HandleFunc("GET /v1/mains/{id}/recording", s.recording)
	s.mux.HandleFunc("GET /v1/ping", s.ping)
	s.mux.HandleFunc("GET /v1/jobs", s.jobs)
	s.mux.HandleFunc("GET /v1/jobs/{id}", s.job)
	s.mux.HandleFunc("POST /v1/jobs/{id}/{action}", s.act)
	s.mux.HandleFunc("GET /v1/jobs/{id}/policy", s.explainPolicy)
	s.mux.HandleFunc("GET /v1/policy", s.listPolicies)
	s.mux.HandleFunc("GET /v1/policy/predictions", s.predictions)
	s.mux.HandleFunc("GET /v1/slots", s.slots)
	s.mux.HandleFunc("GET /v1/report/{kind}", s.report)
	s.mux.HandleFunc("GET /v1/audit", s.audit)
	s.mux.HandleFunc("GET /v1/archive", s.dump)
	s.mux.HandleFunc("POST /v1/archive", s.load)
	s.mux.HandleFunc("POST /v1/profiles", s.keepProfile)
	s.mux.HandleFunc("GET /v1/drains", s.listDrains)
	s.mux.HandleFunc("POST /v1/drain", s.drain)
	s.mux.HandleFunc("POST /v1/resume", s.resume)
	return s
}

// names remembers the names of who asked: a thousand nodes' reports would look
// root up each time. Users get other names only when a host is made anew.
type names struct{ known sync.Map }

func (n *names) of(uid uint32) (string, error) {
	if name, ok := n.known.Load(uid); ok {
		return name.(string), nil //nolint:errcheck,forcetypeassert // nothing else is stored
	}
	name, err := userName(uid)
	if err == nil {
		n.known.Store(uid, name)
	}
	return name, err
}

func userName(uid uint32) (string, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return "", pipefill.Errorf(pipefill.CodeDenied, "uid %d is no user of this host: %w", uid, err)
	}
	return u.Username, nil
}

type callerKey struct{}

type peerKey struct{}

// WithPeer is http.Server.ConnContext of the Unix socket: it notes who connected.
func WithPeer(ctx context.Context, conn net.Conn) context.Context {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred.Uid)
}

// ServeHTTP finds out who asks, and answers nobody else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(http.MaxBytesReader(w, r.Body, api.MaxBody), r.ContentLength)
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	uid, ok := s.authenticate(w, r, body)
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set(api.VersionHeader, api.Version)
	name, err := s.lookup(uid)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	who := caller{uid: uid, name: name, operator: uid == 0 || slices.Contains(s.controller.cfg.Operators, name)}
	known := r.WithContext(context.WithValue(r.Context(), callerKey{}, who))
	known.Body = &wholeBody{Reader: bytes.NewReader(body), text: body}
	s.mux.ServeHTTP(w, known)
}

// readBody reads a body of a length that its sender has told, or else not.
func readBody(r io.Reader, length int64) ([]byte, error) {
	var body bytes.Buffer
	if length > 0 && length <= api.MaxBody {
		const spare = bytes.MinRead // to find the end
		body.Grow(int(min(length, believed)) + spare)
	}
	_, err := body.ReadFrom(r)
	return body.Bytes(), err
}

// believed bounds what a length alone is given, before anybody has signed.
const believed = 1 << 20

// wholeBody is a body that was read.
type wholeBody struct {
	*bytes.Reader

	text []byte
}

// Close does nothing.
func (*wholeBody) Close() error { return nil }

// authenticate returns the caller's uid: the socket's peer, or who signed.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request, body []byte) (uint32, bool) {
	if uid, ok := r.Context().Value(peerKey{}).(uint32); ok {
		return uid, true
	}
	authorization := r.Header.Get("Authorization")
	digest := func() string { return api.Digest(r.Method, r.RequestURI, body) }
	credential, ok := strings.CutPrefix(authorization, "Munge ")
	if !ok {
		if !strings.HasPrefix(r.URL.Path, api.NodePaths) {
			return 0, false
		}
		return s.sessions.verify(authorization, hostOf(r), digest)
	}
	payload, uid, _, err := s.munge.Verify(credential)
	if err != nil {
		s.log.WarnContext(r.Context(), "a request was refused", "remote", r.RemoteAddr, "err", err)
		return 0, false
	}
	if subtle.ConstantTimeCompare(payload, []byte(digest())) != 1 {
		return 0, false
	}
	s.offer(w, r, uid)
	return uid, true
}

func callerOf(r *http.Request) caller {
	who, _ := r.Context().Value(callerKey{}).(caller) // ServeHTTP always sets it
	return who
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := pipefill.ErrorCode(err)
	message := err.Error()
	if code == pipefill.CodeInternal {
		s.log.ErrorContext(r.Context(), "a request failed", "path", r.URL.Path, "err", err)
		message = "pipefillctld could not answer; its log says why"
	}
	s.answer(w, r, pipefill.HTTPStatus(code), api.Failure{Code: code, Message: message})
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		s.log.ErrorContext(r.Context(), "an answer cannot be encoded", "path", r.URL.Path, "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(data); err != nil {
		s.log.DebugContext(r.Context(), "the caller went away", "err", err)
	}
}

func (s *Server) nodeSync(w http.ResponseWriter, r *http.Request) {
	if callerOf(r).uid != 0 {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeDenied, "only the node daemon, as root, may sync"))
		return
	}
	var state api.NodeSync
	if err := decode(r, &state); err != nil {
		s.fail(w, r, err)
		return
	}
	orders, err := s.controller.Sync(r.Context(), state)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, http.StatusOK, orders)
}

// decode reads a body of one JSON value without unknown fields. The decoder is
// not the standard library's: that one takes five times as long over a sync.
func decode(r *http.Request, out any) error {
	var body []byte
	var err error
	if whole, ok := r.Body.(*wholeBody); ok {
		body = whole.text
	} else {
		body, err = io.ReadAll(r.Body)
	}
	if err == nil {
		err = jsonv2.Unmarshal(body, out, jsonv2.RejectUnknownMembers(true))
	}
	r.Body = http.NoBody // a sync is answered seconds later, and 1,024 of them wait
	if err != nil {
		return pipefill.Errorf(pipefill.CodeInvalid, "the request is not understood by pipefillctld %s: %w", pipefill.Version(), err)
	}
	return nil
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, http.StatusOK, s.controller.Status())
}
