package timeline_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
	"pipefill/timeline"
)

// parts are what two nodes recorded, each by its own clock.
func parts(t *testing.T) []api.Recording {
	t.Helper()
	text, err := os.ReadFile("testdata/recording.json")
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var all []api.Recording
	if err := decoder.Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFromRecordings(t *testing.T) {
	tl, traces, err := timeline.FromRecordings(parts(t))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "recording", write(t, tl))
	if len(traces.Ranks) != 2 || len(traces.Fills) != 1 || len(traces.Fills[0].Readings) != 6 {
		t.Fatalf("%+v", traces)
	}
	// CPU time never falls, and is that of both chunks with what ran late.
	last := int64(0)
	for _, r := range traces.Fills[0].Readings {
		if r.CPUNs < last {
			t.Errorf("%+v", traces.Fills[0].Readings)
		}
		last = r.CPUNs
	}
	if last != 1_500_000+600_000+800_000 {
		t.Errorf("%d ns of CPU time", last)
	}
}

func TestFromRecordings_Nothing(t *testing.T) {
	_, _, err := timeline.FromRecordings([]api.Recording{{Node: "n0", Devices: []api.RecordedDevice{{Device: "cpu:0"}}}})
	if pipefill.ErrorCode(err) != pipefill.CodeNotFound {
		t.Error(err)
	}
}

// Where nobody said what was computed, a phase does not hide that something was.
func TestFromRecordings_APhaseAlone(t *testing.T) {
	tl, _, err := timeline.FromRecordings([]api.Recording{{Node: "n0", Devices: []api.RecordedDevice{{Device: "cpu:0", Stage: 0, Events: []api.RecordedEvent{
		{Iteration: 1, Kind: "other", Index: 255, BeginNs: 20, EndNs: 60},
		{Iteration: 1, Kind: "evaluation", Index: -1, BeginNs: 20, EndNs: 60, Flags: 16},
		{Iteration: 1, BeginNs: 10, EndNs: 90, Flags: 8},
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range tl.Devices[0].Main {
		got = append(got, fmt.Sprintf("%s %d-%d", s.Name, s.BeginNs, s.EndNs))
	}
	if strings.Join(got, ", ") != "compute 10-20, evaluation 20-60, compute 60-90" {
		t.Error(got)
	}
}

// A program that does not say its stages has its devices by node.
func TestFromRecordings_WithoutStages(t *testing.T) {
	event := []api.RecordedEvent{{Iteration: 1, BeginNs: 1, EndNs: 9, Flags: 8}}
	tl, _, err := timeline.FromRecordings([]api.Recording{
		{Node: "n10", Devices: []api.RecordedDevice{{Device: "cpu:0", Stage: -1, Events: event}}},
		{Node: "n9", Devices: []api.RecordedDevice{{Device: "cpu:1", Stage: -1, Events: event}, {Device: "cpu:0", Stage: -1, Events: event}}},
	})
	if err != nil || len(tl.Devices) != 3 {
		t.Fatalf("%+v, %v", tl, err)
	}
	for i, want := range []string{"n9/cpu:1", "n9/cpu:0", "n10/cpu:0"} {
		if d := tl.Devices[i]; d.ID != want || d.Name != want {
			t.Errorf("device %d is %s, %q, want %s", i, d.ID, d.Name, want)
		}
	}
}
