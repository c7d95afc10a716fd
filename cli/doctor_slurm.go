package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func (p *program) checkSlurmFiles(ctx context.Context, path string, partitions []string) []finding {
	text, err := os.ReadFile(path) //nolint:gosec // the caller names it
	if err != nil {
		return []finding{{"slurm.conf", "bad", fmt.Sprintf("cannot be read: %v: name it with --slurm-conf", err)}}
	}
	conf := parseSlurmConf(string(text))
	out := checkSlurmConf(conf, partitions)
	out = append(out, checkBeside(filepath.Dir(path), conf)...)
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
	if !filepath.IsAbs(plugin) {
		return out
	}
	file := checkPluginFile(plugin)
	out = append(out, file)
	if file.State == "bad" {
		return out
	}
	version, err := p.env.SlurmVersion(ctx, path)
	if err != nil {
		return append(out, finding{"plugin", "warn", fmt.Sprintf("not compared with Slurm: %v", err)})
	}
	return append(out, checkPluginVersion(plugin, version))
}

// checkBeside looks at the files that lie beside slurm.conf.
func checkBeside(dir string, conf slurmConf) []finding {
	var out []finding
	if strings.Contains(conf.value("JobSubmitPlugins"), "lua") {
		script := filepath.Join(dir, "job_submit.lua")
		switch text, err := os.ReadFile(script); { //nolint:gosec // Slurm's own folder
		case err != nil:
			out = append(out, finding{"job_submit.lua", "bad", fmt.Sprintf("cannot be read: %v: take over pipefill's part", err)})
		case !strings.Contains(string(text), "pipefill"):
			out = append(out, finding{"job_submit.lua", "bad", script + " has no part of pipefill: fill jobs are not held, and GPUs they ask for are not struck; " +
				"take over the part up to the line of dashes"})
		default:
			out = append(out, finding{"job_submit.lua", "good", script})
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.conf")) //nolint:gosec // Slurm's own folder
	if err != nil {
		return append(out, finding{"cgroup.conf", "warn", fmt.Sprintf("cannot be read: %v: Slurm's defaults were not looked at", err)})
	}
	return append(out, checkCgroupConf(parseSlurmConf(string(text)), conf)...)
}

func checkCgroupConf(cgroup, conf slurmConf) []finding {
	var out []finding
	plugin := cgroup.value("CgroupPlugin")
	switch plugin {
	case "cgroup/v1":
		out = append(out, finding{"cgroup.conf", "good", "CgroupPlugin=" + plugin})
	case "cgroup/v2":
		out = append(out, finding{"cgroup.conf", "bad", "CgroupPlugin=cgroup/v2: fill jobs cannot leave Slurm's groups there, so nothing is offered; " +
			"boot the nodes with v1 controllers beside v2 and set cgroup/v1"})
	default:
		out = append(out, finding{"cgroup.conf", "warn", "CgroupPlugin=" + orDefault(plugin, "autodetect") +
			": on nodes with v2 alone nothing is offered; set cgroup/v1"})
	}
	if conf.value("GresTypes") != "" && strings.Contains(conf.value("GresTypes"), "gpu") && !strings.EqualFold(cgroup.value("ConstrainDevices"), "yes") {
		out = append(out, finding{"cgroup.conf", "bad", "ConstrainDevices=" + orDefault(cgroup.value("ConstrainDevices"), "no") +
			": every job may open every GPU, fill jobs outside their bubbles too; set ConstrainDevices=yes"})
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
	memory := conf.value("DefMemPerCPU") + conf.value("DefMemPerNode") + conf.value("DefMemPerGPU")
	check("DefMemPerCPU", memory != "" && memory != "0" && !strings.EqualFold(memory, "UNLIMITED"), "warn", "DefMemPerCPU="+orDefault(memory, "unset"),
		"a main job without --mem takes all of a node's memory and leaves none to fill jobs; set it")
	rest := conf.value("AuthAltTypes")
	check("AuthAltTypes", strings.Contains(rest, "auth/jwt"), "bad", "AuthAltTypes="+orDefault(rest, "unset"),
		"slurmrestd cannot tell pipefillctld's token; set auth/jwt, with AuthAltParameters=jwt_key=FILE")
	for _, name := range partitions {
		part, ok := conf.partitions[name]
		check("partition "+name, ok, "bad", "fill partition "+name, "slurm.conf has none; add a PartitionName line, or name yours with --partition")
		if ok {
			shared := part["oversubscribe"]
			check("partition "+name, strings.HasPrefix(strings.ToUpper(shared), "FORCE"), "bad", "OverSubscribe="+orDefault(shared, "NO"),
				"a fill job must share the main job's CPUs; set OverSubscribe=FORCE:4")
			out = append(out, checkFillPartition(name, part, conf)...)
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

// checkFillPartition holds a fill partition to what is easily forgotten.
func checkFillPartition(name string, part map[string]string, conf slurmConf) []finding {
	var out []finding
	note := func(state, text string) { out = append(out, finding{"partition " + name, state, text}) }
	tier, err := strconv.Atoi(orDefault(part["prioritytier"], "1"))
	if err == nil && tier > 0 {
		for other, p := range conf.partitions {
			if theirs, err := strconv.Atoi(orDefault(p["prioritytier"], "1")); err == nil && other != name && other != "DEFAULT" && theirs <= tier {
				note("warn", fmt.Sprintf("PriorityTier=%d: not below %s's: its held jobs stand before main jobs; set PriorityTier=0", tier, other))
				break
			}
		}
	}
	weights := part["tresbillingweights"]
	if weights == "" {
		note("warn", "TRESBillingWeights unset: Slurm bills fill jobs for the time they wait; set TRESBillingWeights=\"CPU=0.0,Mem=0.0\"")
	}
	if strings.EqualFold(part["state"], "DOWN") || strings.EqualFold(part["state"], "INACTIVE") {
		note("bad", "State="+part["state"]+": nothing starts there; set State=UP")
	}
	if strings.EqualFold(part["default"], "YES") {
		note("warn", "Default=YES: jobs without -p become fill jobs; make a main partition the default")
	}
	if most := part["maxtime"]; most == "" || strings.EqualFold(most, "UNLIMITED") || strings.EqualFold(most, "INFINITE") {
		note("warn", "MaxTime="+orDefault(most, "UNLIMITED")+": a job whose bubbles never come waits for ever; set one, and max_time_min in pipefillctld.yaml")
	}
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
