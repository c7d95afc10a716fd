// Policies compares scheduling policies on run times of public traces: fill jobs
// arrive at random on the slots of four main jobs, and the real scheduler serves
// them in simulated time. It prints a table, writes it between the marks in
// docs/policies.md, and draws docs/policies.svg.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/controller/schedule/replay"
	"pipefill/controller/store"
)

// The cluster: four main jobs of 16 devices, whose bubbles are those of GPipe or
// 1F1B with 16 stages and 64, 32, 16 and 8 micro-batches, (p-1)/(m+p-1).
const (
	stages      = 16
	deadlineOf  = 5 // a deadline is so many times the run time on an average slot after the arrival
	guessSigma  = 1 // of the logarithm of a guessed run time's error
	longestWait = schedule.DefaultMaxWait
)

var (
	microBatches = []int{64, 32, 16, 8}
	loads        = []float64{0.7, 0.9, 1.1}
)

// contestant is a policy and how well run times are known.
type contestant struct {
	name, policy string
	guessed      bool
}

var contestants = []contestant{
	{"fifo", "fifo", false},
	{"sjf", "sjf", false},
	{"sjf, times guessed", "sjf", true},
	{"deadline", "deadline", false},
	{"makespan", "makespan", false},
	{"balanced", "balanced", false},
}

// figures are what one run gave.
type figures struct {
	completionH, medianH, makespanH, waitH, missedPct float64
}

// line is a line of the table: the means over the seeds, and the interval of the
// mean completion time relative to fifo's.
type line struct {
	trace, policy string
	load          float64
	figures
	vsFIFO, lo, hi float64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "policies:", err)
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("policies", flag.ContinueOnError)
	data := flags.String("data", "../shared/data", "`FOLDER` of the traces")
	docs := flags.String("docs", "", "`FILE` to write the table into, between its marks")
	svg := flags.String("svg", "", "`FILE` to draw the plot into")
	count := flags.Int("jobs", 10_000, "fill jobs in a run")
	seeds := flags.Int("seeds", 5, "runs for each line, 3 or more")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var lines []line
	var notes []string
	for _, t := range traces {
		sizes, cut, err := t.read(*data)
		if errors.Is(err, fs.ErrNotExist) {
			_, _ = fmt.Fprintf(stdout, "SKIPPED: %s is not in %s: nothing is compared\n", t.file, *data)
			return nil
		}
		if err != nil {
			return err
		}
		notes = append(notes, fmt.Sprintf("%s: %d runs, %.1f %% of them cut to 24 h", t.name, len(sizes), 100*cut))
		for _, load := range loads {
			of, err := compare(ctx, t.name, load, sizes, *count, *seeds)
			if err != nil {
				return err
			}
			lines = append(lines, of...)
			for _, l := range of {
				_, _ = fmt.Fprintf(stdout, "%-34s load %.1f  %-20s mean completion %8.2f h (%+6.1f %% of fifo, %+.1f to %+.1f)\n",
					l.trace, l.load, l.policy, l.completionH, l.vsFIFO, l.lo, l.hi)
			}
		}
	}
	table := tableOf(lines, notes, *count, *seeds)
	_, _ = fmt.Fprint(stdout, "\n", table)
	if *svg != "" {
		if err := os.WriteFile(*svg, []byte(plot(lines)), 0o644); err != nil {
			return err
		}
	}
	if *docs == "" {
		return nil
	}
	return between(*docs, table)
}

func slots() (out []schedule.Slot, capacity float64) {
	for main, m := range microBatches {
		for stage := range stages {
			s := schedule.Slot{
				Node: fmt.Sprintf("m%d-%02d", main, stage/8), Device: pipefill.DeviceID(fmt.Sprintf("cpu:%d", stage%8)), Main: pipefill.JobKey{JobID: int64(main + 1)},
				Share: schedule.RoundShare(float64(stages-1) / float64(m+stages-1)),
			}
			capacity += s.Share
			out = append(out, s)
		}
	}
	return out, capacity
}

// work is a queue and how long its jobs really take.
type work struct {
	jobs   []store.FillJob
	really map[int64]float64 // device seconds by ID
}

// queue draws jobs whose arrivals are a Poisson process of a load.
func queue(rng *rand.Rand, sizes []float64, count int, load, capacity, meanShare float64) work {
	w := work{really: map[int64]float64{}}
	mean := 0.0
	for _, x := range sizes {
		mean += x / float64(len(sizes))
	}
	at := 1e9
	for id := range int64(count) {
		at += rng.ExpFloat64() * mean / (load * capacity)
		seconds := sizes[rng.IntN(len(sizes))]
		arrival := int64(at * 1000)
		w.really[id+1] = seconds
		w.jobs = append(w.jobs, store.FillJob{
			ID: id + 1, JobID: id + 1, FirstMs: arrival, Requeue: true, ExpectMs: int64(seconds * 1000), User: fmt.Sprintf("user%d", rng.IntN(20)),
			DeadlineMs: arrival + int64(deadlineOf*seconds/meanShare*1000),
		})
	}
	return w
}

