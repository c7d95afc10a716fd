package schedule

import (
	"pipefill"
	"pipefill/controller/store"
)

// facts are a waiting job as policies see it. They never change, but for gone: a
// job that does gets new ones.
type facts struct {
	firstMs, deadlineMs, workS, limitS float64
	memBytes, usedS, attempts, devices float64
	tier                               float64
	profile, group, shape              int32
	gpu, gone, starving                bool
	ownWorkS                           float64 // of the job, where workS is its place's
	source                             string
	job                                *store.FillJob
	where                              *where // nil: anywhere
}

// columns hold the facts of all jobs, each kind together, since a policy looks at
// few of them.
type columns struct {
	firstMs, deadlineMs, workS, limitS, memBytes, usedS []float64
	attempts, devices, tier, ownWorkS                   []float64
	profile, group, shape                               []int32
	gpu, gone, starving                                 []bool
	source                                              []string
	job                                                 []*store.FillJob
	where                                               []*where
}

func (c *columns) len() int { return len(c.job) }

func (c *columns) push(f facts) {
	c.firstMs, c.deadlineMs = append(c.firstMs, f.firstMs), append(c.deadlineMs, f.deadlineMs)
	c.workS, c.limitS, c.memBytes = append(c.workS, f.workS), append(c.limitS, f.limitS), append(c.memBytes, f.memBytes)
	c.usedS, c.attempts, c.devices = append(c.usedS, f.usedS), append(c.attempts, f.attempts), append(c.devices, f.devices)
	c.tier, c.ownWorkS = append(c.tier, f.tier), append(c.ownWorkS, f.ownWorkS)
	c.profile, c.group, c.shape = append(c.profile, f.profile), append(c.group, f.group), append(c.shape, f.shape)
	c.gpu, c.gone, c.starving = append(c.gpu, f.gpu), append(c.gone, f.gone), append(c.starving, f.starving)
	c.source, c.job, c.where = append(c.source, f.source), append(c.job, f.job), append(c.where, f.where)
}

func (c *columns) facts(i int32) facts {
	return facts{
		firstMs: c.firstMs[i], deadlineMs: c.deadlineMs[i], workS: c.workS[i], limitS: c.limitS[i], memBytes: c.memBytes[i], usedS: c.usedS[i],
		attempts: c.attempts[i], devices: c.devices[i], tier: c.tier[i], ownWorkS: c.ownWorkS[i], profile: c.profile[i], group: c.group[i], shape: c.shape[i],
		gpu: c.gpu[i], gone: c.gone[i], starving: c.starving[i], source: c.source[i], job: c.job[i], where: c.where[i],
	}
}

// group is the jobs of one user in one account.
type group struct {
	user, account                    string
	userID, accountID                int
	fairshare, usageS, accountUsageS float64
	running, accountRunning          float64
}

// shape is what decides whether a job fits a slot, whatever its score.
type shape struct {
	group    int32
	profile  int32
	gpu      bool
	mode     pipefill.Mode
	once     bool // started, and not to be restarted
	gang     bool // of several devices
	memBytes int64
}

func (s *Scheduler) factsOf(j *store.FillJob) facts {
	work, source := Expected(*j)
	workS := float64(work) / 1000
	f := facts{
		firstMs: float64(j.FirstMs), deadlineMs: float64(j.DeadlineMs), workS: workS, ownWorkS: workS, limitS: Never, memBytes: float64(j.MemBytes),
		usedS: float64(j.DeviceMs) / 1000, attempts: float64(j.Attempts), devices: float64(max(j.Devices, 1)), gpu: j.GPUs != "",
		source: source, job: j, group: s.groupOf(j), profile: s.profileOf(j.Profile),
	}
	if j.LimitMs > 0 {
		f.limitS = float64(j.LimitMs) / 1000
	}
	if f.profile > 0 && s.options.Speed != nil && j.WorkMs == 0 {
		f.source = "plan+" + source // how fast it is the plan tells, how much it is the rest
	}
	// An operator's word, then who had to leave a device.
	f.tier = 4*float64(j.SitePriority) + 2*flag(j.Front)
	f.where = s.whereOf(j)
	f.shape = s.shapeOf(shape{
		group: f.group, profile: f.profile, gpu: f.gpu, mode: j.Mode, once: j.Attempts > 0 && !j.Requeue, gang: j.Devices > 1, memBytes: j.MemBytes,
	})
	return f
}

// at returns the job of f with the numbers of another place in the queue: what
// is its own is what it needs to run.
func (f facts) at(place facts) facts {
	out := place
	out.job, out.gone, out.source, out.where = f.job, false, f.source, f.where
	out.devices, out.profile, out.group, out.shape, out.ownWorkS = f.devices, f.profile, f.group, f.shape, f.ownWorkS
	return out
}
