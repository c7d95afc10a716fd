package simulator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
)

// small is a cluster that simulates within a moment.
const small = `
version: 1
name: small
seed: 7
seeds: 2
days: 0.5
main_jobs:
  - name: llm
    gpus: 32
    schedule: 1f1b
    stages: 4
    micro_batches: 8
    forward_ms: 50
    backward_ms: 100
    iterations: 10000
    tflops: 100
    free_gib: 8
device: {memory_gib: 16, fill_tflops: 50, host_link_gbps: 25}
workload: {source: synthetic, load: 1.2, backlog: 64, longest_h: 0.2, mix: {bert-base-inference: 1, swin-large-inference: 1}}
`

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := ParseFile("small.yaml", t.TempDir(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func simulate(t *testing.T, f *File) *Result {
	t.Helper()
	r, err := f.Run(t.Context(), func(float64) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What is filled, useful and completed must fit together, and the same file gives
// the same bytes.
func TestRun_FiguresFitTogether(t *testing.T) {
	r := simulate(t, parse(t, small))
	f := r.Points[0].Figures
	value := func(name string) float64 {
		s, ok := f[name]
		if !ok || s.Lo > s.Mean || s.Hi < s.Mean {
			t.Errorf("%s is %+v, %t", name, s, ok)
		}
		return s.Mean
	}
	near := func(what string, got, want, within float64) {
		if math.Abs(got-want) > within*want {
			t.Errorf("%s is %g, want %g", what, got, want)
		}
	}
	bubble := 3.0 / 11
	near("bubble fraction", value("bubble_fraction"), bubble, 1e-9)
	near("idle GPUs", value("idle_gpu_equivalents"), 32*bubble, 1e-9)
	near("days", value("days"), 10000*11*0.15/86400, 1e-9)
	if o, fi, u := value("offered_pct"), value("filled_pct"), value("useful_pct"); o > 90 || fi > o || u > fi || u < 0.7*fi {
		t.Errorf("offered %g, filled %g, useful %g %% of bubbles", o, fi, u)
	}
	near("occupied", value("occupied_pct"), 100, 0.02)
	near("recovered", value("recovered_gpu_equivalents"), 32*bubble*value("useful_pct")/100, 1e-9)
	near("work", value("work_hours"), 12*value("recovered_gpu_equivalents"), 1e-9)
	near("after", value("utilization_after_pct"), value("utilization_before_pct")+100*value("recovered_gpu_equivalents")/32, 1e-9)
	// The fill work has half of the main job's rate.
	near("gain", value("utilization_gain_pct"), 50*value("recovered_gpu_equivalents")/(32*(1-bubble)), 1e-6)
	if value("queue_least") <= 0 {
		t.Error("the queue ran empty at a load of 1.2 with a backlog")
	}
	if done, started := value("completed"), value("started"); done < 100 || started-done != 32 {
		t.Errorf("%g of %g started jobs have completed: each of 32 devices has one that runs", done, started)
	}
	again, err := json.Marshal(simulate(t, parse(t, small)))
	first, err2 := json.Marshal(r)
	if err := errors.Join(err, err2); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the same seed gave something else (%v)", err)
	}
	other := parse(t, small)
	other.Seed = 8
	if o := simulate(t, other); o.Points[0].Figures["completed"] == f["completed"] {
		t.Error("another seed gave the same")
	}
}

// Below what the bubbles can do, the work that arrives gets done, and devices
// stay free.
func TestRun_LoadIsWhatIsAsked(t *testing.T) {
	f := parse(t, strings.NewReplacer("load: 1.2", "load: 0.5", "backlog: 64", "backlog: 0", "days: 0.5", "days: 3").Replace(small))
	got := simulate(t, f).Points[0].Figures["occupied_pct"].Mean
	if math.Abs(got-50) > 6 {
		t.Errorf("%g %% of devices are occupied at a load of 0.5", got)
	}
}

func TestRun_PoliciesAndSweep(t *testing.T) {
	f := parse(t, strings.Replace(small, "seeds: 2", "seeds: 1", 1)+"filling: {policies: [fifo, sjf]}\nsweep: {gpus: [16, 32], free_gib: [1, 8]}\n")
	r := simulate(t, f)
	if len(r.Points) != 8 {
		t.Fatalf("%d points, want 2 x 2 x 2", len(r.Points))
	}
	for i, p := range r.Points {
		if want := []string{"fifo", "sjf"}[i%2]; p.Policy != want {
			t.Errorf("point %d has policy %s", i, p.Policy)
		}
	}
	if diff := cmp.Diff(map[string]any{"gpus": 32, "free_gib": 8.0}, r.Points[7].Sweep); diff != "" {
		t.Error(diff)
	}
	fifo, sjf := r.Points[6].mean("completion_s_p50"), r.Points[7].mean("completion_s_p50")
	if sjf >= fifo {
		t.Errorf("half of the jobs are done after %g s shortest first, %g s first come first served", sjf, fifo)
	}
	if small, large := r.Points[2].mean("idle_gpu_equivalents"), r.Points[6].mean("idle_gpu_equivalents"); large != 2*small {
		t.Errorf("16 GPUs idle as %g, 32 as %g", small, large)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "POLICY FREE_GIB GPUS BUBBLES IDLEGPUS") {
		t.Errorf("%v:\n%s", err, text.String())
	}
}

// A gang holds its devices together, and is as fast as the slowest.
func TestRun_Gangs(t *testing.T) {
	dir := t.TempDir()
	var jobs strings.Builder
	jobs.WriteString("num_gpu,creation_time,deletion_time,scheduled_time\n")
	for range 200 {
		jobs.WriteString("4,0,600,0\n1,100,700,100\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "pods.csv"), []byte(jobs.String()+"x,0,1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(small, "source: synthetic,", "source: alibaba-v2023, file: pods.csv, gangs: true,", 1)
	f, err := ParseFile("small.yaml", dir, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := simulate(t, f)
	if r.Points[0].mean("completed") < 20 || r.Points[0].mean("occupied_pct") < 80 {
		t.Errorf("%+v", r.Points[0].Figures)
	}
	if len(r.Warnings) != 1 || r.Warnings[0] != `pods.csv: line 402: num_gpu: "x" is no number: left out` {
		t.Errorf("warnings %q", r.Warnings)
	}
}

func TestRun_SaysWhatNeverFits(t *testing.T) {
	f := parse(t, strings.Replace(small, "free_gib: 8", "free_gib: 0.01", 1))
	r := simulate(t, f)
	if len(r.Warnings) == 0 || !strings.Contains(r.Warnings[0], "bert-base-inference never starts: ") {
		t.Errorf("warnings %q", r.Warnings)
	}
	if got := r.Points[0].mean("completed"); got != 0 {
		t.Errorf("%g jobs completed", got)
	}
}

func TestRun_CanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := parse(t, small).Run(ctx, func(float64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Every mistake has its line, its key, its value and its rule.
func TestParseFile_Mistakes(t *testing.T) {
	for _, c := range []struct{ old, change, want string }{
		{"version: 1", "version: 2", "small.yaml: line 2: version: 2: write 1"},
		{"seeds: 2", "seeds: two", `small.yaml: line 5: seeds: "two": write a whole number`},
		{"    stages: 4", "    stagse: 4", "small.yaml: line 11: unknown key main_jobs[0].stagse: docs/simulator.md lists the keys"},
		{"    stages: 4", "    stages: 4\n    stages: 5", "small.yaml: line 12: stages: stands on line 11 too: write it once"},
		{"schedule: 1f1b", "schedule: 1b1f", `small.yaml: line 10: main_jobs[0].schedule: "1b1f": write one of gpipe, 1f1b, interleaved, zb-h1, zbv`},
		{"gpus: 32", "gpus: 33", "small.yaml: line 9: main_jobs[0].gpus: 33: write a multiple of stages x tensor_parallel, 4"},
		{"forward_ms: 50", "forward_ms: [50, 50]", "small.yaml: line 13: main_jobs[0].forward_ms: 2 times for 4 model chunks"},
		{"backward_ms: 100", "backward_ms: a lot", `small.yaml: line 14: main_jobs[0].backward_ms: "a lot": write a number`},
		{"micro_batches: 8", "micro_batches: 8\n    global_micro_batches: 64", "small.yaml: line 12: main_jobs[0].micro_batches: 8, and global_micro_batches: 64: write one of the two"},
		{"load: 1.2", "load: -1", "small.yaml: line 19: workload.load: -1: write 0 to 100"},
		{"load: 1.2", "load: .nan", "small.yaml: line 19: workload.load: NaN: write 0 to 100"},
		{"source: synthetic", "source: swf", `small.yaml: line 19: workload.file: "": a source of swf needs a file`},
		{"bert-base-inference: 1", "bert-huge: 1", "small.yaml: line 19: workload.mix.bert-huge: there is no such kind: write some of bert-base-training, "},
		{"name: small", "name: small\nfilling: {policies: [lifo]}", `small.yaml: line 4: filling.policies[0]: "lifo" is no policy: write some of `},
		{"main_jobs:\n", "main_jobs: 7\nx:\n", "small.yaml: line 7: main_jobs: \"7\": write lines of key: value"},
		{small, "", "small.yaml: it is empty: docs/simulator.md says what to write"},
		{small, "a: [", "small.yaml: line 1: did not find expected node content"},
	} {
		_, err := ParseFile("small.yaml", "", []byte(strings.Replace(small, c.old, c.change, 1)))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: %v\nwant %s", c.change, err, c.want)
		}
	}
}

func TestFromCluster(t *testing.T) {
	if _, err := FromCluster("", Recorded{}); err == nil || !strings.Contains(err.Error(), "no main job runs whose bubbles are known yet") {
		t.Errorf("nothing recorded: %v", err)
	}
	cycle := parse(t, small).mustCycle(t)
	r := Recorded{Devices: []RecordedDevice{{MainJob: 5, Cycle: cycle, BubbleNs: 50e6}, {MainJob: 5, Cycle: cycle}}}
	for i := range 2 * enoughJobs {
		r.Jobs = append(r.Jobs, RecordedJob{SubmitMs: int64(i) * 60_000, DeviceMs: 20_000, User: "ann"})
	}
	f, err := FromCluster("", r)
	if err != nil {
		t.Fatal(err)
	}
	f.Days = 1
	got := simulate(t, f)
	o := got.Points[0]
	if got.Name != "this cluster" || o.mean("completed") < 100 || o.mean("useful_pct") <= 0 {
		t.Errorf("%s: %+v", got.Name, o.Figures)
	}
}

// mustCycle is the first stage's of a file.
func (f *File) mustCycle(t *testing.T) pipefill.BubbleCycle {
	t.Helper()
	p, err := f.point()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(p.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	return w.classes[0].cycle
}
