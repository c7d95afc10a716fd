package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill/api"
)

func TestPolicyList(t *testing.T) {
	f := newFake(t)
	f.answers["/v1/policy"] = []api.Policy{{Name: "sjf", Active: true, Text: "Shortest job first."}, {Name: "ours", File: "/etc/pipefill/policies/ours.policy", Text: "Students last."}}
	f.answers["/v1/policy/predictions"] = []api.Prediction{{Source: "history", Count: 120, Factor: 0.97, Off: 1.1, Off90: 1.82}}
	_, list, errs := run(t, f.endpoint, "policy", "list")
	golden(t, "policy-list", list+errs)
	_, predictions, errs := run(t, f.endpoint, "policy", "predictions")
	golden(t, "policy-predictions", predictions+errs)
}

func TestPolicyExplain(t *testing.T) {
	f := newFake(t)
	e := api.PolicyExplanation{
		JobID: 12, State: "queued", Reason: "waits for a slot that suits it", Policy: "sjf", Tier: "by the policy", Suits: 12, Slots: 16, Place: 3, Node: "n1", Device: "gpu:GPU-1",
		Scores: []float64{-5400.5}, Source: "history", WaitMs: 5_025_000, Prediction: &api.Prediction{Source: "history", Count: 120, Off: 1.1, Off90: 1.82},
		Values: []api.AttributeValue{{Name: "job.wait_s", Unit: "s", Value: 60.0}, {Name: "job.time_s", Unit: "s", Value: 5400.5, Used: true}, {Name: "job.user", Value: "a\x1b[31m"}, {Name: "slot.share", Unit: "1", Value: 0.31}},
	}
	f.answers["/v1/jobs/12/policy"] = e
	_, text, errs := run(t, f.endpoint, "policy", "explain", "12")
	golden(t, "policy-explain", text+errs)
	_, text, errs = run(t, f.endpoint, "policy", "explain", "--all", "12")
	golden(t, "policy-explain-all", text+errs)
	f.answers["/v1/jobs/12/policy"] = api.PolicyExplanation{JobID: 12, State: "held", Reason: "held by a person; pipefill-cli release lets it go", WaitMs: -1}
	_, text, errs = run(t, f.endpoint, "policy", "explain", "12")
	golden(t, "policy-explain-held", text+errs)
	for _, args := range [][]string{{"policy"}, {"policy", "explain"}, {"policy", "explain", "1", "2"}, {"policy", "check"}, {"policy", "frobnicate"}} {
		if status, _, errs := run(t, f.endpoint, args...); status != 2 {
			t.Errorf("%v: status %d, %s", args, status, errs)
		}
	}
}

// What a person sees who writes a policy.
func TestPolicyCheck(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, source := range map[string]string{
		"good.policy":    "// Students last.\nlet student = job.account startsWith \"stud\";\n[student ? 0 : 1, sjf]\n",
		"field.policy":   "// Comment.\n1 +\n  job.wait_h\n",
		"name.policy":    "job.wait_s + priority\n",
		"syntax.policy":  "job.wait_s + * 2\n",
		"type.policy":    "job.user + 1\n",
		"bool.policy":    "job.wait_s > 10\n",
		"zero.policy":    "1 / job.used_s\n",
		"circle.policy":  "2 * round2\n",
		"round2.policy":  "circle + 1\n",
		"loop.policy":    "sum(1..1000000)\n",
		"levels.policy":  "[1, 2, 3, 4, 5]\n",
		"slots.policy":   "slot.speed\n",
		"mixed.policy":   "0.5 * deadline\n",
		"Upper.policy":   "1\n",
		"empty.policy":   "\n",
		"args.policy":    "clamp(job.wait_s)\n",
		"letname.policy": "let sjf = 1; sjf\n",
		"text.policy":    "job.name < \"b\" ? 1 : 0\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var all strings.Builder
	for _, name := range []string{
		"good", "field", "name", "syntax", "type", "bool", "zero", "circle", "loop", "levels", "slots", "mixed", "Upper", "empty", "args", "letname", "text", "absent",
	} {
		status, text, errs := run(t, "unix:/nonexistent", "policy", "check", name+".policy")
		all.WriteString("$ pipefill-cli policy check " + name + ".policy\n" + text + errs)
		want := map[string]int{"good": 0, "absent": 3}
		if expected, ok := want[name]; ok && status != expected || !ok && status != 2 {
			t.Errorf("%s: status %d, %s", name, status, errs)
		}
	}
	t.Chdir(home)
	golden(t, "policy-check", all.String())
}

var home, _ = os.Getwd()
