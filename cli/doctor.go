package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
)

// finding is one thing that doctor looked at.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"` // good, warn, bad
	Text  string `json:"text"`  // what was found and, if not good, what to do
}

var findingColumns = []column[finding]{
	{"CHECK", false, func(f finding) string { return f.Check }},
	{"STATE", false, func(f finding) string { return strings.ToUpper(f.State) }},
	{"FINDING", false, func(f finding) string { return f.Text }},
}

func (p *program) doctorCommand() *cli.Command {
	return command(&cli.Command{
		Name: "doctor", Usage: "look at Slurm's configuration and at pipefill's daemons, and say what to mend; exit status 4 if something is bad",
		Flags: outputFlags(
			&cli.StringFlag{Name: "slurm-conf", EnvVars: []string{"SLURM_CONF"}, Value: "/etc/slurm/slurm.conf", Usage: "Slurm's configuration"},
			&cli.StringFlag{Name: "config", Value: "/etc/pipefill/pipefillctld.yaml", Usage: "pipefillctld's configuration, on its host"},
			&cli.StringFlag{Name: "node-config", Value: "/etc/pipefill/pipefilld.yaml", Usage: "pipefilld's configuration, on a node"},
			&cli.StringSliceFlag{Name: "partition", Value: cli.NewStringSlice("pipefill"), Usage: "a fill partition"},
		),
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usage("doctor: takes no argument, not %q", c.Args().First())
			}
			findings := p.checkSlurmFiles(c.Context, c.String("slurm-conf"), c.StringSlice("partition"))
			findings = append(findings, p.checkHost(c)...)
			findings = append(findings, p.checkController(c)...)
			if err := printRows(p.env.Stdout, c, findings, findingColumns); err != nil {
				return err
			}
			bad := 0
			for _, f := range findings {
				if f.State == "bad" {
					bad++
				}
			}
			if bad > 0 {
				return pipefill.Errorf(pipefill.CodeConflict, "doctor: %d of %d checks are bad", bad, len(findings))
			}
			return nil
		},
	})
}

// skewMost is the difference of two clocks that is left alone: munge credentials
// live for 300 s.
const skewMost = time.Minute

// checkFence names the nodes on whose GPUs nothing but the programs themselves
// keeps fill jobs to their memory.
func checkFence(slots []api.Slot) []finding {
	var open []string
	gpus := 0
	for _, s := range slots {
		if s.Main.Device.Kind() != pipefill.KindGPU {
			continue
		}
		gpus++
		if s.Main.Fence != "driver" && !slices.Contains(open, s.Node) {
			open = append(open, s.Node)
		}
	}
	switch {
	case gpus == 0:
		return nil
	case len(open) == 0:
		return []finding{{"memory fence", "good", "the drivers limit fill jobs' memory"}}
	}
	slices.Sort(open)
	return []finding{{"memory fence", "warn", fmt.Sprintf("on %s the driver takes no limits: PyTorch and mode launch keep to their cap there, and another program may take "+
		"memory that the main job needs before pipefilld ends it; use allow= or a driver of r615 or newer", strings.Join(open, ", "))}}
}

// shutLong is for how long a device of a main job may be shut unasked for before
// it is said: programs take their time to start.
const shutLong = 10 * time.Minute

// checkSlots names the devices of main jobs that have been shut for long, by
// why; those that a trainer has turned off are meant to be.
func checkSlots(slots []api.Slot, now time.Time) []finding {
	shut := map[string][]string{}
	for _, s := range slots {
		off := slices.Contains(strings.Split(s.Main.Options, ","), "off")
		if !s.Main.Enabled && !off && now.Sub(time.UnixMilli(s.Main.StartedMs)) > shutLong {
			shut[s.Main.Reason] = append(shut[s.Main.Reason], fmt.Sprintf("%s %s of job %d", s.Node, s.Main.Device, s.Main.Job.JobID))
		}
	}
	out := []finding{{"slots", "good", fmt.Sprintf("%d devices of running main jobs", len(slots))}}
	for _, why := range slices.Sorted(maps.Keys(shut)) {
		text := strings.Join(shut[why][:min(len(shut[why]), 4)], ", ")
		if more := len(shut[why]) - 4; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		out = append(out, finding{"slots", "warn", fmt.Sprintf("%s: shut: %s", text, why)})
	}
	return out
}

// checkController asks the controller how it is.
func (p *program) checkController(c *cli.Context) []finding {
	var out []finding
	err := p.ask(c, func(ctx context.Context, from controller) error {
		status, err := from.Ping(ctx)
		if err != nil {
			return err
		}
		out = append(out, finding{"controller", "good", fmt.Sprintf("pipefillctld %s of cluster %s answers", status.Version, status.Cluster)})
		if status.Version != pipefill.Version() {
			out = append(out, finding{"controller", "warn", fmt.Sprintf("this pipefill-cli is %s: install the same release here", pipefill.Version())})
		}
		if skew := p.env.Now().Sub(time.UnixMilli(status.NowMs)).Abs(); skew > skewMost {
			out = append(out, finding{"clock", "bad", fmt.Sprintf("this host's clock and the controller's differ by %s: munge refuses what is older than 5 minutes; run NTP on both",
				skew.Round(time.Second))})
		}
		for _, fault := range status.Faults {
			out = append(out, finding{"controller", "bad", fault})
		}
		slots, err := from.Slots(ctx)
		if err != nil {
			return err
		}
		out = append(out, checkFence(slots)...)
		out = append(out, checkSlots(slots, p.env.Now())...)
		return nil
	})
	if err != nil {
		out = append(out, finding{"controller", "bad", err.Error()})
	}
	return out
}
