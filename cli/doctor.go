package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"pipefill"
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
			&cli.StringSliceFlag{Name: "partition", Value: cli.NewStringSlice("pipefill"), Usage: "a fill partition"},
		),
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usage("doctor: takes no argument, not %q", c.Args().First())
			}
			findings := checkSlurmFiles(c.String("slurm-conf"), c.StringSlice("partition"))
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

// checkController asks the controller how it is.
func (p *program) checkController(c *cli.Context) []finding {
	var out []finding
	err := p.ask(c, func(ctx context.Context, from controller) error {
		status, err := from.Ping(ctx)
		if err != nil {
			return err
		}
		out = append(out, finding{"controller", "good", fmt.Sprintf("pipefillctld %s of cluster %s answers", status.Version, status.Cluster)})
		for _, fault := range status.Faults {
			out = append(out, finding{"controller", "bad", fault})
		}
		slots, err := from.Slots(ctx)
		if err != nil {
			return err
		}
		out = append(out, finding{"slots", "good", fmt.Sprintf("%d devices of running main jobs", len(slots))})
		return nil
	})
	if err != nil {
		out = append(out, finding{"controller", "bad", err.Error()})
	}
	return out
}

func checkSlurmFiles(path string, partitions []string) []finding {
	text, err := os.ReadFile(path) //nolint:gosec // the caller names it
	if err != nil {
		return []finding{{"slurm.conf", "bad", fmt.Sprintf("cannot be read: %v: name it with --slurm-conf", err)}}
	}
	conf := parseSlurmConf(string(text))
	out := checkSlurmConf(conf, partitions)
	plugstack := conf.value("PlugStackConfig")
	if plugstack == "" {
		plugstack = filepath.Join(filepath.Dir(path), "plugstack.conf")
	}
	text, err = os.ReadFile(plugstack) //nolint:gosec // Slurm names it
	if err != nil {
		return append(out, finding{"plugstack.conf", "bad", fmt.Sprintf("cannot be read: %v: make it, with the line: optional spank_pipefill.so", err)})
	}
	plugin, findings := checkPlugstack(string(text))
	out = append(out, findings...)
	if filepath.IsAbs(plugin) {
		out = append(out, checkPluginFile(plugin))
	}
	return out
}

// slurmConf is what doctor needs of slurm.conf: keys in lower case.
type slurmConf struct {
	values     map[string]string
	partitions map[string]map[string]string // by name, keys in lower case
}

func (c slurmConf) value(key string) string { return c.values[strings.ToLower(key)] }

// parseSlurmConf reads lines of key=value; comments, continuations and the
// one-line PartitionName records as slurm.conf(5) has them. Include is not
// followed.
func parseSlurmConf(text string) slurmConf {
	conf := slurmConf{values: map[string]string{}, partitions: map[string]map[string]string{}}
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		pairs := map[string]string{}
		for _, field := range fields {
			key, value, _ := strings.Cut(field, "=")
			pairs[strings.ToLower(key)] = strings.Trim(value, `"`)
		}
		if name, ok := pairs["partitionname"]; ok {
			conf.partitions[name] = pairs
			continue
		}
		if _, ok := pairs["nodename"]; ok || len(fields) == 0 {
			continue
		}
		maps.Copy(conf.values, pairs)
	}
	return conf
}

// checkSlurmConf holds slurm.conf to what pipefill needs; each rule was tried
// (Slurm 22.05.8 and 24.11.5).
func checkSlurmConf(conf slurmConf, partitions []string) []finding {
	var out []finding
	check := func(name string, good bool, state, text, mend string) {
		if good {
			out = append(out, finding{name, "good", text})
			return
		}
		out = append(out, finding{name, state, text + ": " + mend})
	}
	preempt := conf.value("PreemptType")
	check("PreemptType", preempt == "" || preempt == "preempt/none", "bad", "PreemptType="+orDefault(preempt, "preempt/none"),
		"with preemption a fill job never joins a running main job, or blocks new ones; set preempt/none")
	parameters := strings.ToUpper(conf.value("SelectTypeParameters"))
	check("SelectTypeParameters", strings.Contains(parameters, "MEMORY"), "warn", "SelectTypeParameters="+orDefault(parameters, "unset"),
		"without memory as a resource main and fill jobs can starve each other of it; set CR_CPU_Memory or CR_Core_Memory")
	check("JobSubmitPlugins", strings.Contains(conf.value("JobSubmitPlugins"), "lua"), "warn",
		"JobSubmitPlugins="+orDefault(conf.value("JobSubmitPlugins"), "unset"),
		"fill jobs are held only once pipefillctld sees them; set lua and install job_submit.lua, or have users call pipefill-cli submit")
	check("RequeueExitHold", slices.Contains(strings.Split(conf.value("RequeueExitHold"), ","), "199"), "warn",
		"RequeueExitHold="+orDefault(conf.value("RequeueExitHold"), "unset"),
		"a fill job that starts without a bubble ends as failed when the controller is away; add 199")
	check("ProctrackType", conf.value("ProctrackType") == "" || conf.value("ProctrackType") == "proctrack/cgroup", "warn",
		"ProctrackType="+orDefault(conf.value("ProctrackType"), "proctrack/cgroup"), "processes that leave their session escape Slurm; set proctrack/cgroup")
	for _, name := range partitions {
		part, ok := conf.partitions[name]
		check("partition "+name, ok, "bad", "fill partition "+name, "slurm.conf has none; add a PartitionName line, or name yours with --partition")
		if ok {
			shared := part["oversubscribe"]
			check("partition "+name, strings.HasPrefix(strings.ToUpper(shared), "FORCE"), "bad", "OverSubscribe="+orDefault(shared, "NO"),
				"a fill job must share the main job's CPUs; set OverSubscribe=FORCE:4")
		}
	}
	for name, part := range conf.partitions {
		if slices.Contains(partitions, name) || name == "DEFAULT" {
			continue
		}
		shared := part["oversubscribe"]
		check("partition "+name, strings.HasPrefix(strings.ToUpper(shared), "FORCE"), "warn", "OverSubscribe="+orDefault(shared, "NO"),
			"fill jobs cannot join main jobs that take whole nodes of it; set OverSubscribe=FORCE:1 where main jobs run")
	}
	slices.SortStableFunc(out, func(a, b finding) int { return strings.Compare(a.Check, b.Check) })
	return out
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// checkPlugstack finds the plugin's line.
func checkPlugstack(text string) (plugin string, out []finding) {
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(filepath.Base(fields[1]), "spank_pipefill") {
			continue
		}
		if fields[0] != "optional" {
			return fields[1], []finding{{"plugstack.conf", "bad", fields[0] + " " + fields[1] + ": a required plugin that fails drains nodes; write optional"}}
		}
		return fields[1], []finding{{"plugstack.conf", "good", strings.Join(fields, " ")}}
	}
	return "", []finding{{"plugstack.conf", "bad", "no line for spank_pipefill.so: add: optional spank_pipefill.so"}}
}

// checkPluginFile: what slurmd loads as root may be nobody else's to write.
func checkPluginFile(path string) finding {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return finding{"plugin", "bad", fmt.Sprintf("%v: install it, on this host too", err)}
	case info.Mode().Perm()&0o022 != 0:
		return finding{"plugin", "bad", fmt.Sprintf("%s has mode %o: slurmd loads it as root; chmod go-w", path, info.Mode().Perm())}
	}
	return finding{"plugin", "good", path}
}
