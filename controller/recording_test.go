package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
)

// recordingNode is a node that syncs, and answers as pipefilld does.
type recordingNode struct {
	desk *desk
	sync api.NodeSync
	mute bool
	asks []api.RecordingAsk // that came
	stop func()
}

func (n *recordingNode) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	n.stop = func() { cancel(); group.Wait() }
	t.Cleanup(n.stop)
	n.sync.Version, n.sync.WaitMs, n.sync.Run = "x", 50, 1
	heard := make(chan struct{})
	group.Go(func() {
		answered := map[int64]bool{}
		for first := true; ctx.Err() == nil; first = false {
			n.sync.Seq++
			orders, err := n.desk.controller.Sync(ctx, n.sync)
			if err != nil && ctx.Err() == nil {
				t.Errorf("sync of %s: %v", n.sync.Node, err)
			}
			if first {
				close(heard)
			}
			n.sync.OrdersSeen = orders.Serial
			for _, ask := range orders.Recordings {
				if answered[ask.ID] || n.mute {
					continue
				}
				answered[ask.ID] = true
				n.asks = append(n.asks, ask)
				body, _ := json.Marshal(api.Recording{ID: ask.ID, Node: n.sync.Node, Job: ask.Job, Devices: []api.RecordedDevice{{Device: "cpu:0", Lost: 3}}})
				if w := n.desk.ask(0, http.MethodPost, "/v1/node/recording", string(body)); w.Code != http.StatusOK { //nolint:contextcheck // a request of its own
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
		}
	})
	<-heard
}

// recorded is a desk with main job 41 of ann: recorded on r0 and r1, an earlier
// attempt of it on r2; and job 42, which is not.
func recorded(t *testing.T) (d *desk, nodes []*recordingNode) {
	t.Helper()
	d = newDesk(t)
	now := pipefill.JobKey{Cluster: "test", JobID: 41, Restarts: 1}
	before := pipefill.JobKey{Cluster: "test", JobID: 41}
	for i, key := range []pipefill.JobKey{now, now, before} {
		n := &recordingNode{desk: d, sync: api.NodeSync{Node: fmt.Sprintf("r%d", i), Recordings: []api.RecordingOf{{Job: key, UID: 1000}}}}
		if i == 2 {
			n.sync.Mains = []api.MainDevice{{Job: pipefill.JobKey{Cluster: "test", JobID: 42}, UID: 1000, Device: "cpu:0"}}
		}
		nodes = append(nodes, n)
	}
	return d, nodes
}

func lines(t *testing.T, w *httptest.ResponseRecorder) (parts []api.Recording, end *api.RecordingEnd) {
	t.Helper()
	for line := range strings.Lines(w.Body.String()) {
		var part api.RecordingPart
		if err := json.Unmarshal([]byte(line), &part); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if part.Part != nil {
			parts = append(parts, *part.Part)
		}
		if part.End != nil {
			end = part.End
		}
	}
	return parts, end
}

func TestServer_Recording(t *testing.T) {
	d, nodes := recorded(t)
	for _, n := range nodes {
		n.run(t)
	}
	for _, uid := range []uint32{1000, 1002, 0} { // its owner, an operator, root
		w := d.ask(uid, http.MethodGet, "/v1/mains/41/recording?last_ms=500", "")
		parts, end := lines(t, w)
		if w.Code != http.StatusOK || len(parts) != 2 || parts[0].Node != "r0" || parts[1].Node != "r1" || parts[0].Devices[0].Lost != 3 {
			t.Errorf("%s: %d %s", users[uid], w.Code, w.Body)
		}
		if end == nil || end.Nodes != 2 || len(end.Missing) != 0 {
			t.Errorf("%s: %+v", users[uid], end)
		}
	}
	if parts, _ := lines(t, d.ask(1000, http.MethodGet, "/v1/mains/41/recording?nodes=r%5B1%5D", "")); len(parts) != 1 || parts[0].Node != "r1" {
		t.Errorf("of r[1]: %+v", parts)
	}
	for _, n := range nodes {
		n.stop()
	}
	if ask := nodes[0].asks[0]; ask.LastMs != 500 || ask.Job.Restarts != 1 || ask.ID == 0 {
		t.Errorf("asked %+v", ask)
	}
	if len(nodes[2].asks) != 0 {
		t.Error("the earlier attempt's node was asked")
	}
	if d.controller.mu.Lock(); len(d.controller.recordings.open) != 0 || len(d.controller.nodes["r0"].asks) != 0 {
		t.Errorf("left open: %v, %v", d.controller.recordings.open, d.controller.nodes["r0"].asks)
	}
	d.controller.mu.Unlock()
}

func TestServer_RecordingRefused(t *testing.T) {
	d, nodes := recorded(t)
	for _, n := range nodes {
		n.run(t)
	}
	for name, c := range map[string]struct {
		uid  uint32
		uri  string
		code int
		says string
	}{
		"an unknown job":     {1000, "/v1/mains/4711/recording", 404, "main job 4711: none runs with pipefill"},
		"another user's":     {1001, "/v1/mains/41/recording", 403, "another user's"},
		"not recorded":       {1000, "/v1/mains/42/recording", 409, "recording: 1MiB"},
		"not even recorded":  {1001, "/v1/mains/42/recording", 403, "another user's"},
		"no number":          {1000, "/v1/mains/x/recording", 400, "no job number"},
		"no time":            {1000, "/v1/mains/41/recording?last_ms=-1", 400, "last_ms"},
		"a time for ever":    {1000, "/v1/mains/41/recording?last_ms=9223372036854775807", 400, "last_ms"},
		"no hostlist":        {1000, "/v1/mains/41/recording?nodes=r%5B", 400, ""},
		"too many hosts":     {1000, "/v1/mains/41/recording?nodes=r%5B0-99999999%5D", 400, ""},
		"a long hostlist":    {1000, "/v1/mains/41/recording?nodes=" + strings.Repeat("r,", 3000), 400, "longer than"},
		"a node without one": {1000, "/v1/mains/41/recording?nodes=r2", 404, "r2"},
	} {
		w := d.ask(c.uid, http.MethodGet, c.uri, "")
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for name, c := range map[string]struct {
		uid  uint32
		body string
		code int
	}{
		"not root":            {1000, `{"id": 1, "node": "r0"}`, 403},
		"no JSON":             {0, `hello`, 400},
		"too long":            {0, `{"id": 1, "node": "` + strings.Repeat("x", mostRecordingBytes) + `"}`, 400},
		"nobody asked for it": {0, `{"id": 1, "node": "r0"}`, 200},
	} {
		if w := d.ask(c.uid, http.MethodPost, "/v1/node/recording", c.body); w.Code != c.code {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for range recordingsAtOnce {
		d.controller.recordings.slots <- struct{}{}
	}
	if w := d.ask(1000, http.MethodGet, "/v1/mains/41/recording", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a third at once: %d %s", w.Code, w.Body)
	}
}

// A node that does not answer is named, and keeps nobody for ever.
func TestServer_RecordingWithoutANode(t *testing.T) {
	d, nodes := recorded(t)
	nodes[1].mute = true
	nodes[0].run(t)
	nodes[1].run(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	uri := "/v1/mains/41/recording"
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, uri, http.NoBody)
	r.Header.Set("Authorization", "Munge "+fakeMunge{}.sign(1000, api.Digest(http.MethodGet, uri, nil)))
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	parts, end := lines(t, w)
	if len(parts) != 1 || end == nil || len(end.Missing) != 1 || end.Missing[0] != "r1" {
		t.Errorf("%+v, %+v", parts, end)
	}
}
