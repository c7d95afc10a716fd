package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
)

// fakeMunge knows the users of the test; anything else does not verify.
type fakeMunge struct{}

func (fakeMunge) sign(uid uint32, payload string) string { return fmt.Sprintf("%d:%s", uid, payload) }

func (fakeMunge) Verify(credential string) (payload []byte, uid, gid uint32, err error) {
	who, text, ok := strings.Cut(credential, ":")
	if _, err := fmt.Sscanf(who, "%d", &uid); !ok || err != nil {
		return nil, 0, 0, errors.New("invalid credential")
	}
	return []byte(text), uid, uid, nil
}

// SignFor leaves to the test who reads it.
func (fakeMunge) SignFor(payload []byte, uid uint32) (string, error) {
	return fakeMunge{}.sign(uid, string(payload)), nil
}

var users = map[uint32]string{0: "root", 1000: "ann", 1001: "bob", 1002: "oper"}

// desk is a server with a queue of two users' jobs: 7 of ann, 8 of bob.
type desk struct {
	*Server
	world *world
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	w := newWorld(t, 1, 2)
	w.jobs[100].UID, w.jobs[100].User = 1000, "ann"
	w.jobs[101].UID, w.jobs[101].User = 1001, "bob"
	w.ctl.cfg.Operators = []string{"oper"}
	w.ctl.Look(t.Context()) // the mirror
	s := NewServer(w.ctl, fakeMunge{}, slog.New(slog.DiscardHandler))
	s.lookup = func(uid uint32) (string, error) {
		if name := users[uid]; name != "" {
			return name, nil
		}
		return "", pipefill.Errorf(pipefill.CodeDenied, "uid %d is no user of this host", uid)
	}
	return &desk{s, w}
}

// ask makes a signed request.
func (d *desk) ask(uid uint32, method, uri, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), method, uri, strings.NewReader(body))
	r.Header.Set("Authorization", "Munge "+fakeMunge{}.sign(uid, api.Digest(method, uri, []byte(body))))
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

func TestServer_NobodyUnauthenticatedGetsAnAnswer(t *testing.T) {
	d := newDesk(t)
	good := api.Digest("GET", "/v1/jobs", nil)
	for name, header := range map[string]string{
		"no credential":            "",
		"another scheme":           "Basic cm9vdDo=",
		"a mangled credential":     "Munge rubbish",
		"signed for another path":  "Munge " + fakeMunge{}.sign(0, api.Digest("GET", "/v1/slots", nil)),
		"signed for another verb":  "Munge " + fakeMunge{}.sign(0, api.Digest("POST", "/v1/jobs", nil)),
		"signed for another body":  "Munge " + fakeMunge{}.sign(0, api.Digest("GET", "/v1/jobs", []byte("{}"))),
		"signed for another query": "Munge " + fakeMunge{}.sign(0, api.Digest("GET", "/v1/jobs?user=bob", nil)),
		"the digest alone":         "Munge " + good,
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/jobs", http.NoBody)
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			w := httptest.NewRecorder()
			d.ServeHTTP(w, r)
			if w.Code != http.StatusUnauthorized || w.Body.Len() != 0 || w.Header().Get(api.VersionHeader) != "" {
				t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
			}
		})
	}
	if w := d.ask(0, http.MethodGet, "/v1/jobs", ""); w.Code != http.StatusOK {
		t.Errorf("a good one: %d %s", w.Code, w.Body)
	}
	if w := d.ask(4711, http.MethodGet, "/v1/jobs", ""); w.Code != http.StatusForbidden {
		t.Errorf("a uid without a name: %d %s", w.Code, w.Body)
	}
}

