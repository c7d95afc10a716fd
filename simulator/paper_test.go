package simulator

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
)

// The paper's figures at every scale, over a part of the study's own time.
func TestPaper(t *testing.T) {
	r, err := paper(t.Context(), 1, paperParts{settings: []string{"paper"}, days: 0.3, bestOnly: true}, func(float64) {})
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]struct {
		micro      int
		idle, days float64
		best, plus float64
	}{
		1024: {64, 1024 * 15.0 / 79, 82, 7.9, 0},
		2048: {32, 2048 * 15.0 / 47, 50, 15.8, 0},
		4096: {16, 4096 * 15.0 / 31, 34, 31.5, 0},
		8192: {8, 8192 * 15.0 / 23, 26, 63, 2600},
	}
	seen := 0
	for _, row := range r.Rows {
		w := want[row.GPUs]
		if row.MicroBatches != w.micro || math.Abs(row.IdleGPUs-w.idle) > 1e-6 || math.Abs(row.BubbleFraction-15/float64(w.micro+15)) > 1e-9 || math.Abs(row.Days/w.days-1) > 0.01 {
			t.Errorf("%d GPUs, %s: %+v, want %+v", row.GPUs, row.Schedule, row, w)
		}
		if row.SlowdownPct <= 0 || row.SlowdownPct >= 2 {
			t.Errorf("%d GPUs, %s: slow-down %g %%", row.GPUs, row.Schedule, row.SlowdownPct)
		}
		if row.queueLeast <= 0 {
			t.Errorf("%d GPUs, %s: the queue ran empty", row.GPUs, row.Schedule)
		}
		if row.Schedule != "gpipe" {
			// The scattered gaps stay unfilled.
			if row.GainBestPct >= w.best {
				t.Errorf("%d GPUs: 1F1B gains %.1f %%, no less than GPipe", row.GPUs, row.GainBestPct)
			}
			continue
		}
		seen++
		if math.Abs(row.GainBestPct-w.best) > 1 {
			t.Errorf("%d GPUs: gain %.1f %%, want %.1f", row.GPUs, row.GainBestPct, w.best)
		}
		if w.plus > 0 && math.Abs(row.RecoveredBest/w.plus-1) > 0.05 {
			t.Errorf("%d GPUs: %.0f GPUs' worth of work, want %.0f", row.GPUs, row.RecoveredBest, w.plus)
		}
	}
	if seen != len(paperGPUs) || len(r.Rows) != 8 {
		t.Errorf("%d of %d rows are the paper's with GPipe", seen, len(r.Rows))
	}
	for _, a := range r.Assumptions {
		if a.Name == "" || a.Value == "" || a.Source == "" {
			t.Errorf("an assumption without source: %+v", a)
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var shape map[string]json.RawMessage
	if err := json.Unmarshal(data, &shape); err != nil || len(shape) != 3 || shape["rows"] == nil || shape["assumptions"] == nil || shape["published"] == nil {
		t.Errorf("JSON has %d keys (%v), want rows, assumptions, published", len(shape), err)
	}
	checkPage(t, r.WriteHTML)
}

// The mixed trace with devices that never wait for a job, and ours beside it.
func TestPaper_Trace(t *testing.T) {
	files, err := studied()
	if err != nil {
		t.Fatal(err)
	}
	gain := map[string]float64{}
	for name, f := range files {
		w, err := f.with(func(f *File) { f.MainJobs[0].GPUs = 8192 }).full(nil)
		if err != nil {
			t.Fatal(err)
		}
		busy, useful := 0.0, 0.0
		for _, c := range w.classes {
			busy += c.busy / float64(len(w.classes))
			useful += c.bubble / float64(len(w.classes))
		}
		gain[name] = w.usefulPct() * useful * w.s.Device.FLOPS / (busy * w.s.Mains[0].FLOPS)
	}
	if math.Abs(gain["paper"]-45) > 1 || gain["ours"] < 1.5*gain["paper"] {
		t.Errorf("gains %v, want 45 and much more", gain)
	}
}

// checkPage renders a report and holds it to needing nothing from elsewhere.
func checkPage(t *testing.T, write func(io.Writer) error) {
	t.Helper()
	var page bytes.Buffer
	if err := write(&page); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	if strings.Count(text, "<svg") < 2 || !strings.Contains(text, "What is assumed") || strings.Contains(text, "NaN") {
		t.Errorf("a page of %d bytes with %d plots", len(text), strings.Count(text, "<svg"))
	}
	if m := regexp.MustCompile(`(?i)(src|href|url\()\s*=?\s*["']?https?:|<script|@import`).FindString(text); m != "" {
		t.Errorf("the page loads something: %s", m)
	}
}

func TestResult_WriteHTML(t *testing.T) {
	f := parse(t, strings.Replace(small, "seeds: 2", "seeds: 1", 1)+"sweep: {gpus: [16, 32]}\n")
	checkPage(t, simulate(t, f).WriteHTML)
}

func TestStudies_AreFiles(t *testing.T) {
	for _, name := range paperSettings {
		if _, err := study(name); err != nil {
			t.Error(err)
		}
	}
}

func TestSection_Series(t *testing.T) {
	s := Section{
		Columns: []string{"SETTING", "LOAD", "GPUS", "GAIN"}, Rows: [][]any{{"paper", 0.9, 1, 2.0}, {"paper", 0.9, 2, 3.0}, {"ours", 0.9, 2, 4.0}},
		Plot: &Plot{X: 2, Y: []int{3}, By: []int{0, 1}},
	}
	labels, names, values := s.series()
	if strings.Join(labels, " ") != "1 2" || strings.Join(names, "; ") != "paper, load 0.9; ours, load 0.9" || values[0][1] != 3 || values[1][1] != 4 || !math.IsNaN(values[1][0]) {
		t.Errorf("labels %q, curves %q, values %v", labels, names, values)
	}
}
