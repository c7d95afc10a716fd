package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/hostlist"
)

// Recordings lie on the nodes, and the nodes call: who asks for one waits here
// until each node that has a part of it has sent it, and gets them as they come.
const (
	// At most so many are asked for at once, and of each so many nodes: what is in
	// memory at a time is the answers of eight nodes, of 15 MB at most.
	recordingsAtOnce      = 2
	recordingNodesAtOnce  = 4
	recordingWait         = 10 * time.Second // for a node
	recordingLongest      = 5 * time.Minute  // for all of it: who reads slowly keeps others waiting
	mostRecordingBytes    = 32 << 20
	recordingLongestMs    = 366 * dayMs
	recordingNodesListMax = 4096 // bytes of nodes=
)

// recordingAnswer is where a node's part is waited for.
type recordingAnswer struct {
	node string
	ask  api.RecordingAsk
	got  chan json.RawMessage // one
}

// recordings are the questions that are open, under Controller.mu.
type recordings struct {
	lastID int64
	open   map[int64]*recordingAnswer
	slots  chan struct{}
}

func newRecordings() recordings {
	return recordings{open: map[int64]*recordingAnswer{}, slots: make(chan struct{}, recordingsAtOnce)}
}

// recording streams a main job's recording, a node a line.
func (s *Server) recording(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeInvalid, "trace: %q is no job number", r.PathValue("id")))
		return
	}
	lastMs, only, err := recordingQuery(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	c := s.controller
	job, nodes, err := c.recordedOn(callerOf(r), id, only)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	select {
	case c.recordings.slots <- struct{}{}:
		defer func() { <-c.recordings.slots }()
	default:
		s.fail(w, r, pipefill.Errorf(pipefill.CodeUnavailable, "trace: %d recordings are being fetched already: try again in a minute", recordingsAtOnce))
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	end := api.RecordingEnd{Missing: []string{}}
	lines, flusher := json.NewEncoder(w), http.NewResponseController(w)
	ctx, cancel := context.WithTimeout(r.Context(), recordingLongest)
	defer cancel()
	_ = flusher.SetWriteDeadline(c.now().Add(recordingLongest)) // a recorder in a test cannot
	c.fetchRecording(ctx, api.RecordingAsk{Job: job, LastMs: lastMs}, nodes, func(node string, part json.RawMessage) {
		if part == nil {
			end.Missing = append(end.Missing, node)
			return
		}
		end.Nodes++
		if err := lines.Encode(struct {
			Part json.RawMessage `json:"part"`
		}{part}); err != nil {
			s.log.DebugContext(ctx, "the caller went away", "err", err)
		}
		_ = flusher.Flush()
	})
	_ = lines.Encode(api.RecordingPart{End: &end}) // who went away sees none
}

func recordingQuery(r *http.Request) (lastMs int64, only []string, err error) {
	q := r.URL.Query()
	if text := q.Get("last_ms"); text != "" {
		if lastMs, err = strconv.ParseInt(text, 10, 64); err != nil || lastMs < 0 || lastMs > recordingLongestMs {
			return 0, nil, pipefill.Errorf(pipefill.CodeInvalid, "trace: last_ms: %q: write milliseconds, 0 for all", text)
		}
	}
	if text := q.Get("nodes"); text != "" {
		if len(text) > recordingNodesListMax {
			return 0, nil, pipefill.Errorf(pipefill.CodeInvalid, "trace: nodes: the list is longer than %d bytes: write it with brackets", recordingNodesListMax)
		}
		if only, err = hostlist.Expand(text); err != nil {
			return 0, nil, err
		}
	}
	return lastMs, only, nil
}

// recordedOn is the newest attempt of a main job that nodes have a recording of,
// and those nodes, by name; why there is none, else.
func (c *Controller) recordedOn(who caller, id int64, only []string) (job pipefill.JobKey, nodes []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, uid := "", uint32(0) // of a node, where it is not recorded
	for name, n := range c.nodes {
		for _, m := range n.said.Mains {
			if m.Job.JobID == id && job.JobID == 0 {
				known, uid = name, m.UID
			}
		}
		for _, rec := range n.said.Recordings {
			if rec.Job.JobID != id {
				continue
			}
			switch {
			case rec.Job == job && rec.UID == uid:
			case job.JobID != 0 && !newer(rec.Job, job):
				continue
			default:
				known, uid, job, nodes = name, rec.UID, rec.Job, nil
			}
			nodes = append(nodes, name)
		}
	}
	slices.Sort(nodes)
	switch {
	case known == "":
		return job, nil, pipefill.Errorf(pipefill.CodeNotFound, "main job %d: none runs with pipefill, and no node has a recording of it; pipefill-cli slots lists them", id)
	case !who.operator && uid != who.uid:
		return job, nil, pipefill.Errorf(pipefill.CodeDenied, "main job %d is another user's: its recording is for its owner and for operators", id)
	case len(nodes) == 0:
		return job, nil, pipefill.Errorf(pipefill.CodeConflict,
			"main job %d is not recorded: write recording: 1MiB into pipefilld.yaml on its nodes (%s, ...), and systemctl reload pipefilld", id, known)
	}
	if only == nil {
		return job, nodes, nil
	}
	for _, name := range only {
		if !slices.Contains(nodes, name) {
			return job, nil, pipefill.Errorf(pipefill.CodeNotFound, "main job %d: node %s has no recording of it; it is on %s", id, name, strings.Join(nodes[:min(len(nodes), 8)], ","))
		}
	}
	return job, only, nil
}

// newer tells whether a is a later attempt of a job number than b.
func newer(a, b pipefill.JobKey) bool {
	return a.SubmitMs > b.SubmitMs || a.SubmitMs == b.SubmitMs && a.Restarts > b.Restarts
}

// fetchRecording asks nodes, some at a time, and calls each for every one, with
// nil where none came.
func (c *Controller) fetchRecording(ctx context.Context, ask api.RecordingAsk, nodes []string, each func(node string, part json.RawMessage)) {
	for len(nodes) > 0 {
		some := nodes[:min(len(nodes), recordingNodesAtOnce)]
		nodes = nodes[len(some):]
		answers := make([]*recordingAnswer, len(some))
		for i, name := range some {
			answers[i] = c.askRecording(name, ask)
		}
		late, cancel := context.WithTimeout(ctx, recordingWait)
		for _, a := range answers {
			select {
			case part := <-a.got:
				each(a.node, part)
			case <-late.Done():
				each(a.node, nil)
			}
			c.dropRecording(a)
		}
		cancel()
	}
}

// askRecording puts a question into a node's orders.
func (c *Controller) askRecording(node string, ask api.RecordingAsk) *recordingAnswer {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Of another run of this daemon none may be meant.
	c.recordings.lastID = max(c.recordings.lastID+1, c.now().UnixNano())
	ask.ID = c.recordings.lastID
	a := &recordingAnswer{node: node, ask: ask, got: make(chan json.RawMessage, 1)}
	c.recordings.open[ask.ID] = a
	if n := c.nodes[node]; n != nil {
		n.asks = append(n.asks, ask)
		n.wake()
	}
	return a
}

func (c *Controller) dropRecording(a *recordingAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.recordings.open, a.ask.ID)
	if n := c.nodes[a.node]; n != nil {
		n.asks = slices.DeleteFunc(n.asks, func(x api.RecordingAsk) bool { return x.ID == a.ask.ID })
	}
}

// nodeRecording takes a node's part in. One that nobody waits for any more is
// done with.
func (s *Server) nodeRecording(w http.ResponseWriter, r *http.Request) {
	if callerOf(r).uid != 0 {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeDenied, "only the node daemon, as root, may send recordings"))
		return
	}
	body := new(bytes.Buffer)
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, mostRecordingBytes)); err != nil {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeInvalid, "a recording has %d bytes at most: %w", mostRecordingBytes, err))
		return
	}
	var head struct {
		ID   int64  `json:"id"`
		Node string `json:"node"`
	}
	if err := json.Unmarshal(body.Bytes(), &head); err != nil {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeInvalid, "the recording is not understood: %w", err))
		return
	}
	s.controller.mu.Lock()
	a := s.controller.recordings.open[head.ID]
	s.controller.mu.Unlock()
	if a != nil && a.node == head.Node {
		select {
		case a.got <- json.RawMessage(body.Bytes()):
		default: // it came twice
		}
	}
	s.answer(w, r, http.StatusOK, struct{}{})
}
