package simulator

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/simulator/pipeline"
	"pipefill/simulator/workload"
)

// check notes every rule that a value breaks, and fills in what is left out of
// main jobs.
func (f *File) check() {
	m := f.from
	finite := func(path string, value, least, most float64) {
		m.rule(value >= least && value <= most && !math.IsNaN(value), path, "%g: write %g to %g", value, least, most)
	}
	m.rule(f.Version == FileVersion, "version", "%d: write %d", f.Version, FileVersion)
	m.rule(f.Seeds >= 1 && f.Seeds <= 1000, "seeds", "%d: write 1 to 1000", f.Seeds)
	finite("days", f.Days, 0.001, 3650)
	m.rule(len(f.MainJobs) > 0 || f.recorded != nil, "main_jobs", "none: write at least one")
	for i := range f.MainJobs {
		f.checkMain(i, fmt.Sprintf("main_jobs[%d]", i))
	}
	g := &f.Filling
	m.rule(len(g.Policies) > 0, "filling.policies", "none: write at least one of %s, or a .policy file", strings.Join(schedule.Builtin().Names(), ", "))
	for i, p := range g.Policies {
		_, err := f.policy(p)
		m.rule(err == nil, fmt.Sprintf("filling.policies[%d]", i), "%v", err)
	}
	finite("filling.share", g.Share, 0.01, 2)
	finite("filling.guard_ms", g.GuardMs, 0, 1000)
	finite("filling.min_ms", g.LeastMs, 0, 60000)
	for i, k := range g.Kinds {
		m.rule(slices.Contains(offeredKinds, k), fmt.Sprintf("filling.kinds[%d]", i), "%q: write some of %s", k, strings.Join(offeredKinds, ", "))
	}
	finite("filling.control_pct", g.ControlPct, 0, 90)
	for path, us := range map[string]float64{"filling.open_us": g.OpenUs, "filling.late_us": g.LateUs, "filling.announce_us": g.AnnounceUs} {
		finite(path, us, 0, 1e6)
	}
	finite("filling.start_s", g.StartS, 0, 3600)
	for path, pct := range map[string]float64{"filling.inference_pct": g.InferencePct, "filling.training_pct": g.TrainingPct, "filling.program_pct": g.ProgramPct} {
		finite(path, pct, 1, 100)
	}
	m.rule(g.Plans == "best" || g.Plans == "single", "filling.plans", "%q: write best or single", g.Plans)
	finite("filling.bubble_scale_pct", g.BubbleScalePct, 1, 10000)
	finite("device.memory_gib", f.Device.MemoryGiB, 0.1, 10000)
	finite("device.fill_reserve_gib", f.Device.ReserveGiB, 0, f.Device.MemoryGiB)
	finite("device.fill_tflops", f.Device.TFLOPS, 0.001, 1e6)
	finite("device.host_link_gbps", f.Device.HostLinkGBps, 0.1, 1e5)
	f.checkWorkload(finite)
	f.checkSweep(finite)
	slices.Sort(m.list)
}

var offeredKinds = []string{pipefill.BubbleFillDrain.String(), pipefill.BubbleFwdBwd.String(), pipefill.BubbleSteady.String()}

func (f *File) checkMain(i int, at string) {
	m, j := f.from, &f.MainJobs[i]
	m.rule(j.Name != "", at+".name", "none: write one")
	for k := range i {
		m.rule(f.MainJobs[k].Name != j.Name, at+".name", "%q: main_jobs[%d] has it too", j.Name, k)
	}
	if len(j.Measured) > 0 {
		for k, d := range j.Measured {
			m.rule(d.Cycle != "", fmt.Sprintf("%s.measured[%d].cycle", at, k), "none: write the file of a bubble cycle")
			m.rule(d.Devices >= 1 && d.Devices <= maxGPUs, fmt.Sprintf("%s.measured[%d].devices", at, k), "%d: write 1 to %d", d.Devices, maxGPUs)
		}
		m.rule(j.Schedule == "", at+".schedule", "a main job with measured cycles has no schedule")
		return
	}
	m.rule(j.GPUs >= 1 && j.GPUs <= maxGPUs, at+".gpus", "%d: write 1 to %d", j.GPUs, maxGPUs)
	m.rule(j.JitterPct >= 0 && j.JitterPct <= 100, at+".jitter_pct", "%g: write 0 to 100", j.JitterPct)
	if len(m.list) > 0 {
		return
	}
	p, wrong := j.pipeline(f.Device)
	wrong = append(wrong, p.Check()...)
	for _, w := range wrong {
		key, what, _ := strings.Cut(w, ": ")
		m.rule(false, at+"."+key, "%s", what)
	}
}