func TestServer_UsersSeeAndChangeOnlyTheirOwn(t *testing.T) {
	d := newDesk(t)
	count := func(uid uint32, uri string) int {
		t.Helper()
		var jobs []api.FillJob
		w := d.ask(uid, http.MethodGet, uri, "")
		if err := json.Unmarshal(w.Body.Bytes(), &jobs); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d: %s: %d %s", uid, uri, w.Code, w.Body)
		}
		return len(jobs)
	}
	for uid, want := range map[uint32]int{0: 2, 1000: 1, 1001: 1, 1002: 2} {
		if got := count(uid, "/v1/jobs"); got != want {
			t.Errorf("%s sees %d jobs, want %d", users[uid], got, want)
		}
	}
	if got := count(1000, "/v1/jobs?user=bob"); got != 0 {
		t.Errorf("ann sees %d jobs of bob", got)
	}
	if got := count(1002, "/v1/jobs?user=bob"); got != 1 {
		t.Errorf("an operator sees %d jobs of bob, want 1", got)
	}
	for _, c := range []struct {
		uid    uint32
		method string
		uri    string
		body   string
		code   int
	}{
		{1000, "GET", "/v1/jobs/100", "", 200},
		{1000, "GET", "/v1/jobs/101", "", 404},
		{1000, "GET", "/v1/jobs/4711", "", 404},
		{1000, "POST", "/v1/jobs/101/hold", "{}", 404},
		{1000, "POST", "/v1/jobs/101/cancel", "{}", 404},
		{1000, "POST", "/v1/jobs/101/priority", `{"priority": 5}`, 404},
		{1000, "POST", "/v1/jobs/100/hold", "{}", 200},
		{1000, "POST", "/v1/jobs/100/release", "{}", 200},
		{1000, "POST", "/v1/jobs/100/priority", `{"priority": 5}`, 200},
		{1002, "POST", "/v1/jobs/101/priority", `{"priority": 5}`, 200},
		{0, "POST", "/v1/jobs/101/cancel", "{}", 200},
		{1000, "GET", "/v1/report/node?start_ms=1&end_ms=2", "", 403},
		{1000, "GET", "/v1/report/main?start_ms=1&end_ms=2", "", 200},
		{1000, "GET", "/v1/report/user?start_ms=1&end_ms=2", "", 200},
		{1002, "GET", "/v1/report/node?start_ms=1&end_ms=2", "", 200},
		{1000, "POST", "/v1/node/sync", `{"node": "n0"}`, 403},
		{1002, "POST", "/v1/node/sync", `{"node": "n0"}`, 403},
		{0, "POST", "/v1/node/sync", `{"node": "n0"}`, 200},
	} {
		if w := d.ask(c.uid, c.method, c.uri, c.body); w.Code != c.code {
			t.Errorf("%s: %s %s: %d %s, want %d", users[c.uid], c.method, c.uri, w.Code, w.Body, c.code)
		}
	}
	if d.world.jobs[101].State != "CANCELLED" {
		t.Errorf("root's cancel left job 101 %s", d.world.jobs[101].State)
	}
}

func TestServer_SlotsShowStrangersNoJobsOfOthers(t *testing.T) {
	d := newDesk(t)
	n := d.world.nodes["n0"]
	n.main.UID, n.main.Options, n.main.Totals.Iterations = 1001, "budget=3%", 9
	d.world.jobs[101].workS = 1000
	for range 10 {
		d.world.second()
	}
	slots := func(uid uint32) []api.Slot {
		var out []api.Slot
		if err := json.Unmarshal(d.ask(uid, http.MethodGet, "/v1/slots", "").Body.Bytes(), &out); err != nil || len(out) != 2 {
			t.Fatalf("%d slots, %v", len(out), err)
		}
		return out
	}
	for _, s := range slots(1000) {
		if s.FillJob == 101 || s.Main.Options != "" || s.Main.Totals.Iterations != 0 {
			t.Errorf("ann sees %+v", s)
		}
	}
	all := slots(1002)
	if all[0].FillJob != 101 && all[1].FillJob != 101 || all[0].Main.Options != "budget=3%" {
		t.Errorf("an operator sees %+v", all)
	}
}

