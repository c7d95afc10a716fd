package controller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
)

// profileOf one op of so many ms.
func profileOf(name string, ms int) string {
	return fmt.Sprintf(`{"version":1,"name":%q,"kind":"inference","device":"cpu","configs":[{"batch_size":1,`+
		`"technique":{"checkpoint":false,"offload":"none"},"resident_bytes":0,"swap_in_ns":0,"swap_out_ns":0,`+
		`"ops":[{"name":"all","time_ns":%d,"peak_bytes":0}]}]}`, name, ms*1_000_000)
}

// A job is only sent where its profile's plan fits a bubble.
func TestProfile_ChoosesTheSlot(t *testing.T) {
	d := newDesk(t)
	keep := func(text string) string {
		answer := d.ask(1000, http.MethodPost, "/v1/profiles", text)
		var kept api.Profile
		if err := json.Unmarshal(answer.Body.Bytes(), &kept); err != nil || answer.Code != http.StatusOK || len(kept.Digest) != 64 {
			t.Fatalf("%d %s %v", answer.Code, answer.Body, err)
		}
		return kept.Digest
	}
	w := d.world
	w.jobs[100].Options = "fill,profile=" + keep(profileOf("some", 30))
	w.jobs[101].Options = "fill,profile=" + keep(profileOf("large", 90))
	for name, ms := range map[string]int64{"n0": 20, "n1": 40} {
		w.nodes[name].main.Cycle = pipefill.BubbleCycle{Version: 1, IterationNs: 100e6, Bubbles: []pipefill.Bubble{
			{Index: 0, Kind: "fwd-bwd", DurationNs: ms * 1e6},
		}}
	}
	for range 6 {
		w.second()
	}
	rows, err := w.ctl.Queue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if want := map[int64]string{100: "n1", 101: ""}[r.JobID]; r.Node != want {
			t.Errorf("job %d is %s on %q: %q, want it on %q", r.JobID, r.State, r.Node, r.Reason, want)
		}
	}
	// A restart finds it again.
	w.ctl.profiles.known = nil
	if p := w.ctl.profileOf(t.Context(), option(w.jobs[100].Options, "profile")); p == nil || p.Name != "some" {
		t.Errorf("read again: %+v", p)
	}
}

func TestProfile_MistakesAreNamed(t *testing.T) {
	d := newDesk(t)
	for text, says := range map[string]string{
		`{"version":9}`: "fill profile: line 1: version is 9, and this pipefill reads 1",
		`[]`:            "the profile is empty: it must be an object",
		profileOf(strings.Repeat("x", maxProfile), 1): "4194304 at most; profile fewer configurations",
	} {
		answer := d.ask(1000, http.MethodPost, "/v1/profiles", text)
		if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Body.String(), says) {
			t.Errorf("%.40s: %d %.200s, want %q", text, answer.Code, answer.Body, says)
		}
	}
	if w := d.ask(1234, http.MethodPost, "/v1/profiles", profileOf("x", 1)); w.Code == http.StatusOK {
		t.Error("a stranger's profile was kept")
	}
}

// What sbatch by itself hands over is a path, and the controller opens none.
func TestProfile_APathIsNone(t *testing.T) {
	d := newDesk(t)
	w := d.world
	w.jobs[100].Options = "fill,profile=/etc/passwd"
	for range 4 {
		w.second()
	}
	if job, err := w.store.JobByID(t.Context(), "test", 100); err != nil || job.Attempts == 0 && w.store.LiveOf(job.ID) == nil {
		t.Errorf("a job with a path does not start: %+v %v", job, err)
	}
}
