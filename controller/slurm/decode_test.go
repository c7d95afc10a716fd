package slurm

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill/test/golden"
)

func decodeFile[R any](t *testing.T, path, list string) []R {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []R
	var problems []problem
	err = walk(newDecoder(bytes.NewReader(text)), map[string]func(*decoder) error{list: func(dec *decoder) error {
		var r R
		err := dec.Decode(&r)
		out = append(out, r)
		return err
	}}, &problems)
	if err != nil || len(problems) > 0 {
		t.Fatalf("%s: %v %v", path, err, problems)
	}
	return out
}

// The golden files hold every release's answer in our words; a difference
// between releases of one Slurm would show as a difference between files.
func TestDecode_GoldenAnswersOfEveryRelease(t *testing.T) {
	paths, err := filepath.Glob("testdata/slurm-*/*.v00*.json")
	if err != nil || len(paths) < 18 {
		t.Fatalf("%d answers, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			var decoded any
			switch {
			case strings.Contains(path, "/jobs."):
				var jobs []Job
				for _, r := range decodeFile[rawJob](t, path, "jobs") {
					jobs = append(jobs, r.job())
				}
				decoded = jobs
			case strings.Contains(path, "/nodes."):
				var nodes []Node
				for _, r := range decodeFile[rawNode](t, path, "nodes") {
					nodes = append(nodes, r.node())
				}
				decoded = nodes
			case strings.Contains(path, "/jobs-state."), strings.Contains(path, "/partitions."):
				return // client_test.go
			default:
				decodeFile[json.RawMessage](t, path, "pings")
				return
			}
			got, err := json.MarshalIndent(decoded, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, strings.TrimSuffix(path, ".json")+".golden", string(got)+"\n")
		})
	}
}

func TestNumber(t *testing.T) {
	const most = int64(math.MaxInt64)
	for text, want := range map[string]number{
		`4294901759`: {set: true, n: 4294901759}, `null`: {}, `""`: {}, `"N/A"`: {}, `"12"`: {set: true, n: 12}, `1.5`: {set: true, n: 1},
		`"INFINITE"`: {infinite: true}, `"UNLIMITED"`: {infinite: true}, `18446744073709551614`: {set: true, n: most}, `-1e99`: {set: true, n: -most - 1},
		`{"set":true,"infinite":false,"number":18446744073709551614}`: {set: true, n: most},
		`{"set":false,"infinite":true,"number":0}`:                    {infinite: true},
		`{"set":true,"number":2.0}`:                                   {set: true, n: 2},
	} {
		var got number
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{`true`, `[1]`, `{"number":"x"}`} {
		var got number
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s = %+v, want an error", text, got)
		}
	}
}

func TestDecodeState_BaseAndFlags(t *testing.T) {
	for text, want := range map[string]jobState{
		`"PENDING"`: {base: "PENDING"}, `["PENDING","REQUEUE_HOLD"]`: {base: "PENDING", held: true}, `"REQUEUE_HOLD"`: {base: "PENDING", held: true},
		`"SPECIAL_EXIT"`: {base: "PENDING", held: true}, `"COMPLETING"`: {base: "COMPLETING", completing: true},
		`["COMPLETED","COMPLETING"]`: {base: "COMPLETED", completing: true}, `"CONFIGURING"`: {base: "RUNNING"},
		`["RUNNING","CONFIGURING"]`: {base: "RUNNING"}, `null`: {base: "UNKNOWN"}, `"NEW_WORD"`: {base: "NEW_WORD"}, `"REQUEUED"`: {base: "PENDING"},
	} {
		var w words
		if err := json.Unmarshal([]byte(text), &w); err != nil {
			t.Fatal(err)
		}
		if got := decodeState(w); got != want {
			t.Errorf("%s = %+v, want %+v", text, got, want)
		}
	}
}