// maxGPUs bounds a main job: 1 million.
const maxGPUs = 1 << 20

func (f *File) checkWorkload(finite func(string, float64, float64, float64)) {
	m, l := f.from, &f.Workload
	sources := []string{sourceSynthetic}
	for _, s := range workload.Formats {
		sources = append(sources, string(s))
	}
	recorded := l.Source == sourceCluster && f.trace != nil
	m.rule(recorded || slices.Contains(sources, l.Source), "workload.source", "%q: write one of %s", l.Source, strings.Join(sources, ", "))
	m.rule(recorded || (l.Source == sourceSynthetic) == (l.File == ""), "workload.file", "%q: a source of %s needs %s", l.File, l.Source,
		map[bool]string{true: "no file", false: "a file"}[l.Source == sourceSynthetic])
	finite("workload.load", l.Load, 0, 100)
	m.rule(l.Load != 0 || recorded || l.Source != sourceSynthetic && l.Source != string(workload.Runtimes), "workload.load", "0: a source of %s has no arrivals of its own: write more than 0", l.Source)
	m.rule(l.Backlog >= 0 && l.Backlog <= 5_000_000, "workload.backlog", "%d: write 0 to 5000000", l.Backlog)
	finite("workload.longest_h", l.LongestH, 0.001, 10000)
	m.rule(l.Users >= 1 && l.Users <= 100_000, "workload.users", "%d: write 1 to 100000", l.Users)
	finite("workload.deadline_factor", l.DeadlineFactor, 0, 1e6)
	for name, weight := range l.Mix {
		_, known := workload.KindNamed(name)
		m.rule(known || name == kindProgram, "workload.mix."+name, "there is no such kind: write some of %s, or %s", workload.KindNames(), kindProgram)
		finite("workload.mix."+name, weight, 0, 1e9)
	}
	for i, p := range l.Profiles {
		at := fmt.Sprintf("workload.profiles[%d]", i)
		m.rule(p.File != "", at+".file", "none: write the file of a fill profile")
		finite(at+".weight", p.Weight, 0, 1e9)
		finite(at+".tflops", p.TFLOPS, 0, 1e6)
	}
}

func (f *File) checkSweep(finite func(string, float64, float64, float64)) {
	m, s := f.from, &f.Sweep
	for i, n := range s.GPUs {
		m.rule(n >= 1 && n <= maxGPUs, fmt.Sprintf("sweep.gpus[%d]", i), "%d: write 1 to %d", n, maxGPUs)
	}
	for i, n := range s.MicroBatches {
		m.rule(n >= 1 && n <= 65536, fmt.Sprintf("sweep.micro_batches[%d]", i), "%d: write 1 to 65536", n)
	}
	for i, name := range s.Schedule {
		m.rule(slices.Contains(pipeline.Schedules, pipeline.Schedule(name)), fmt.Sprintf("sweep.schedule[%d]", i), "%q: write some of %v", name, pipeline.Schedules)
	}
	for i, x := range s.FreeGiB {
		finite(fmt.Sprintf("sweep.free_gib[%d]", i), x, 0.001, 10000)
	}
	for i, x := range s.BubbleScalePct {
		finite(fmt.Sprintf("sweep.bubble_scale_pct[%d]", i), x, 1, 10000)
	}
	for i, x := range s.HostLinkGBps {
		finite(fmt.Sprintf("sweep.host_link_gbps[%d]", i), x, 0.1, 1e5)
	}
	for i, x := range s.GuardMs {
		finite(fmt.Sprintf("sweep.guard_ms[%d]", i), x, 0, 1000)
	}
}
