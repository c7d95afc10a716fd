package timeline_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	goldenfile "pipefill/test/golden"
	"pipefill/timeline"
)

const (
	rank0 = `{"type": "run", "rank": 0, "stages": 2, "device": "cpu:0"}
{"type":"instruction","iteration":3,"op":"forward","micro_batch":0,"begin_ns":1000,"end_ns":5000}
{"type":"instruction","iteration":3,"op":"recv_gradient","micro_batch":0,"begin_ns":5000,"end_ns":9000}
{"type":"wait","iteration":3,"index":0,"kind":"fwd-bwd","begin_ns":5000,"end_ns":8000}
{"type":"instruction","iteration":3,"op":"step","micro_batch":-1,"begin_ns":9000,"end_ns":9500}
{"type":"iteration","iteration":3,"begin_ns":1000,"end_ns":9500}
`
	events0 = `{"job": 7, "iteration": 3, "index": 0, "kind": "fwd-bwd", "begin_ns": 5100, "end_ns": 7900, "deadline_ns": 7000, "flags": 1}
{"job": 7, "iteration": 3, "begin_ns": 1000, "end_ns": 9500, "flags": 8}
`
	// Its rank wrote nothing: the announced waits stand in.
	events1 = `{"job": 7, "iteration": 3, "index": 0, "kind": "fill-drain", "begin_ns": 2000, "end_ns": 4000, "deadline_ns": 0, "flags": 2}
{"job": 7, "iteration": 4, "index": 0, "kind": "fill-drain", "begin_ns": 6000, "end_ns": 8000, "deadline_ns": 9000, "flags": 1}
`
	// Two openings of which the second has no end yet, and a supervisor that went on.
	readings0 = `{"assignment": 4, "job": 9, "device": "cpu:0", "mode": "signal"}
{"at_ns": 5200, "cpu_ns": 1000, "open": true}
{"at_ns": 6900, "cpu_ns": 2500, "open": false}
{"at_ns": 7100, "cpu_ns": 2600, "open": false}
{"assignment": 4, "job": 9, "device": "cpu:0", "mode": "signal"}
{"at_ns": 8200, "cpu_ns": 2600, "open": true}
`
)

// golden holds got against testdata/<name>.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	goldenfile.Check(t, filepath.Join("testdata", name+".golden"), got)
}

func traces(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t *testing.T, tl timeline.Timeline) string {
	t.Helper()
	var out bytes.Buffer
	if err := tl.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(out.Bytes()) {
		t.Fatalf("no JSON: %s", out.String())
	}
	return out.String()
}

func TestRead(t *testing.T) {
	dir := traces(t, map[string]string{
		"ranks/rank-0.jsonl": rank0, "n0/events-cpu:0.jsonl": events0, "n1/events-cpu:1.jsonl": events1, "n0/readings-4.jsonl": readings0, "n0/opens-4.jsonl": "{}\n",
	})
	tl, err := timeline.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "read", write(t, tl))
	clipped := write(t, tl.Clip(4500, 8000))
	if strings.Contains(clipped, `"forward"`) || !strings.Contains(clipped, `"fwd-bwd"`) || strings.Contains(clipped, `"step"`) {
		t.Error(clipped)
	}
}

func TestRead_Mistakes(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		says  string
		code  pipefill.Code
	}{
		"nothing":             {nil, "no raw traces", pipefill.CodeNotFound},
		"no JSON":             {map[string]string{"events-cpu:0.jsonl": "{}\nhello\n"}, "events-cpu:0.jsonl:2:", pipefill.CodeInvalid},
		"not a rank's":        {map[string]string{"rank-0.jsonl": events0}, "not of type run", pipefill.CodeInvalid},
		"a line without end":  {map[string]string{"rank-0.jsonl": strings.Repeat("x", 2<<20)}, "rank-0.jsonl: ", pipefill.CodeInvalid},
		"another thing there": {map[string]string{"report.json": "{}"}, "no raw traces", pipefill.CodeNotFound},
	} {
		_, err := timeline.Read(traces(t, c.files))
		if err == nil || !strings.Contains(err.Error(), c.says) || pipefill.ErrorCode(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := timeline.Read("/nonexistent"); pipefill.ErrorCode(err) != pipefill.CodeNotFound {
		t.Error(err)
	}
}

// A run that is being written ends in half a line.
func TestRead_ALineCutShort(t *testing.T) {
	tl, err := timeline.Read(traces(t, map[string]string{"events-cpu:1.jsonl": events1 + `{"job": 7, "iter`}))
	if err != nil || len(tl.Devices) != 1 || len(tl.Devices[0].Waits) != 2 {
		t.Errorf("%+v, %v", tl, err)
	}
}

func TestWriteJSON_Nothing(t *testing.T) {
	if got := write(t, timeline.Timeline{}); !strings.Contains(got, "traceEvents") {
		t.Error(got)
	}
}
