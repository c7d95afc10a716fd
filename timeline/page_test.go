package timeline_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pipefill/measure"
	"pipefill/timeline"
)

// aRun is the traces of 400 iterations of two stages, every third of them
// withheld, with a fill job that completed on the first.
func aRun(t *testing.T) timeline.Run {
	t.Helper()
	files := map[string]string{}
	var events, readings strings.Builder
	readings.WriteString(`{"assignment": 4, "job": 9, "device": "cpu:0", "mode": "signal"}` + "\n")
	cpu := 0
	for stage := range 2 {
		var rank strings.Builder
		fmt.Fprintf(&rank, `{"type": "run", "rank": %d, "stages": 2, "device": "cpu:%d"}`+"\n", stage, stage)
		for i := range 400 {
			at := 1_000_000_000 + i*100_000_000 + stage*5_000_000
			length := 100_000_000 + i%7*100_000
			control := i%3 == 1
			fmt.Fprintf(&rank, `{"type":"instruction","iteration":%d,"op":"forward","micro_batch":0,"begin_ns":%d,"end_ns":%d}`+"\n", i, at, at+30_000_000)
			fmt.Fprintf(&rank, `{"type":"wait","iteration":%d,"index":0,"kind":"fwd-bwd","begin_ns":%d,"end_ns":%d}`+"\n", i, at+30_000_000, at+60_000_000)
			fmt.Fprintf(&rank, `{"type":"instruction","iteration":%d,"op":"backward","micro_batch":0,"begin_ns":%d,"end_ns":%d}`+"\n", i, at+60_000_000, at+90_000_000)
			fmt.Fprintf(&rank, `{"type":"iteration","iteration":%d,"begin_ns":%d,"end_ns":%d}`+"\n", i, at, at+length)
			if stage > 0 {
				continue
			}
			flags := 1
			if control {
				flags = 2
			}
			fmt.Fprintf(&events, `{"job": 7, "iteration": %d, "index": 0, "kind": "fwd-bwd", "begin_ns": %d, "end_ns": %d, "deadline_ns": %d, "flags": %d}`+"\n",
				i, at+30_000_000, at+60_000_000, at+58_000_000, flags)
			if !control {
				fmt.Fprintf(&readings, `{"at_ns": %d, "cpu_ns": %d, "open": true}`+"\n", at+31_000_000, cpu)
				cpu += 26_000_000
				fmt.Fprintf(&readings, `{"at_ns": %d, "cpu_ns": %d, "open": false}`+"\n", at+58_000_000, cpu)
			}
		}
		files[fmt.Sprintf("ranks/rank-%d.jsonl", stage)] = rank.String()
	}
	files["n0/events-cpu:0.jsonl"], files["n0/readings-4.jsonl"], files["n0/opens-4.jsonl"] = events.String(), readings.String(), ""
	dir := traces(t, files)
	run := timeline.Run{Title: `a run <of> "tests"`, Jobs: []timeline.Job{{ID: 9, User: "ann", What: "sum & <b>sum</b>", State: "COMPLETED", Result: "ok"}}}
	var err error
	if run.Timeline, err = timeline.Read(dir); err != nil {
		t.Fatal(err)
	}
	if run.Traces, err = measure.ReadTraces(dir); err != nil {
		t.Fatal(err)
	}
	if run.Report, err = measure.Compute(run.Traces, 5, measure.FillJobCounts{Submitted: 1, Completed: 1}); err != nil {
		t.Fatal(err)
	}
	return run
}

