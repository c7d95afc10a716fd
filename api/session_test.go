package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pipefill/api"
)

// nodeMunge reads back what the server wrote.
type nodeMunge struct{ signer }

func (*nodeMunge) Verify(credential string) (payload []byte, uid, gid uint32, err error) {
	return []byte(credential), 0, 0, nil
}

// A node daemon signs by munge until it has a session, with the session until that
// is not known any more or over, and never fails for it.
func TestNodeClient_Session(t *testing.T) {
	var session api.Session
	var seen []string
	fresh := func(life time.Duration) {
		t.Helper()
		var err error
		if session, err = api.NewSession(life); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id, n, mac, in := api.ParseSession(r.Header.Get("Authorization"))
		switch {
		case !in:
			seen = append(seen, "munge "+r.Header.Get(api.SessionHeader))
			if r.Header.Get(api.SessionHeader) == api.SessionWanted {
				text, _ := json.Marshal(session)
				w.Header().Set(api.SessionHeader, string(text))
			}
		case id == session.ID && session.Signed(n, api.Digest(r.Method, r.RequestURI, body), mac):
			seen = append(seen, "session")
		default:
			seen = append(seen, "refused")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set(api.VersionHeader, api.Version)
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(server.Close)
	c, err := api.NewNodeClient(server.URL, &nodeMunge{})
	if err != nil {
		t.Fatal(err)
	}
	sync := func(want string) {
		t.Helper()
		seen = nil
		if _, err := c.Sync(t.Context(), api.NodeSync{Node: "n0"}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(seen, ", "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	fresh(time.Hour)
	sync("munge wanted")
	sync("session")
	sync("session")
	if _, err := c.Ping(t.Context()); err != nil || seen[len(seen)-1] != "munge " {
		t.Errorf("a ping: %v, %v", seen, err)
	}
	fresh(time.Hour) // another controller
	sync("refused, munge wanted")
	sync("session")
	session.ID, session.Key = "", nil // one of an earlier release, say
	sync("refused, munge wanted")
	sync("munge wanted")
}
