package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipefill/measure"
	"pipefill/test/cluster"
	"pipefill/test/workload"
)

// plannedFigures are the rows of one setting, by what stands after its name.
var plannedFigures = []string{": slow-down", ": bubbles filled", ": useful", ": chunks past their deadline", ": chunks past the bubble's end"}

// plannedTime is how long each setting is measured with the demo's main job, and
// longBatch how many times longer the bubbles of the other one are, and its time.
const (
	plannedTime = 40 * time.Second
	demoBatch   = 10
	longBatch   = 8
	longTime    = 100 * time.Second
)

// plannedSetting is one row of the trade-off.
type plannedSetting struct {
	setting
	batch int
	time  time.Duration
}

// plannedSettings are the trade-off: a share over 1 lets chunks run to the
// bubble's real end, a guard keeps them from what is predicted.
func plannedSettings() (all []plannedSetting) {
	add := func(bubbles string, batch int, t time.Duration, share, guard float64) {
		all = append(all, plannedSetting{batch: batch, time: t, setting: setting{
			name: fmt.Sprintf("planned inference, %s, share %g, guard %g ms", bubbles, share, guard), slowest: 1, filled: 80,
			node: []string{fmt.Sprintf("share: %g", share), fmt.Sprintf("guard_ms: %g", guard), "fill_sched: normal", "min_ms: 1", "control: 50%", "budget: 100%"},
		}})
	}
	for _, ms := range []float64{0, 2, 5, 10} {
		add("long bubbles", demoBatch*longBatch, longTime, 1, ms)
	}
	add("long bubbles", demoBatch*longBatch, longTime, 1.1, 5)
	add("short bubbles", demoBatch, plannedTime, 1.3, 0)
	for _, ms := range []float64{0, 1, 2, 5} {
		add("short bubbles", demoBatch, plannedTime, 1, ms)
	}
	return all
}

// plannedWork is what the fill job is known to take.
type plannedWork struct {
	profile []byte
	Size    int     `json:"size"`
	Seconds float64 `json:"seconds"` // of a sample on an idle core, of the best batch
}