func pageOf(t *testing.T, run timeline.Run) string {
	t.Helper()
	page, err := run.Page()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := page.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// The page stands by itself, and what users name their jobs is text.
func TestPage(t *testing.T) {
	text := pageOf(t, aRun(t))
	for _, want := range []string{
		"In figures", "Timeline", "Bubbles by stage", "Recovered over time", "What it cost the main job", "Fill jobs", "400 iterations",
		"sum &amp; &lt;b&gt;sum&lt;/b&gt;", "<td>COMPLETED</td>", "stage 1, cpu:1", "var(--c1)", `aria-label="timeline"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, no := range []string{"<script", "src=", "@import", "url(", "<link", "#030301", "#010101", "<b>sum"} {
		if strings.Contains(text, no) {
			t.Errorf("the page has %q", no)
		}
	}
	if n := strings.Count(text, "<svg"); n != 4 {
		t.Errorf("%d pictures", n)
	}
	for part := range strings.SplitSeq(text, "<svg") {
		body, _, ok := strings.Cut(part, "</svg>")
		if !ok {
			continue
		}
		for decoder := xml.NewDecoder(strings.NewReader("<svg" + body + "</svg>")); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("a picture is no XML: %v", err)
			}
		}
	}
}

// Phases that are never offered are in the figures, by their names where they have any.
func TestPage_NeverOffered(t *testing.T) {
	run := aRun(t)
	if text := pageOf(t, run); strings.Contains(text, "never offered</td>") {
		t.Error("nothing was kept from fill jobs, and the page says so")
	}
	d := &run.Timeline.Devices[0]
	d.Waits = append(d.Waits, timeline.Span{Name: "comm", BeginNs: 1e9, EndNs: 1.5e9}, timeline.Span{Name: "other", BeginNs: 2e9, EndNs: 5e9})
	d.Main = append(d.Main, timeline.Span{Name: "evaluation", BeginNs: 2e9, EndNs: 4e9}, timeline.Span{Name: "forward", BeginNs: 2e9, EndNs: 3e9},
		timeline.Span{Name: "checkpoint", BeginNs: 4e9, EndNs: 5e9})
	want := "0.5 device-seconds of comm, 3.0 device-seconds of other, of that 2.0 of evaluations, of that 1.0 of checkpoints"
	if text := pageOf(t, run); !strings.Contains(text, want) {
		t.Errorf("no %q", want)
	}
}

// A run without fill jobs, and one cut short, have a page too.
func TestPage_OfLittle(t *testing.T) {
	run := aRun(t)
	run.Traces.Fills, run.Jobs = nil, nil
	for i := range run.Timeline.Devices {
		run.Timeline.Devices[i].Fill = nil
	}
	if text := pageOf(t, run); !strings.Contains(text, "Too few iterations") {
		t.Error("a page without fill jobs does not say so")
	}
}

// TestPage_InChromium looks at the page as people do: by day, by night, on paper.
func TestPage_InChromium(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skipf("packaging/setup installs it: %v", err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "page.html")
	if err := os.WriteFile(path, []byte(pageOf(t, aRun(t))), 0o644); err != nil {
		t.Fatal(err)
	}
	chromium := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), browser, append(append([]string{
			"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
			"--host-resolver-rules=MAP * ~NOTFOUND", "--user-data-dir=" + filepath.Join(dir, "profile"), "--window-size=900,1400",
		}, args...), "file://"+path)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("chromium: %v: %s", err, errs.String())
		}
		return out.String()
	}
	shot := func(name string, args ...string) image.Image {
		t.Helper()
		file := filepath.Join(dir, name)
		chromium(append(args, "--screenshot="+file)...)
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		picture, err := png.Decode(f)
		if err != nil {
			t.Fatal(err)
		}
		return picture
	}
	if dom := chromium("--dump-dom"); strings.Count(dom, "<svg") != 4 || !strings.Contains(dom, "COMPLETED") {
		t.Errorf("the page is taken as\n%.2000s", dom)
	}
	brightness := func(p image.Image) uint32 {
		r, g, b, _ := p.At(2, 2).RGBA()
		return (r + g + b) / 3 >> 8
	}
	if got := brightness(shot("day.png", "--blink-settings=preferredColorScheme=1")); got != 0xff {
		t.Errorf("by day the paper is %x", got)
	}
	if got := brightness(shot("night.png", "--blink-settings=preferredColorScheme=0")); got > 0x30 {
		t.Errorf("by night the paper is %x", got)
	}
	paper := filepath.Join(dir, "page.pdf")
	chromium("--print-to-pdf=" + paper)
	if pdf, err := os.ReadFile(paper); err != nil || !bytes.HasPrefix(pdf, []byte("%PDF")) || len(pdf) < 20_000 {
		t.Errorf("on paper: %d bytes, %v", len(pdf), err)
	}
}