func TestExitCode_OfBothForms(t *testing.T) {
	for text, want := range map[string]exitCode{
		`0`: {}, `512`: {code: 2}, `15`: {signal: 15}, `null`: {}, `50944`: {code: 199},
		`{"status":["ERROR"],"return_code":{"set":true,"number":2},"signal":{"id":{"set":false,"number":0}}}`: {code: 2},
		`{"return_code":{"set":true,"number":0},"signal":{"signal_id":9}}`:                                    {signal: 9},
	} {
		var got exitCode
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestParseMem(t *testing.T) {
	for text, want := range map[string]int64{"4000M": 4000 << 20, "2G": 2 << 30, "1.50T": 3 << 39, "7": 7 << 20, "": 0, "M": 0, "x": 0, "9e99G": 0, "-1M": 0, "NaN": 0} {
		if got := parseMem(text); got != want {
			t.Errorf("parseMem(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestNote_KeepsTheSitesWordsAndItself(t *testing.T) {
	n := note{gpus: "gres:gpu:2,gres:gpu:a100:1", noRequeue: true, pin: "n0", required: "n[0-1],x=; y", others: []string{"ticket", "42"}}
	text := n.String()
	if want := "ticket 42 pipefill:gpus=gres:gpu:2,gres:gpu:a100:1;norequeue;pin=n0;req=n[0-1],x%3D%3B%20y"; text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if diff := cmp.Diff(n, parseNote(text), cmp.AllowUnexported(note{})); diff != "" {
		t.Error(diff)
	}
	if got := (note{others: []string{"a"}}).String(); got != "a" {
		t.Errorf("an empty note is written as %q", got)
	}
}

func TestFirstIndices(t *testing.T) {
	for list, want := range map[string][]int64{"3,5-9": {3, 5, 6}, "0-10:4": {0, 4, 8}, "7": {7}, "1-2,...": {1, 2}, "x": nil, "": nil, "5-1": nil, "1:0": nil} {
		if got := firstIndices(list, 3); cmp.Diff(want, got) != "" {
			t.Errorf("%q = %v, want %v", list, got, want)
		}
	}
	if got := firstIndices("1-4", -1); got != nil {
		t.Errorf("no room gives %v", got)
	}
}

func FuzzNumber(f *testing.F) {
	for _, s := range []string{`1`, `null`, `"INFINITE"`, `{"set":true,"number":18446744073709551614}`, `1e999`, `[`, `{"number":-}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var v number
		if v.UnmarshalJSON([]byte(text)) == nil && v.ms() < 0 {
			t.Errorf("%q: %d ms", text, v.ms())
		}
		var e exitCode
		if e.UnmarshalJSON([]byte(text)) == nil && (e.code < 0 || e.code > 255 || e.signal < 0 || e.signal > 127) {
			t.Errorf("%q: exit %+v", text, e)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(`["PENDING","REQUEUE_HOLD"]`)
	f.Add(`"a,b"`)
	f.Fuzz(func(t *testing.T, text string) {
		var w words
		if w.UnmarshalJSON([]byte(text)) == nil && decodeState(w).base == "" {
			t.Errorf("%q: no state", text)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(200, `{"errors":[],"jobs":[{"job_id":1,"job_state":["RUNNING"]}]}`)
	f.Add(500, `Authentication failure`)
	f.Add(200, `{"errors":["x"],"jobs":null}`)
	f.Fuzz(func(t *testing.T, status int, text string) {
		n := 0
		err := readAnswer(&http.Response{StatusCode: status, Body: readCloser{strings.NewReader(text)}}, map[string]func(*decoder) error{"jobs": func(dec *decoder) error {
			var r rawJob
			err := dec.Decode(&r)
			if err == nil {
				n++
				_ = r.job()
			}
			return err
		}})
		if err == nil && status/100 != 2 {
			t.Errorf("status %d is no error", status)
		}
		if status/100 != 2 && n > 0 {
			t.Errorf("status %d: %d jobs taken", status, n)
		}
	})
}

func FuzzNote(f *testing.F) {
	f.Add("x pipefill:pin=n0;req=n%5B1", "gres:gpu:1")
	f.Fuzz(func(t *testing.T, comment, gpus string) {
		n := parseNote(comment)
		n.gpus = gpus
		again := parseNote(n.String())
		if diff := cmp.Diff(n, again, cmp.AllowUnexported(note{})); diff != "" {
			t.Errorf("%q: %s", n.String(), diff)
		}
	})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// By when running main jobs end is kept, where a limit ends them.
func TestListing_Ends(t *testing.T) {
	var l Listing
	for _, text := range []string{
		`{"job_id":7,"job_state":"RUNNING","partition":"main","time_limit":60,"end_time":1000}`,
		`{"job_id":8,"job_state":"RUNNING","partition":"main","time_limit":"INFINITE","end_time":1000}`,
		`{"job_id":9,"job_state":["RUNNING"],"partition":"main","time_limit":{"set":true,"infinite":true,"number":0},"end_time":{"set":true,"number":1000}}`,
		`{"job_id":10,"job_state":["RUNNING"],"partition":"main","time_limit":{"set":true,"infinite":false,"number":5},"end_time":{"set":true,"number":2000}}`,
		`{"job_id":11,"job_state":"RUNNING","partition":"pipefill","time_limit":60,"end_time":1000}`,
		`{"job_id":12,"job_state":"PENDING","partition":"main","time_limit":60,"end_time":1000}`,
	} {
		var raw rawJob
		if err := json.Unmarshal([]byte(text), &raw); err != nil {
			t.Fatal(text, err)
		}
		l.take(&raw, []string{"pipefill"})
	}
	if d := cmp.Diff(map[int64]int64{7: 1_000_000, 10: 2_000_000}, l.Ends); d != "" {
		t.Error(d)
	}
}
