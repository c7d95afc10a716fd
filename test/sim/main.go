// Sim holds the simulator to the private cluster: it measures a main job's bubbles
// and fill jobs in one run, predicts another run's fill jobs from that, runs it,
// and says by how much the prediction was wrong.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"pipefill/test/workload"
)

func main() { workload.Main("sim", run) }

// What is allowed: DESIGN's figures for the simulator.
const (
	usefulWithin     = 5  // %
	completionWithin = 10 // %
)

// check is one run of the comparison.
type check struct {
	workload.Site
	out    string
	strict bool
}

// figures are what is written to check-sim.json.
type figures struct {
	UsefulPct     compared     `json:"useful_pct"`
	CompletionS   compared     `json:"completion_s_mean"`
	Jobs          []jobCompare `json:"jobs"`
	WorstJobPct   float64      `json:"worst_job_error_pct"`
	MeanJobPct    float64      `json:"mean_job_error_pct"`
	UsefulMet     bool         `json:"useful_met"`
	CompletionMet bool         `json:"completion_met"`
}

// compared is a figure predicted and measured.
type compared struct {
	Predicted float64 `json:"predicted"`
	Measured  float64 `json:"measured"`
	ErrorPct  float64 `json:"error_pct"`
}

func compare(predicted, measured float64) compared {
	return compared{predicted, measured, 100 * (predicted/measured - 1)}
}

// jobCompare is one fill job's time from submission to end.
type jobCompare struct {
	Program string `json:"program"`
	compared
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	c := &check{Site: workload.Site{Stdout: stdout, Now: time.Now}}
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	c.Flags(flags)
	flags.StringVar(&c.out, "out", "build/check-sim.json", "`FILE` for the figures")
	flags.BoolVar(&c.strict, "strict", false, "fail where the prediction is further off than it should be")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 9*time.Minute)
	defer cancel()
	// Control iterations at one rate: by default they are many at first and then
	// fewer, and the two runs would differ in them.
	switches := []string{"--node=control: 10%", "--node=budget: 100%", "--node=fill_sched: normal", "--node=guard_ms: 0", "--node=share: 1.3", "--node=min_ms: 1"}
	if err := c.Start(ctx, switches, &c.out); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Cluster.Down()) }()
	f, err := c.compare(ctx)
	if err != nil {
		return err
	}
	return c.report(f)
}

// compare measures a run, predicts the next, runs it, and compares.
func (c *check) compare(ctx context.Context) (f figures, err error) {
	if err := c.Outside(ctx, 3*time.Second, 3); err != nil {
		return f, err
	}
	c.Say("the first run: its bubbles, and how fast each program is in them")
	earlier, err := c.fill(ctx, "earlier", []int{0, 2, 1, 0, 2, 1, 0, 2, 1})
	if err != nil {
		return f, err
	}
	if err := c.tell(earlier); err != nil {
		return f, err
	}
	learned, err := c.learn(earlier)
	if err != nil {
		return f, err
	}
	next := []int{2, 0, 0, 1, 2, 2, 1, 0}
	predicted, err := c.predict(ctx, learned, next)
	if err != nil {
		return f, err
	}
	c.Say("predicted: useful %.1f %%, a job done after %.1f s on the mean; now the run itself", predicted.usefulPct, mean(predicted.completionS))
	measured, err := c.fill(ctx, "next", next)
	if err != nil {
		return f, err
	}
	if err := c.tell(measured); err != nil {
		return f, err
	}
	f.UsefulPct = compare(predicted.usefulPct, measured.usefulPct())
	f.CompletionS = compare(mean(predicted.completionS), mean(measured.completions()))
	for i, took := range measured.completions() {
		j := jobCompare{c.Programs[next[i]].Name, compare(predicted.completionS[i], took)}
		f.Jobs = append(f.Jobs, j)
		f.WorstJobPct = max(f.WorstJobPct, abs(j.ErrorPct))
		f.MeanJobPct += abs(j.ErrorPct) / float64(len(next))
	}
	f.UsefulMet = abs(f.UsefulPct.ErrorPct) <= usefulWithin
	f.CompletionMet = abs(f.CompletionS.ErrorPct) <= completionWithin && f.MeanJobPct <= completionWithin
	return f, nil
}

// tell prints what each fill job of a run had.
func (c *check) tell(f *filled) error {
	all, err := f.each()
	if err != nil {
		return err
	}
	for i, r := range all {
		span := time.Duration(f.spans[i].EndNs - f.spans[i].BeginNs).Seconds()
		c.Say("  %s on %s: %.1f s, of these %.1f %% in bubbles, %.1f %% of them filled and %.1f %% useful", f.programs[i].Name, f.devices[i], span,
			100*r.Bubbles.Seconds/span, r.Bubbles.RecoveredPct, r.Bubbles.UsefulPct)
	}
	return nil
}

// report prints the comparison and writes it down.
func (c *check) report(f figures) error {
	w := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "\n\tPREDICTED\tMEASURED\tERROR\t")
	line := func(what string, x compared) {
		_, _ = fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%+.1f %%\t\n", what, x.Predicted, x.Measured, x.ErrorPct)
	}
	line("useful share of bubble time, %", f.UsefulPct)
	line("mean time from submission to end, s", f.CompletionS)
	for _, j := range f.Jobs {
		line(j.Program+", s", j.compared)
	}
	_ = w.Flush()
	_, _ = fmt.Fprintf(c.Stdout, "a job's time is off by %.1f %% on the mean, %.1f %% at most\n", f.MeanJobPct, f.WorstJobPct)
	data, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = os.WriteFile(c.out, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	verdict := func(met bool, what string, within int) error {
		if met {
			_, _ = fmt.Fprintf(c.Stdout, "%s: within %d %%: met\n", what, within)
			return nil
		}
		_, _ = fmt.Fprintf(c.Stdout, "%s: within %d %%: NOT MET\n", what, within)
		if c.strict {
			return fmt.Errorf("%s is off by more than %d %%", what, within)
		}
		return nil
	}
	return errors.Join(verdict(f.UsefulMet, "useful share", usefulWithin), verdict(f.CompletionMet, "completion times", completionWithin))
}

func abs(x float64) float64 { return max(x, -x) }

func mean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v / float64(len(values))
	}
	return sum
}
