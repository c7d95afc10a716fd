package workload

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		format Format
		text   string
		want   Trace
	}{
		"swf": {
			SWF, "; UnixStartTime: 0\n" +
				"1 100 5 60 2 -1 -1 2 -1 -1 1 7 1 1 1 -1 -1 -1\n" +
				"2 40 0 30 -1 -1 -1 4 -1 -1 1 8 1 1 1 -1 -1 -1\n" +
				"3 50 0 x 1 -1 -1 4 -1 -1 1 8 1 1 1 -1 -1 -1\n" +
				"4 50 0\n" +
				"5 50 0 -1 1 -1 -1 4 -1 -1 0 8 1 1 1 -1 -1 -1\n",
			Trace{
				Jobs:     []Job{{SubmitMs: 0, RunMs: 30000, Devices: 4, User: 8, Line: 3}, {SubmitMs: 60000, RunMs: 60000, Devices: 2, User: 7, Line: 2}},
				Mistakes: []Mistake{{4, `field 4: "x" is no number`}, {5, "3 fields, a line of this format has 18"}}, Bad: 2, Skipped: 1,
			},
		},
		"alibaba v2020, without a line of names": {
			AlibabaV2020, "a,tensorflow,1.0,Terminated,1000.0,1600.0,600.0,29.3,50.0,MISC\n" +
				"b,worker,4.0,Terminated,900.0,1000.0,600.0,29.3,200.0,V100\n" +
				"c,worker,1.0,Running,900.0,,600.0,29.3,100.0,V100\n" +
				"d,worker,1.0,Terminated,900.0,100.0,600.0,29.3,100.0,V100\n" +
				"e,ps,1.0,Terminated,900.0,1000.0,600.0,29.3,,\n" +
				"f,worker,1.0\n",
			Trace{
				Jobs:     []Job{{SubmitMs: 0, RunMs: 100000, Devices: 8, User: 0, Line: 2}, {SubmitMs: 100000, RunMs: 600000, Devices: 1, User: 0, Line: 1}},
				Mistakes: []Mistake{{4, "end_time: 100 is before start_time 900"}, {6, "3 fields, not 10"}}, Bad: 2, Skipped: 2,
			},
		},
		"alibaba v2023": {
			AlibabaV2023, "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n" +
				"p0,12000,16384,1,1000,,LS,Running,10,110,20\n" +
				"p1,12000,16384,0,0,,LS,Succeeded,10,110,20\n" +
				"p2,12000,16384,one,1000,,LS,Succeeded,10,110,20\n" +
				"p3,12000,16384,2,1000,,BE,Failed,5,6,\n",
			Trace{Jobs: []Job{{SubmitMs: 0, RunMs: 90000, Devices: 1, User: 0, Line: 2}}, Mistakes: []Mistake{{4, `num_gpu: "one" is no number`}}, Bad: 1, Skipped: 2},
		},
		"run times": {Runtimes, "runtime\n0.0\n12.5\n-3\n", Trace{Jobs: []Job{{SubmitMs: 0, RunMs: 12500, Devices: 1, User: 0, Line: 3}}, Mistakes: []Mistake{{4, "runtime: -3"}}, Bad: 1, Skipped: 1}},
	} {
		got, err := Read(c.format, name, strings.NewReader(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRead_Refuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	for _, c := range []struct {
		format     Format
		text, want string
	}{
		{AlibabaV2023, "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,1,1\n", "line 1: the columns creation_time, deletion_time, scheduled_time are missing: this format needs num_gpu,"},
		{AlibabaV2023, "", "it is empty"},
		{SWF, "a,b\nc,d\n", "2 of 2 lines are malformed, the first is line 1: 1 fields, a line of this format has 18: is it a file of the format swf?"},
		{SWF, "; nothing\n", "no job in it"},
		{"csv", "", `format: "csv": write one of`},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(c.format, path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want %q", c.format, c.text, err, c.want)
		}
	}
	if _, err := Load(SWF, path+"2"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("1 100 5 60 2 -1 -1 2 -1 -1 1 7 1 1 1 -1 -1 -1\n", uint8(0))
	f.Add("a,b,1,Terminated,1,2,,,100,\n", uint8(1))
	f.Add("num_gpu,creation_time,deletion_time,scheduled_time\n1,1e300,2e300,1\n\"", uint8(2))
	f.Fuzz(func(t *testing.T, text string, format uint8) {
		trace, err := Read(Formats[int(format)%len(Formats)], "x", strings.NewReader(text))
		if err != nil {
			return
		}
		for i, j := range trace.Jobs {
			if j.RunMs < 1 || j.Devices < 1 || j.SubmitMs < 0 || i > 0 && j.SubmitMs < trace.Jobs[i-1].SubmitMs {
				t.Fatalf("job %d: %+v", i, j)
			}
		}
	})
}

// The generator has the percentiles that it is made from, and the load asked for.
func TestSynthetic(t *testing.T) {
	const n = 200_000
	s := NewSynthetic(1, 2000, math.MaxInt64, 50)
	var runs []float64
	users := map[int]int{}
	last := int64(0)
	for range n {
		j := s.Next()
		if j.SubmitMs < last {
			t.Fatal("arrivals go back")
		}
		last = j.SubmitMs
		runs = append(runs, float64(j.RunMs)/1e3)
		users[j.User]++
	}
	if gap := float64(last) / n; math.Abs(gap-2000) > 40 {
		t.Errorf("a job every %.0f ms, want 2000", gap)
	}
	slices.Sort(runs)
	for _, q := range RunTimes[1:5] {
		if got := runs[int(q.Share*n)]; math.Abs(got/q.Value-1) > 0.05 {
			t.Errorf("quantile %g: %.0f s, want %.0f", q.Share, got, q.Value)
		}
	}
	mean := 0.0
	for _, r := range runs {
		mean += r / n
	}
	if want := RunTimes.Mean(math.Inf(1)); math.Abs(mean/want-1) > 0.03 {
		t.Errorf("mean %.0f s, want %.0f", mean, want)
	}
	if len(users) != 50 || users[0] < 5*users[25] {
		t.Errorf("%d users, the first with %d jobs, the 26th with %d", len(users), users[0], users[25])
	}
}

func TestRepeater(t *testing.T) {
	trace := Trace{Jobs: []Job{{SubmitMs: 0, RunMs: 5000, Devices: 1, User: 0, Line: 1}, {SubmitMs: 3000, RunMs: 90000, Devices: 2, User: 0, Line: 2}}}
	r := NewRepeater(trace, 1, 0, 60000)
	var got []int64
	for range 4 {
		got = append(got, r.Next().SubmitMs)
	}
	if want := []int64{0, 3000, 4500, 7500}; !slices.Equal(got, want) {
		t.Errorf("arrivals %v, want %v", got, want)
	}
	if mean := trace.MeanRunMs(60000); mean != (5000+2*60000)/2 {
		t.Errorf("mean %g", mean)
	}
	r = NewRepeater(Trace{Jobs: slices.Repeat([]Job{{SubmitMs: 0, RunMs: 1000, Devices: 1, User: 0, Line: 1}}, 10)}, 1, 500, 60000)
	sum := int64(0)
	for range 10_000 {
		sum = r.Next().SubmitMs
	}
	if gap := float64(sum) / 10_000; math.Abs(gap-500) > 25 {
		t.Errorf("drawn arrivals every %.0f ms, want 500", gap)
	}
}