// planned measures a transformer's inference under the plan that the controller
// hands over, as real Slurm jobs on both devices.
func (b *bench) planned(ctx context.Context) error {
	var work *plannedWork
	for _, s := range plannedSettings() {
		if !strings.Contains(s.name, b.setting) {
			continue
		}
		b.say("%s", s.name)
		rows, err := b.measurePlanned(ctx, s, &work)
		if err != nil {
			return err
		}
		if err := b.add(rows...); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) measurePlanned(ctx context.Context, s plannedSetting, work **plannedWork) (rows []row, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.time+4*time.Minute)
	defer cancel()
	c, err := cluster.Up(ctx, b.root, slog.New(slog.DiscardHandler), append(s.switches(), "--trace")...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	lib, err := workload.Install(c, b.root, b.build)
	if err == nil {
		_, err = c.CopyIn(filepath.Join(b.root, "engine/tests/planned_inference.py"), filepath.Join(b.root, "engine/tests/fill_programs.py"), filepath.Join(b.build, "pipefill-cli"))
	}
	if err != nil {
		return nil, err
	}
	dir, err := c.Folder("work")
	if err != nil {
		return nil, err
	}
	p := planRun{bench: b, cluster: c, lib: lib, dir: dir}
	if *work == nil {
		if *work, err = p.measureAlone(ctx); err != nil {
			return nil, err
		}
	}
	trainer, jobs, err := p.start(ctx, s.batch, (*work).profile)
	if err != nil {
		return nil, err
	}
	if err := b.pause(ctx, s.time); err != nil {
		return nil, err
	}
	if err := stillRun(ctx, c, jobs); err != nil {
		return nil, err
	}
	if err := b.keepTraces(s.name, filepath.Join(c.Dir, "trace"), trainer.Traces); err != nil {
		return nil, err
	}
	return p.rows(s, trainer, *work)
}

// planRun is one setting's cluster.
type planRun struct {
	*bench
	cluster  *cluster.Cluster
	lib, dir string
}

func (p *planRun) program(mode, path string) string {
	return fmt.Sprintf("/usr/bin/python3 %s/planned_inference.py %s %s", p.lib, mode, path)
}

func (p *planRun) profilePath() string { return filepath.Join(p.dir, "profile.json") }

// measureAlone profiles the program, and times it alone on a core.
func (p *planRun) measureAlone(ctx context.Context) (*plannedWork, error) {
	_, err := p.cluster.As(ctx, cluster.Ann, "taskset", "-c", "1", "/bin/sh", "-c",
		fmt.Sprintf("%s/pipefill-cli profile --batch-size 1,2,4 --out %s -- %s", p.lib, p.profilePath(), p.program("run", filepath.Join(p.dir, "unused"))))
	if err != nil {
		return nil, err
	}
	text, err := p.cluster.As(ctx, cluster.Ann, "taskset", "-c", "1", "/bin/sh", "-c", p.program("alone", p.profilePath()))
	work := &plannedWork{}
	if err == nil {
		err = json.Unmarshal([]byte(text), work)
	}
	if err == nil {
		work.profile, err = os.ReadFile(p.profilePath())
	}
	if err != nil {
		return nil, fmt.Errorf("time the program alone: %w", err)
	}
	p.say("  alone: %.3f ms a sample with batch %d", 1e3*work.Seconds, work.Size)
	return work, nil
}

// start gets a main job and two fill jobs to the point where both follow a plan.
func (p *planRun) start(ctx context.Context, batch int, profile []byte) (*workload.Trainer, []int64, error) {
	trainer, err := workload.TrainBatch(ctx, p.cluster, p.lib, "train", batch, "--pipefill")
	if err == nil {
		err = trainer.AwaitIterations(ctx, 20)
	}
	if err == nil {
		err = os.WriteFile(p.profilePath(), profile, 0o644)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("start the main job: %w", err)
	}
	var jobs []int64
	for i := range 2 {
		script := filepath.Join(p.lib, fmt.Sprintf("job%d", i))
		text := fmt.Sprintf("#!/bin/sh\nexport PIPEFILL_LIBRARY=%s/libpipefill.so OMP_NUM_THREADS=1\nexec %s\n", p.lib, p.program("run", p.log(i)))
		if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
			return nil, nil, fmt.Errorf("write job: %w", err)
		}
		said, err := p.cluster.As(ctx, cluster.Ann, p.lib+"/pipefill-cli", "submit", "--mem=400", "--time=600",
			"-o", filepath.Join(p.dir, fmt.Sprintf("out.%d", i)), "--pipefill=fill,mode=chunked,profile="+p.profilePath(), script)
		if err != nil {
			return nil, nil, err
		}
		var id int64
		if _, err := fmt.Sscanf(said[strings.LastIndexByte(strings.TrimSpace(said), ' ')+1:], "%d", &id); err != nil {
			return nil, nil, fmt.Errorf("submit said %q: %w", said, err)
		}
		jobs = append(jobs, id)
	}
	for i := range jobs {
		err := workload.Await(ctx, "a fill job to follow its plan", func() (bool, error) {
			lines := p.lines(i)
			return len(lines) > 3 && lines[len(lines)-1].Plan != 0, nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return trainer, jobs, nil
}

// planLine is what planned_inference.py writes.
type planLine struct {
	AtNs     int64  `json:"at_ns"`
	Plan     uint64 `json:"plan"`
	Size     int    `json:"size"`
	Samples  int64  `json:"samples"`
	Chunks   int64  `json:"chunks"`
	Overruns int64  `json:"overruns"`
	Late     int64  `json:"late"`
}

func (p *planRun) log(i int) string { return filepath.Join(p.dir, fmt.Sprintf("log.%d", i)) }

// lines are the whole ones under a plan; none where there is no file yet.
func (p *planRun) lines(i int) (all []planLine) {
	text, err := os.ReadFile(p.log(i))
	if err != nil {
		return nil
	}
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for scanner.Scan() {
		var l planLine
		if json.Unmarshal(scanner.Bytes(), &l) == nil && l.Plan != 0 {
			all = append(all, l)
		}
	}
	return all
}

// bubbleSeconds is the median length of the main job's bubbles, messages that were
// there at once left out.
func bubbleSeconds(traces measure.Traces) float64 {
	var all []int64
	for _, rank := range traces.Ranks {
		for _, w := range rank.Waits {
			if length := w.EndNs - w.BeginNs; length > int64(2*time.Millisecond) {
				all = append(all, length)
			}
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return time.Duration(all[len(all)/2]).Seconds()
}

// rows are computed over the time in which both jobs followed a plan.
func (p *planRun) rows(s plannedSetting, trainer *workload.Trainer, work *plannedWork) ([]row, error) {
	traces, err := measure.ReadTraces(filepath.Join(p.cluster.Dir, "trace"), trainer.Traces)
	if err != nil {
		return nil, err
	}
	var from, to int64
	for i, rank := range traces.Ranks {
		var last int64
		for _, span := range rank.Iterations {
			last = max(last, span.EndNs)
		}
		if i == 0 || last < to {
			to = last
		}
	}
	logs := [][]planLine{p.lines(0), p.lines(1)}
	for _, lines := range logs {
		from, to = max(from, lines[0].AtNs), min(to, lines[len(lines)-1].AtNs)
	}
	var samples, chunks, overruns, late int64
	sizes := map[int]bool{}
	for _, lines := range logs {
		inside := slices.DeleteFunc(lines, func(l planLine) bool { return l.AtNs < from || l.AtNs > to })
		if len(inside) < 10 {
			return nil, fmt.Errorf("%s: a fill job told of %d moments only: measure for longer", s.name, len(inside))
		}
		first, last := inside[0], inside[len(inside)-1]
		samples, chunks = samples+last.Samples-first.Samples, chunks+last.Chunks-first.Chunks
		overruns, late = overruns+last.Overruns-first.Overruns, late+last.Late-first.Late
		for _, l := range inside {
			sizes[l.Size] = true
		}
	}
	for i, fill := range traces.Fills {
		traces.Fills[i].Readings = slices.DeleteFunc(fill.Readings, func(r measure.Reading) bool { return r.AtNs < from || r.AtNs > to })
	}
	report, err := measure.Compute(traces, float64(samples)*work.Seconds, measure.FillJobCounts{})
	if err != nil {
		return nil, err
	}
	p.say("  %d samples in passes of %v, %d chunks, %.1f s of bubbles, each of %.0f ms, outside %.1f %%", samples, slices.Sorted(maps.Keys(sizes)), chunks,
		report.Bubbles.Seconds, 1e3*bubbleSeconds(traces), 100*report.Bubbles.OutsideSeconds/report.Bubbles.Seconds)
	m := report.Main
	all := []row{
		{Value: m.OverheadPct, N: m.Iterations, Lo: &m.OverheadCI95[0], Hi: &m.OverheadCI95[1]},
		{Value: report.Bubbles.RecoveredPct, N: m.Iterations},
		{Value: report.Bubbles.UsefulPct, N: int(samples)},
		{Value: 100 * float64(overruns) / float64(chunks), N: int(chunks)},
		{Value: 100 * float64(late) / float64(chunks), N: int(chunks)},
	}
	for i := range all {
		all[i].Name, all[i].Unit = s.name+plannedFigures[i], "%"
	}
	all[0].aim(s.slowest, m.OverheadKnown && m.OverheadCI95[1] <= s.slowest)
	all[1].aim(s.filled, all[1].Value >= s.filled)
	all[2].aim(65, all[2].Value >= 65)
	all[3].aim(1, all[3].Value <= 1)
	return all, nil
}