func compare(ctx context.Context, trace string, load float64, sizes []float64, count, seeds int) ([]line, error) {
	all := make([][]figures, len(contestants))
	for seed := range uint64(seeds) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		free, capacity := slots()
		w := queue(rand.New(rand.NewPCG(seed, 11)), sizes, count, load, capacity, capacity/float64(len(free)))
		for i, c := range contestants {
			all[i] = append(all[i], measure(c, w, free, seed))
		}
	}
	var lines []line
	for i, c := range contestants {
		l := line{trace: trace, policy: c.name, load: load}
		var ratios []float64
		for seed, f := range all[i] {
			n := float64(seeds)
			l.completionH += f.completionH / n
			l.medianH += f.medianH / n
			l.makespanH += f.makespanH / n
			l.waitH += f.waitH / n
			l.missedPct += f.missedPct / n
			ratios = append(ratios, math.Log(f.completionH/all[0][seed].completionH))
		}
		l.vsFIFO, l.lo, l.hi = interval(ratios)
		lines = append(lines, l)
	}
	return lines, nil
}

// interval is the mean of log-ratios and its 95 % interval by Student's t, in
// per cent.
func interval(ratios []float64) (value, lo, hi float64) {
	quantile := []float64{0, 0, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26}[min(len(ratios), 10)]
	mean, square, n := 0.0, 0.0, float64(len(ratios))
	for _, r := range ratios {
		mean += r / n
	}
	for _, r := range ratios {
		square += (r - mean) * (r - mean)
	}
	half := quantile * math.Sqrt(square/(n-1)/n)
	return 100 * math.Expm1(mean), 100 * math.Expm1(mean-half), 100 * math.Expm1(mean+half)
}

// measure serves a queue by a contestant's policy.
func measure(c contestant, w work, free []schedule.Slot, seed uint64) figures {
	jobs := slices.Clone(w.jobs)
	if c.guessed {
		rng := rand.New(rand.NewPCG(seed, 12))
		for i := range jobs {
			jobs[i].ExpectMs = max(1, int64(float64(jobs[i].ExpectMs)*math.Exp(guessSigma*rng.NormFloat64())))
		}
	}
	s := schedule.New(schedule.Builtin()[c.policy], schedule.Options{MaxWait: longestWait})
	runs := replay.Jobs(s, jobs, free, func(p schedule.Pair) int64 { return int64(w.really[p.Job.ID] / p.Slot.Share * 1000) })
	var f figures
	var completion []float64
	first, last := math.Inf(1), 0.0
	for _, r := range runs {
		completion = append(completion, float64(r.EndMs-r.Job.FirstMs)/3_600_000)
		first, last = min(first, float64(r.Job.FirstMs)/3_600_000), max(last, float64(r.EndMs)/3_600_000)
		f.waitH = max(f.waitH, float64(r.StartMs-r.Job.FirstMs)/3_600_000)
		if r.EndMs > r.Job.DeadlineMs {
			f.missedPct += 100 / float64(len(runs))
		}
	}
	for _, x := range completion {
		f.completionH += x / float64(len(completion))
	}
	slices.Sort(completion)
	f.medianH, f.makespanH = completion[len(completion)/2], last-first
	return f
}

func tableOf(lines []line, notes []string, count, seeds int) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d fill jobs a run, means of %d runs; Poisson arrivals; deadlines %d x the run time on an average slot; guessed: log-normal, sigma %d.\n",
		count, seeds, deadlineOf, guessSigma)
	fmt.Fprintf(&out, "%s.\n\n", strings.Join(notes, "; "))
	out.WriteString("| trace | load | policy | mean completion | against fifo (95 % interval) | median | makespan | deadlines missed | longest wait |\n")
	out.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, l := range lines {
		against := fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", l.vsFIFO, l.lo, l.hi)
		if l.policy == "fifo" {
			against = ""
		}
		fmt.Fprintf(&out, "| %s | %.1f | %s | %.2f h | %s | %.2f h | %.0f h | %.1f %% | %.0f h |\n",
			l.trace, l.load, l.policy, l.completionH, against, l.medianH, l.makespanH, l.missedPct, l.waitH)
	}
	return out.String()
}

const (
	beginMark = "<!-- begin: make policies -->\n"
	endMark   = "<!-- end: make policies -->\n"
)

// between replaces what stands between the marks of a file.
func between(path, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(data), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s: the lines %q and %q are missing", path, strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	return os.WriteFile(path, []byte(before+beginMark+text+endMark+after), 0o644)
}
