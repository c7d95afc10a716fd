package plan_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
	"pipefill/controller/plan"
)

func profileText(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "profile.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDecodeProfile(t *testing.T) {
	p, err := plan.DecodeProfile(strings.NewReader(profileText(t)), "profile.json")
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Profile{Version: 1, Name: "bert", Kind: "inference", Device: "gpu", Configs: []plan.Config{{
		BatchSize: 8, Technique: plan.Technique{Offload: "none"}, ResidentBytes: 1000, Ops: []plan.Op{
			{Name: "embed", TimeNs: 2000000, PeakBytes: 300}, {Name: "layer.0", TimeNs: 3000000, PeakBytes: 500, LiveBytes: 40},
		},
	}, {
		BatchSize: 16, Technique: plan.Technique{Checkpoint: true, Offload: "params"}, ResidentBytes: 1000, SwapInNs: 100, SwapOutNs: 200,
		Ops: []plan.Op{{Name: "all", TimeNs: 9000000, PeakBytes: 900}},
	}}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
}

// Each mistake by one replacement in the good file, and the whole message.
func TestDecodeProfile_Mistakes(t *testing.T) {
	good := profileText(t)
	for _, tc := range []struct{ old, with, says string }{
		{good, "", "p.json: line 1: it is empty: a fill profile is one object of JSON"},
		{good, " \n \n", "p.json: line 1: it is empty: a fill profile is one object of JSON"},
		{good, "[]", "p.json: line 1: the profile is empty: it must be an object"},
		{good, "3", "p.json: line 1: the profile is 3: it must be an object"},
		{good, good + "{}", "p.json: line 10: there is more behind its end: a fill profile is one object of JSON"},
		{good, good[:60], "p.json: line 1: it ends too early: a fill profile is one object of JSON"},
		{`"version": 1`, `"version": 2`, "p.json: line 1: version is 2, and this pipefill reads 1: use a pipefill that knows it, or write the file anew"},
		{`"version": 1`, `"version": "1"`, `p.json: line 1: version is "1", and this pipefill reads 1: use a pipefill that knows it, or write the file anew`},
		{`"version": 1, `, ``, `p.json: line 1: "version" is missing: write "version": 1`},
		{`"name": "bert"`, `"name": ""`, `p.json: line 1: name is "": write what the fill job is called`},
		{`"name": "bert", `, ``, `p.json: line 1: the profile: "name" is missing`},
		{`"kind": "inference"`, `"kind": "mining"`, `p.json: line 1: kind is "mining": it must be one of inference, training`},
		{`"swap_out_ns": 200`, `"swap_out_ns": 200, "stays_bytes": 1001`, "p.json: line 8: configs[1].stays_bytes is 1001, and resident_bytes 1000: what stays is a part of what is resident"},
		{`"device": "gpu"`, `"device": 5`, "p.json: line 1: device is 5: it must be text"},
		{`"device": "gpu"`, `"device": "gpu", "colour": 1`, `p.json: line 1: the profile: unknown field "colour"; valid are version, name, kind, device, configs`},
		{`"device": "gpu"`, `"device": "gpu", "name": "x"`, `p.json: line 1: the field "name" comes twice: a fill profile is one object of JSON`},
		{`"batch_size": 8`, `"batch_size": 0`, "p.json: line 2: configs[0].batch_size is 0: it must be a whole number from 1 to 2147483647"},
		{`"batch_size": 8`, `"batch_size": 8.5`, "p.json: line 2: configs[0].batch_size is 8.5: it must be a whole number from 1 to 2147483647"},
		{`"checkpoint": false`, `"checkpoint": 0`, "p.json: line 2: configs[0].technique.checkpoint is 0: it must be true or false"},
		{`"offload": "params"`, `"offload": "all"`, `p.json: line 7: configs[1].technique.offload is "all": it must be one of none, params, activations, optimizer`},
		{`"resident_bytes": 1000, "swap_in_ns": 0`, `"resident_bytes": -1, "swap_in_ns": 0`, "p.json: line 3: configs[0].resident_bytes is -1: it must be a whole number from 0 to 2305843009213693951"},
		{`"swap_in_ns": 100`, `"swap_in_ns": null`, "p.json: line 8: configs[1].swap_in_ns is null: it must be a whole number from 0 to 2305843009213693951"},
		{`"time_ns": 2000000`, `"time_ns": 1e300`, "p.json: line 4: configs[0].ops[0].time_ns is 1e300: it must be a whole number from 0 to 2305843009213693951"},
		{`"time_ns": 2000000`, `"time_ns": 99999999999999999999`, "p.json: line 4: configs[0].ops[0].time_ns is 99999999999999999999: it must be a whole number from 0 to 2305843009213693951"},
		{`"time_ns": 2000000`, `"time_ns": 2305843009213693951`, "p.json: line 5: configs[0].ops[1]: the ops up to here take more than 2305843009213693951 ns in all: a pass must be shorter"},
		{`"time_ns": 2000000`, `"time_ns": NaN`, "p.json: line 4: invalid character 'N' looking for beginning of value: a fill profile is one object of JSON"},
		{`"time_ns": 9000000`, `"time_ns": 0`, "p.json: line 8: configs[1].ops: all of them take 0 ns: at least one time_ns must be 1 or more"},
		{`, "live_bytes": 40`, `, "live_bytes": []`, "p.json: line 5: configs[0].ops[1].live_bytes is empty: it must be a whole number from 0 to 2305843009213693951"},
		{`[{"name": "all", "time_ns": 9000000, "peak_bytes": 900}]`, `[]`, "p.json: line 8: configs[1].ops is empty: it must be a list of one or more"},
		{`[{"name": "all", "time_ns": 9000000, "peak_bytes": 900}]`, `{}`, "p.json: line 8: configs[1].ops is an object: it must be a list of one or more"},
		{`{"name": "all", "time_ns": 9000000, "peak_bytes": 900}`, strings.Repeat("[", 20) + strings.Repeat("]", 20), "p.json: line 8: it is nested more than 16 deep: a fill profile is one object of JSON"},
	} {
		if !strings.Contains(good, tc.old) {
			t.Fatalf("testdata/profile.json has no %q", tc.old)
		}
		_, err := plan.DecodeProfile(strings.NewReader(strings.Replace(good, tc.old, tc.with, 1)), "p.json")
		if err == nil || err.Error() != tc.says || pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%q -> %.60q:\n%v\nwant\n%s", tc.old, tc.with, err, tc.says)
		}
	}
}

