package api_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
)

type signer struct {
	signed []string
	err    error
}

func (s *signer) Sign(payload []byte) (string, error) {
	s.signed = append(s.signed, string(payload))
	return "MUNGE:x:", s.err
}

func serve(t *testing.T, h http.HandlerFunc) (*api.Client, *signer) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	s := &signer{}
	c, err := api.NewClient(server.URL, s)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestClient_SignsWhatItSends(t *testing.T) {
	var digest string
	c, s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		digest = api.Digest(r.Method, r.RequestURI, body)
		w.Header().Set(api.VersionHeader, api.Version)
		if r.Header.Get("Authorization") != "Munge MUNGE:x:" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	if err := c.Priority(t.Context(), 7, 3, ""); err != nil {
		t.Fatal(err)
	}
	if len(s.signed) != 1 || s.signed[0] != digest {
		t.Errorf("signed %q, the server saw %q", s.signed, digest)
	}
	s.err = errors.New("munged is away")
	if err := c.Hold(t.Context(), 7, ""); !errors.Is(err, s.err) {
		t.Errorf("error %v, want the signer's", err)
	}
}

func TestClient_Failures(t *testing.T) {
	cases := []struct {
		name, body, version string
		status              int
		code                pipefill.Code
		contains            string
	}{
		{"an error of ours travels whole", `{"code":"conflict","message":"job 7 runs"}`, "1", 409, pipefill.CodeConflict, "job 7 runs"},
		{"an unknown caller", "", "", 401, pipefill.CodeDenied, "munge must run"},
		{"a status without a body", "oops", "1", 503, pipefill.CodeUnavailable, "answered 503"},
		{"another version", `[]`, "9", 200, pipefill.CodeUnavailable, `version "9"`},
		{"an answer that is not JSON", `<html>`, "1", 200, pipefill.CodeUnavailable, "not understood"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set(api.VersionHeader, tc.version)
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			_, err := c.Slots(t.Context())
			if pipefill.ErrorCode(err) != tc.code || !strings.Contains(err.Error(), tc.contains) {
				t.Errorf("error %v with code %s, want %s and %q", err, pipefill.ErrorCode(err), tc.code, tc.contains)
			}
		})
	}
}

func TestClient_UnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctld.sock")
	c, err := api.NewClient("unix:"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ping(t.Context()); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("nobody listens: %v, want unavailable", err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.VersionHeader, api.Version)
		_ = json.NewEncoder(w).Encode([]api.FillJob{{JobID: 3, User: r.URL.Query().Get("user")}})
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	jobs, err := c.Jobs(t.Context(), api.JobFilter{User: "ann"})
	if err != nil || len(jobs) != 1 || jobs[0].User != "ann" {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
}

func TestNewClient_Refuses(t *testing.T) {
	for _, endpoint := range []string{"", "unix:relative", "https://x", "http://", "http://x/path", "localhost:1"} {
		if _, err := api.NewClient(endpoint, &signer{}); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%q: %v, want invalid", endpoint, err)
		}
	}
	if _, err := api.NewClient("http://x:1", nil); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
		t.Errorf("TCP without a signer: %v, want invalid", err)
	}
}

func TestClient_FollowsTheStandby(t *testing.T) {
	var servers []*httptest.Server
	asked := []int{0, 0}
	for i := range 2 {
		servers = append(servers, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked[i]++
			w.Header().Set(api.VersionHeader, api.Version)
			_, _ = io.WriteString(w, "[]")
		})))
		t.Cleanup(servers[i].Close)
	}
	c, err := api.NewClient(servers[0].URL+","+servers[1].URL, &signer{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(first, second int) {
		t.Helper()
		if _, err := c.Slots(t.Context()); err != nil || asked[0] != first || asked[1] != second {
			t.Errorf("asked %v times, want %d and %d, %v", asked, first, second, err)
		}
	}
	ask(1, 0)
	servers[0].Close()
	ask(1, 1)
	ask(1, 2)
	servers[1].Close()
	if _, err := c.Slots(t.Context()); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("none is left: %v", err)
	}
	if _, err := api.NewClient(servers[0].URL+",nonsense", &signer{}); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
		t.Errorf("%v", err)
	}
}