func TestServer_MistakesAreNamed(t *testing.T) {
	d := newDesk(t)
	for _, c := range []struct{ method, uri, body, want string }{
		{"POST", "/v1/jobs/100/priority", `{"priority": 5, "nice": 1}`, `unknown object member name`},
		{"POST", "/v1/jobs/100/priority", `{"priority": 5} {}`, "after top-level value"},
		{"POST", "/v1/jobs/100/priority", `{"priority": 5000000}`, "priority: write -1000000 to 1000000"},
		{"POST", "/v1/jobs/100/explode", `{}`, `"explode": write hold, release, cancel or priority`},
		{"GET", "/v1/jobs/abc", "", `job "abc": write a job number`},
		{"GET", "/v1/jobs/-4", "", `job "-4": write a job number`},
		{"GET", "/v1/report/user?start_ms=5&end_ms=5", "", "the start before the end"},
		{"GET", "/v1/report/moon?start_ms=5&end_ms=6", "", `report "moon": write one of cluster, user, account, job, main, node`},
		{"POST", "/v1/node/sync", `{}`, "the node has no name"},
		{"POST", "/v1/node/sync", `{"node": 5}`, "not understood"},
	} {
		w := d.ask(0, c.method, c.uri, c.body)
		var failure api.Failure
		if err := json.Unmarshal(w.Body.Bytes(), &failure); err != nil || w.Code != http.StatusBadRequest || !strings.Contains(failure.Message, c.want) {
			t.Errorf("%s %s %s: %d %s, want %q", c.method, c.uri, c.body, w.Code, w.Body, c.want)
		}
	}
}

// On the Unix socket the kernel says who calls, whatever a header claims.
func TestServer_PeerCredentials(t *testing.T) {
	d := newDesk(t)
	uid := uint32(os.Getuid())
	d.lookup = func(got uint32) (string, error) {
		if got != uid {
			return "", fmt.Errorf("uid %d, want %d", got, uid)
		}
		return "me", nil
	}
	var config net.ListenConfig
	socket, err := config.Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: d, ConnContext: WithPeer, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(socket) }()
	t.Cleanup(func() { _ = server.Close() })
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket.Addr().String())
	}}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/v1/ping", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Munge "+fakeMunge{}.sign(1000, api.Digest("GET", "/v1/ping", nil)))
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("%d %s %v", answer.StatusCode, body, err)
	}
}

// What Slurm or the disk does not do is said, for doctor, and over when it is.
func TestController_FaultsAreSaid(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.slurmFails = 1
	w.second()
	if faults := w.ctl.Status().Faults; len(faults) != 1 || !strings.Contains(faults[0], "slurmrestd does not answer") {
		t.Errorf("with Slurm away: %q", faults)
	}
	w.slurmFails = 0
	w.store.OnWrite = func(string, bool) error { return errors.New("disk full") }
	w.second()
	if faults := w.ctl.Status().Faults; len(faults) != 1 || !strings.Contains(faults[0], "disk full") {
		t.Errorf("with the disk full: %q", faults)
	}
	w.store.OnWrite = nil
	w.second()
	w.second()
	if faults := w.ctl.Status().Faults; len(faults) != 0 {
		t.Errorf("at the end: %q", faults)
	}
	w.settle()
	w.check()
}

func TestQueue_SaysWhyAJobWaits(t *testing.T) {
	w := newWorld(t, 1, 4)
	for _, n := range w.nodes {
		n.main.Options = "allow=user:bob"
	}
	w.jobs[100].Held = true
	w.jobs[101].Het = true
	w.jobs[102].NodeCount = 3
	w.jobs[103].User = "bob"
	w.jobs[103].workS = 1000
	for range 4 {
		w.second()
	}
	rows, err := w.ctl.Queue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]string{
		100: "suits none of 2 slots; of the last: main job", 101: "it is heterogeneous", 102: "it asks for 3 nodes", 103: "",
	}
	for _, r := range rows {
		if !strings.Contains(r.Reason, want[r.JobID]) || want[r.JobID] == "" && r.State != "running" && r.State != "attached" {
			t.Errorf("job %d is %s: %q, want %q", r.JobID, r.State, r.Reason, want[r.JobID])
		}
	}
}