const goodCycle = `{"version": 1, "iteration_ns": 1000, "always_free_bytes": 7,
"bubbles": [{"index": 0, "kind": "fill-drain", "start_ns": 10, "duration_ns": 50, "free_bytes": 9},
{"index": 3, "kind": "fwd-bwd", "start_ns": 200, "duration_ns": 60, "free_bytes": 9}]}`

func TestDecodeCycle(t *testing.T) {
	c, err := plan.DecodeCycle(strings.NewReader(goodCycle), "c.json")
	want := pipefill.BubbleCycle{Version: 1, IterationNs: 1000, AlwaysFreeBytes: 7, Bubbles: []pipefill.Bubble{
		{Index: 0, Kind: "fill-drain", StartNs: 10, DurationNs: 50, FreeBytes: 9}, {Index: 3, Kind: "fwd-bwd", StartNs: 200, DurationNs: 60, FreeBytes: 9},
	}}
	if diff := cmp.Diff(want, c); diff != "" || err != nil {
		t.Error(diff, err)
	}
	// None is always free, which is not the same as not known.
	c, err = plan.DecodeCycle(strings.NewReader(strings.Replace(goodCycle, `"always_free_bytes": 7`, `"always_free_bytes": 0`, 1)), "c.json")
	if err != nil || c.AlwaysFreeBytes != 1 {
		t.Errorf("always_free_bytes 0 became %d, %v", c.AlwaysFreeBytes, err)
	}
}

func TestDecodeCycle_Mistakes(t *testing.T) {
	for _, tc := range []struct{ old, with, says string }{
		{`"version": 1`, `"version": 3`, "c.json: line 1: version is 3, and this pipefill reads 1: use a pipefill that knows it, or write the file anew"},
		{`"iteration_ns": 1000`, `"iteration_ns": 0`, "c.json: line 1: iteration_ns is 0: it must be a whole number from 1 to 2305843009213693951"},
		{`"always_free_bytes": 7`, `"always_free_bytes": -7`, "c.json: line 1: always_free_bytes is -7: it must be a whole number from 0 to 2305843009213693951"},
		{`"index": 3`, `"index": 0`, "c.json: line 3: bubbles[1].index is 0, as that of an earlier bubble: each has its own"},
		{`"kind": "fwd-bwd"`, `"kind": "idle"`, `c.json: line 3: bubbles[1].kind is "idle": it must be one of fill-drain, fwd-bwd, steady, comm, other`},
		{`"start_ns": 200`, `"start_ns": 2000`, "c.json: line 3: bubbles[1].start_ns is 2000, and the iteration takes 1000: a bubble begins within it"},
		{`"start_ns": 200`, `"start_ns": 9`, "c.json: line 3: bubbles[1].start_ns is 9, before bubbles[0] at 10: write bubbles in their order"},
		{`"duration_ns": 60`, `"duration_ns": -60`, "c.json: line 3: bubbles[1].duration_ns is -60: it must be a whole number from 0 to 2305843009213693951"},
		{`, "free_bytes": 9}]`, `}]`, `c.json: line 3: bubbles[1]: "free_bytes" is missing`},
		{`"bubbles": [`, `"bubbles": [], "more": [`, `c.json: line 2: the bubble cycle: unknown field "more"; valid are version, iteration_ns, bubbles, always_free_bytes`},
	} {
		_, err := plan.DecodeCycle(strings.NewReader(strings.Replace(goodCycle, tc.old, tc.with, 1)), "c.json")
		if err == nil || err.Error() != tc.says || pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%q -> %q:\n%v\nwant\n%s", tc.old, tc.with, err, tc.says)
		}
	}
}

