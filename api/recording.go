package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"pipefill"
)

// RecordingOf is a main job that a node has a recording of, running or ended.
type RecordingOf struct {
	Job pipefill.JobKey `json:"job"`
	UID uint32          `json:"uid"`
}

// RecordingAsk asks a node for its part of a main job's recording.
type RecordingAsk struct {
	ID     int64           `json:"id"`
	Job    pipefill.JobKey `json:"job"`
	LastMs int64           `json:"last_ms"` // only what ended so long before now, or before the job's end; 0: all
}

// Recording is a node's part of a main job's recording. Times are ns of the
// node's CLOCK_MONOTONIC; with EpochNs added, since 1970.
type Recording struct {
	ID      int64            `json:"id"` // of the RecordingAsk
	Node    string           `json:"node"`
	Job     pipefill.JobKey  `json:"job"`
	EpochNs int64            `json:"epoch_ns"`
	Devices []RecordedDevice `json:"devices"`
}

// RecordedDevice is what was recorded of one device, oldest first.
type RecordedDevice struct {
	Device pipefill.DeviceID `json:"device"`
	Stage  int               `json:"stage"`         // of the pipeline; -1: the program did not say
	Lost   int64             `json:"lost"`          // records that were overwritten before they were read
	Cut    bool              `json:"cut,omitempty"` // there were older ones than an answer takes
	Events []RecordedEvent   `json:"events"`
	Chunks []RecordedChunk   `json:"chunks"`
}

// RecordedEvent is a bubble, an iteration or work that a main job announced
// (docs/traces.md): Flags as PF_EVENT_* in spank/page.h.
type RecordedEvent struct {
	Iteration  int64  `json:"iteration"`
	Index      int64  `json:"index"` // of work: the micro-batch, -1: none
	Kind       string `json:"kind"`  // a bubble's kind; of work: forward, backward, step
	BeginNs    int64  `json:"begin_ns"`
	EndNs      int64  `json:"end_ns"`
	DeadlineNs int64  `json:"deadline_ns"` // 0: not offered
	Flags      uint32 `json:"flags"`
}

// RecordedChunk is one opening in which a fill job was let run.
type RecordedChunk struct {
	Job     int64         `json:"job"`
	Mode    pipefill.Mode `json:"mode"`
	BeginNs int64         `json:"begin_ns"` // let run
	ShutNs  int64         `json:"shut_ns"`  // the gate was shut, or its stop began ahead of that
	EndNs   int64         `json:"end_ns"`   // verified stopped
	CPUNs   int64         `json:"cpu_ns"`   // until it was shut; 0 also where that cannot be told
	LateNs  int64         `json:"late_ns"`  // charged after that: on cores CPU time, else until it had stopped
	Overrun bool          `json:"overrun"`  // counted as one
}

// RecordingEnd is the last line of a recording that is streamed.
type RecordingEnd struct {
	Nodes   int      `json:"nodes"`   // that answered
	Missing []string `json:"missing"` // those that did not in time
}

// RecordingPart is a line of the stream: one of the two.
type RecordingPart struct {
	Part *Recording    `json:"part,omitempty"`
	End  *RecordingEnd `json:"end,omitempty"`
}

// RecordingQuery narrows a recording.
type RecordingQuery struct {
	LastMs int64  // 0: all
	Nodes  string // a Slurm hostlist; "": all
}

// SendRecording is a node's answer to a RecordingAsk.
func (c *Client) SendRecording(ctx context.Context, r Recording) error {
	return c.call(ctx, http.MethodPost, "/v1/node/recording", r, nil)
}

// Recording calls each for every node's part of a main job's recording: its
// owner's and operators' to see. One that breaks off is an error.
func (c *Client) Recording(ctx context.Context, job int64, q RecordingQuery, each func(Recording) error) (RecordingEnd, error) {
	values := url.Values{}
	if q.LastMs > 0 {
		values.Set("last_ms", strconv.FormatInt(q.LastMs, 10))
	}
	if q.Nodes != "" {
		values.Set("nodes", q.Nodes)
	}
	body, err := c.stream(ctx, withQuery("/v1/mains/"+strconv.FormatInt(job, 10)+"/recording", values))
	if err != nil {
		return RecordingEnd{}, err
	}
	defer func() { _ = body.Close() }() // read to its end or given up
	for lines := json.NewDecoder(body); ; {
		var line RecordingPart
		err := lines.Decode(&line)
		switch {
		case err != nil:
			return RecordingEnd{}, pipefill.Errorf(pipefill.CodeUnavailable, "the recording of main job %d broke off: %w", job, err)
		case line.End != nil:
			return *line.End, nil
		case line.Part != nil:
			if err := each(*line.Part); err != nil {
				return RecordingEnd{}, err
			}
		}
	}
}

// stream asks for an answer that is read as it comes, of the first controller
// that there is. The caller closes it.
func (c *Client) stream(ctx context.Context, path string) (io.ReadCloser, error) {
	body, err := c.streamOf(ctx, path)
	if pipefill.ErrorCode(err) == pipefill.CodeUnavailable && c.next != nil && ctx.Err() == nil {
		if other, otherErr := c.next.stream(ctx, path); pipefill.ErrorCode(otherErr) != pipefill.CodeUnavailable {
			return other, otherErr
		}
	}
	return body, err
}

func (c *Client) streamOf(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK && resp.Header.Get(VersionHeader) == Version {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }() // given up
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, pipefill.Errorf(pipefill.CodeUnavailable, "the answer of pipefillctld broke off: %w", err)
	}
	return nil, decode(resp, answer, nil)
}
