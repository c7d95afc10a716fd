// Plangain prints what each form of execution plan gives over the best single
// configuration, as the table of docs/plans.md: over 200 seeds and over five
// realistic profiles on the stages of a pipeline. Losses are printed too.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/test/plancase"
)

const seeds = 200

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "plangain:", err)
		os.Exit(1)
	}
}

// gains are relative to the best single configuration of the best job, in useful
// device time.
type gains struct {
	name   string
	values []float64
	none   int // neither fits
}

func (g *gains) add(before, after float64) {
	if before == 0 {
		g.none++
		return
	}
	g.values = append(g.values, after/before-1)
}

func (g *gains) row() string {
	slices.Sort(g.values)
	n := len(g.values)
	if n == 0 {
		return fmt.Sprintf("| %s | 0 | | | | | | |\n", g.name)
	}
	sum, better, losses := 0.0, 0, 0
	for _, v := range g.values {
		sum += v
		if v > 1e-9 {
			better++
		}
		if v < -1e-9 {
			losses++
		}
	}
	at := func(q float64) float64 { return 100 * g.values[min(int(q*float64(n)), n-1)] }
	return fmt.Sprintf("| %s | %d | %d | %d | %+.1f %% | %+.1f %% | %+.1f %% | %+.1f %% |\n",
		g.name, n, better, losses, 100*sum/float64(n), at(0.5), at(0.95), 100*g.values[n-1])
}

func run(w io.Writer) error {
	var out []*gains
	for _, part := range []func() ([]*gains, error){random, realistic} {
		more, err := part()
		if err != nil {
			return err
		}
		out = append(out, more...)
	}
	if _, err := io.WriteString(w, "| cases | planned | better | losses | mean | median | 95 % | most |\n|---|---|---|---|---|---|---|---|\n"); err != nil {
		return err
	}
	for _, g := range out {
		if _, err := io.WriteString(w, g.row()); err != nil {
			return err
		}
	}
	return nil
}

// useful is a plan's useful time a cycle; 0 where nothing fits.
func useful(c pipefill.BubbleCycle, ps []plan.Profile, o plan.Options) (float64, error) {
	made, err := plan.Make(c, ps, o)
	if pipefill.ErrorCode(err) == pipefill.CodeConflict {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return plan.UsefulNs(made, ps), nil
}

// alone is the best that one of the jobs gives with one configuration.
func alone(c pipefill.BubbleCycle, ps []plan.Profile) (float64, error) {
	most := 0.0
	for i := range ps {
		v, err := useful(c, ps[i:i+1], plan.Options{SingleOnly: true})
		if err != nil {
			return 0, err
		}
		most = max(most, v)
	}
	return most, nil
}

// largest is the useful time with the largest batch that runs at all: what a
// user would set by hand.
func largest(c pipefill.BubbleCycle, p plan.Profile) (float64, error) {
	verdicts, err := plan.Explain(p, c)
	if err != nil {
		return 0, err
	}
	found := -1
	for i, v := range verdicts {
		if v.Limit == nil && (found < 0 || p.Configs[i].BatchSize > p.Configs[found].BatchSize) {
			found = i
		}
	}
	if found < 0 {
		return 0, nil
	}
	one := p
	one.Configs = p.Configs[found : found+1]
	made, err := plan.Single(one, c)
	if err != nil {
		return 0, err
	}
	best, err := plan.Single(p, c)
	if err != nil {
		return 0, err
	}
	whole, err := alone(c, []plan.Profile{p})
	return whole * made.SamplesPerCycle / best.SamplesPerCycle, err
}

// compare adds one case to the three rows.
func compare(c pipefill.BubbleCycle, p, other plan.Profile, rows []*gains) error {
	single, err := alone(c, []plan.Profile{p})
	if err != nil {
		return err
	}
	by, err := largest(c, p)
	if err != nil {
		return err
	}
	mixed, err := useful(c, []plan.Profile{p}, plan.Options{})
	if err != nil {
		return err
	}
	both := []plan.Profile{p, other}
	best, err := alone(c, both)
	if err != nil {
		return err
	}
	shared, err := useful(c, both, plan.Options{})
	if err != nil {
		return err
	}
	rows[0].add(by, single)
	rows[1].add(single, mixed)
	rows[2].add(best, shared)
	return nil
}

func rowsOf(what string) []*gains {
	return []*gains{
		{name: what + ": best single configuration over the largest batch that fits"},
		{name: what + ": mixed over the best single one"},
		{name: what + ": two jobs shared over the better one alone"},
	}
}

func random() ([]*gains, error) {
	rows := rowsOf(fmt.Sprintf("%d seeds", seeds))
	for seed := range uint64(seeds) {
		p, c := plancase.Short(seed)
		other, _ := plancase.Short(seed + 1_000_000)
		if err := compare(c, p, other, rows); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// realistic plans each profile beside the next one on the first, a middle and
// the last of 16 stages, GPipe and 1F1B, 8 and 32 micro-batches: 24 GiB free
// while none is held, each of which takes 1 GiB (GPipe, which holds all: 0.5).
func realistic() ([]*gains, error) {
	profiles := plancase.Realistic()
	var all []*gains
	for i, p := range profiles {
		rows := rowsOf(p.Name)
		for _, schedule := range []string{"gpipe", "1f1b"} {
			for _, micro := range []int{8, 32} {
				for _, stage := range []int{0, 7, 15} {
					held := map[string]int64{"gpipe": 1 << 29, "1f1b": 1 << 30}[schedule]
					c := plancase.Stage(schedule, 16, stage, micro, 20, 24<<30, held)
					if err := compare(c, p, profiles[(i+1)%len(profiles)], rows); err != nil {
						return nil, err
					}
				}
			}
		}
		all = append(all, rows...)
	}
	return all, nil
}