// What was read is written again as it was, and no input does harm.
func FuzzDecodeProfile(f *testing.F) {
	f.Add([]byte(profileText(f)))
	f.Add([]byte(`{"version":1,"name":"a","kind":"training","device":"d","configs":[{"batch_size":1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := plan.DecodeProfile(bytes.NewReader(text), "f")
		if err != nil {
			if pipefill.ErrorCode(err) != pipefill.CodeInvalid || !strings.HasPrefix(err.Error(), "f: ") {
				t.Fatalf("%v", err)
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("was read, and %v", err)
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := plan.DecodeProfile(bytes.NewReader(again), "f")
		if diff := cmp.Diff(p, q); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
		if _, err := plan.Single(p, pipefill.BubbleCycle{IterationNs: 100, Bubbles: []pipefill.Bubble{{DurationNs: 1 << 30, FreeBytes: 1 << 40}}}); err != nil {
			if code := pipefill.ErrorCode(err); code != pipefill.CodeConflict {
				t.Fatal(err)
			}
		}
	})
}

func FuzzDecodeCycle(f *testing.F) {
	f.Add([]byte(goodCycle))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := plan.DecodeCycle(bytes.NewReader(text), "f")
		if err != nil {
			if pipefill.ErrorCode(err) != pipefill.CodeInvalid || !strings.HasPrefix(err.Error(), "f: ") {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		d, err := plan.DecodeCycle(bytes.NewReader(again), "f")
		if diff := cmp.Diff(c, d); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}

const goodPlan = `{"version": 1, "samples_per_cycle": 34.5, "samples_per_second": 345, "period_cycles": 2, "jobs": ["a"],
"main_offload": [{"name": "optimizer", "bytes": 5, "out_bubble": 0, "in_bubble": 4}],
"chunks": [{"cycle": 1, "bubble": 4, "device": 0, "job": "a", "config": 2, "first_op": 3, "op_count": 40, "time_ns": 5, "peak_bytes": 6}]}`

func TestDecode(t *testing.T) {
	p, err := plan.Decode(strings.NewReader(goodPlan), "plan.json")
	want := plan.Plan{
		Version: 1, SamplesPerCycle: 34.5, SamplesPerSecond: 345, PeriodCycles: 2, Jobs: []string{"a"},
		MainOffload: []plan.MainOffload{{Name: "optimizer", Bytes: 5, InBubble: 4}},
		Chunks:      []plan.Chunk{{Cycle: 1, Bubble: 4, Job: "a", Config: 2, FirstOp: 3, OpCount: 40, TimeNs: 5, PeakBytes: 6}},
	}
	if diff := cmp.Diff(want, p); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, tc := range []struct{ old, with, says string }{
		{`"samples_per_cycle": 34.5`, `"samples_per_cycle": -1`, "plan.json: line 1: samples_per_cycle is -1: it must be a number, 0 or more"},
		{`"samples_per_cycle": 34.5`, `"samples_per_cycle": 1e999`, "plan.json: line 1: samples_per_cycle is 1e999: it must be a number, 0 or more"},
		{`"cycle": 1`, `"cycle": 2`, "plan.json: line 3: chunks[0].cycle is 2: it must be below period_cycles, 2"},
		{`"job": "a"`, `"job": "b"`, `plan.json: line 3: chunks[0].job is "b", which is none of jobs`},
		{`"op_count": 40`, `"op_count": 0`, "plan.json: line 3: chunks[0].op_count is 0: it must be a whole number from 1 to 2305843009213693951"},
		{`"in_bubble": 4`, `"in_bubble": 4.5`, "plan.json: line 2: main_offload[0].in_bubble is 4.5: it must be a whole number from 0 to 2147483647"},
	} {
		_, err := plan.Decode(strings.NewReader(strings.Replace(goodPlan, tc.old, tc.with, 1)), "plan.json")
		if err == nil || err.Error() != tc.says || pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%q -> %q:\n%v\nwant\n%s", tc.old, tc.with, err, tc.says)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(goodPlan))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := plan.Decode(bytes.NewReader(text), "f")
		if err != nil {
			if pipefill.ErrorCode(err) != pipefill.CodeInvalid || !strings.HasPrefix(err.Error(), "f: ") {
				t.Fatalf("%v", err)
			}
			return
		}
		var again bytes.Buffer
		if err := p.Encode(&again); err != nil {
			t.Fatal(err)
		}
		q, err := plan.Decode(&again, "f")
		if diff := cmp.Diff(p, q); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}
