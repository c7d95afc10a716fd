//go:build slurm

package slurmtest

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
	"pipefill/controller/slurm"
)

// outcome is what Slurm makes of a command, in the words that the model of it
// (controller/world_test.go) has too.
type outcome struct {
	Job      string        `json:"job"`
	Do       string        `json:"do"`
	Code     pipefill.Code `json:"code,omitempty"`
	State    string        `json:"state,omitempty"`
	Held     bool          `json:"held,omitempty"`
	Pinned   string        `json:"pinned,omitempty"`
	Restarts int           `json:"restarts,omitempty"`
}

const transcriptFile = "../../controller/testdata/transcript.slurm-22.05.8.json"

// TestTranscript does what the controller does to jobs and compares the answers
// with those that were recorded, to which the model is held. PIPEFILL_RECORD=1
// records them.
func TestTranscript(t *testing.T) {
	c := newCluster(t, "--no-daemons", "--no-plugin")
	ids := map[string]int64{"unknown": 99_999_999}
	var said []outcome
	ended := func(j slurm.Job) bool { return j.Ended() }
	do := func(name, what string, call func(context.Context, int64) error, until func(slurm.Job) bool) {
		t.Helper()
		a := outcome{Job: name, Do: what}
		if call != nil {
			a.Code = pipefill.ErrorCode(call(t.Context(), ids[name]))
		}
		if name != "unknown" {
			j := c.job(t, ids[name])
			if until != nil {
				j = c.awaitJob(t, ids[name], what, until)
			}
			a.State, a.Held, a.Pinned, a.Restarts = j.State, j.Held, j.PinnedNode, j.Restarts
		}
		said = append(said, a)
	}
	pin := func(node string) func(context.Context, int64) error {
		return func(ctx context.Context, id int64) error { return c.client.PinRelease(ctx, id, node) }
	}
	held := func(j slurm.Job) bool { return j.Pending() && j.Held && j.PinnedNode == "" }
	submit := func(name, script string, options ...string) {
		ids[name] = c.sbatch(t, "pf_ann", script, append([]string{"-p", "pipefill"}, options...)...)
		do(name, "submit", nil, held)
	}
	submit("long", "sleep 600")
	do("long", "hold", c.client.Hold, held)
	do("long", "pin n0", pin("n0"), slurm.Job.Running)
	do("long", "pin n0", pin("n0"), slurm.Job.Running)
	do("long", "hold", c.client.Hold, nil)
	do("long", "requeue", c.client.RequeueHold, held)
	do("long", "requeue", c.client.RequeueHold, held)
	do("long", "hold", c.client.Hold, held)
	do("long", "pin n1", pin("n1"), slurm.Job.Running)
	do("long", "cancel", c.client.Cancel, ended)
	do("long", "cancel", c.client.Cancel, nil)
	do("long", "hold", c.client.Hold, nil)
	do("long", "pin n0", pin("n0"), nil)
	submit("short", "true")
	do("short", "pin n0", pin("n0"), ended)
	do("short", "requeue", c.client.RequeueHold, nil)
	submit("once", "sleep 600", "--no-requeue")
	do("once", "pin n0", pin("n0"), slurm.Job.Running)
	do("once", "requeue", c.client.RequeueHold, held)
	do("once", "cancel", c.client.Cancel, ended)
	submit("waits", "true")
	do("waits", "cancel", c.client.Cancel, ended)
	do("unknown", "read", func(ctx context.Context, id int64) error { _, err := c.client.Read(ctx, id); return err }, nil)
	do("unknown", "cancel", c.client.Cancel, nil)
	do("unknown", "hold", c.client.Hold, nil)
	if os.Getenv("PIPEFILL_RECORD") != "" {
		text, err := json.MarshalIndent(said, "", " ")
		if err == nil {
			err = os.WriteFile(transcriptFile, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(transcriptFile)
	if err != nil {
		t.Fatal(err)
	}
	var want []outcome
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("-recorded +said:\n%s", diff)
	}
}
