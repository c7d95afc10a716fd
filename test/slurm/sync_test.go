//go:build slurm

package slurmtest

import (
	"bytes"
	"encoding/json"
	"io"
	"log" //nolint:depguard // a reverse proxy takes no other
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pipefill/api"
)

// wire hands a node's requests on to the controller, and keeps what was said. While
// there is no controller it waits, so that the node does not notice.
type wire struct {
	mu    sync.Mutex
	syncs []*said
}

// said is a sync and its answer.
type said struct {
	scheme string // of Authorization: Munge or Pipefill
	sync   api.NodeSync
	status int // 0: it is not answered yet
	orders api.NodeOrders
}

func (w *wire) all() []said {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []said
	for _, s := range w.syncs {
		all = append(all, *s)
	}
	return all
}

// since waits for a sync from number n on.
func (w *wire) since(t *testing.T, n int, what string, ok func(said) bool) (at int, found said) {
	t.Helper()
	await(t, what, func() bool {
		for i, s := range w.all()[n:] {
			if ok(s) {
				at, found = n+i, s
				return true
			}
		}
		return false
	})
	return at, found
}

// hear notes a request.
func (w *wire) hear(r *http.Request, body []byte) (*said, error) {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	one := &said{scheme: scheme}
	if err := json.Unmarshal(body, &one.sync); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.syncs = append(w.syncs, one)
	return one, nil
}

// answer notes what the controller said to it.
func (w *wire) answer(one *said, resp *http.Response) error {
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	var orders api.NodeOrders
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(answer, &orders); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	one.status, one.orders = resp.StatusCode, orders
	return nil
}

func serveWire(t *testing.T, controller string) (*wire, string) {
	t.Helper()
	w := &wire{}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		one, err := w.hear(r, body)
		if err != nil {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: controller})
		proxy.Transport, proxy.ErrorLog = patient{}, log.New(io.Discard, "", 0) // the node gives syncs up
		proxy.ModifyResponse = func(resp *http.Response) error { return w.answer(one, resp) }
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	return w, server.URL
}

// patient asks again until there is an answer.
type patient struct{}

func (patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		again := r.Clone(r.Context())
		again.Body = body
		resp, err := http.DefaultTransport.RoundTrip(again)
		if err == nil {
			return resp, nil
		}
		select {
		case <-r.Context().Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freePort is one that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // another takes it
	return l.Addr().String()
}

// TestSyncs listens to what a real pipefilld and a real pipefillctld say to each
// other over TCP: cycles that the controller has are left out, and requests signed
// with a session that was opened by munge; a controller that was killed and starts
// again knows neither, asks for all, and has the node's slot as before.
func TestSyncs(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld")
	c := newCluster(t)
	address := freePort(t)
	w, through := serveWire(t, address)
	for name, line := range map[string][2]string{
		"pipefillctld": {`listen: ""`, "listen: " + address},
		"pipefilld.n0": {"controller: unix:" + c.dir + "/run/pipefillctld.sock", "controller: " + through},
	} {
		c.script(t, "stop", name)
		path := c.dir + "/etc/" + name + ".yaml"
		replace(t, path, strings.Replace(c.read(t, path), line[0], line[1], 1))
	}
	t.Setenv("MUNGE_SOCKET", c.dir+"/munge/munge.socket") // of the daemons
	c.script(t, "start", "pipefillctld", "pipefilld.n0")
	c.trainer(t, 100000, generous)

	has := func(s said) bool { return len(s.sync.Mains) == 1 }
	kept := func(s said) bool { return has(s) && s.sync.Mains[0].CycleKept }
	told := func(s said) bool {
		return has(s) && !s.sync.Mains[0].CycleKept && len(s.sync.Mains[0].Cycle.Bubbles) > 0
	}
	slot := func() bool {
		slots, err := c.controller(t).Slots(t.Context())
		return err == nil && slices.ContainsFunc(slots, func(s api.Slot) bool { return s.Node == "n0" && len(s.Main.Cycle.Bubbles) > 0 })
	}
	at, _ := w.since(t, 0, "a cycle to be told", told)
	at, s := w.since(t, at, "a cycle to be left out", kept)
	if s.scheme != "Pipefill" || s.sync.Mains[0].Cycle.Bubbles != nil || !slices.ContainsFunc(w.all()[:at], func(s said) bool { return s.orders.TakesKept }) {
		t.Errorf("left out by %s: %+v", s.scheme, s.sync.Mains[0])
	}
	if first := w.all()[0]; first.scheme != "Munge" || first.status != http.StatusOK {
		t.Errorf("the first sync: %s, %d", first.scheme, first.status)
	}
	await(t, "the slot", slot)

	c.kill(t, "pipefillctld")
	c.script(t, "start", "pipefillctld")
	at, _ = w.since(t, at, "the session to be refused", func(s said) bool { return s.scheme == "Pipefill" && s.status == http.StatusUnauthorized })
	at, s = w.since(t, at, "the controller to ask for all", func(s said) bool { return s.orders.Whole })
	if s.scheme != "Munge" || !kept(s) {
		t.Errorf("it is asked for by %s after %+v", s.scheme, s.sync.Mains)
	}
	if _, s = w.since(t, at+1, "a sync after that", has); !told(s) {
		t.Errorf("asked for all, the node tells %+v", s.sync.Mains)
	}
	await(t, "the slot", slot)
}
