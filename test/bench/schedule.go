package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
	"pipefill/test/quality"
)

// The queue and the cluster that the scheduler is measured with (DESIGN,
// section 10).
const (
	scheduleJobs  = 100_000
	scheduleSlots = 8192
	nowMs         = int64(1_800_000_000_000)
)

// What the scheduler is to reach.
const (
	slotTarget  = 5.0   // ms, p99, one freed slot
	roundTarget = 500.0 // ms, all slots free
	anyTarget   = 60.0  // ms, one freed slot, any expression
	heapTarget  = 512.0 // MB
)

// queueJob makes a job that no other is quite like.
func queueJob(rng *rand.Rand, id int64) store.FillJob {
	user := rng.IntN(500)
	j := store.FillJob{
		ID: id, JobID: id, FirstMs: nowMs - rng.Int64N(6*24*3_600_000), Requeue: true, User: fmt.Sprintf("user%d", user), Account: fmt.Sprintf("account%d", user%20),
		Name: fmt.Sprintf("job%d", rng.IntN(50)), Partition: "pipefill", LimitMs: 60_000 * (1 + rng.Int64N(1440)), ExpectMs: 1000 + rng.Int64N(86_400_000),
		Mode: pipefill.ModeChunked, MemBytes: []int64{0, 1, 2, 4, 8}[rng.IntN(5)] << 30, Profile: []string{"", "bert-base", "bert-large", "swin", "xlm"}[rng.IntN(5)],
	}
	if rng.IntN(3) == 0 {
		j.DeadlineMs = nowMs + rng.Int64N(4*24*3_600_000)
	}
	return j
}

// queueSlots are those of eight main jobs of 1,024 GPUs, 16 stages each; two of
// them let only some accounts in. A stage's free memory differs by its rank.
func queueSlots() []schedule.Slot {
	rng := rand.New(rand.NewPCG(3, 3))
	var out []schedule.Slot
	for i := range scheduleSlots {
		main, stage := i/1024, i%16
		s := schedule.Slot{
			Node: fmt.Sprintf("node%04d", i/8), Device: pipefill.DeviceID(fmt.Sprintf("gpu:%d", i%8)), Main: pipefill.JobKey{JobID: int64(main + 1)},
			FreeBytes: int64(2+stage/2)<<30 + rng.Int64N(256<<20), Share: schedule.RoundShare(0.15 + 0.03*float64(stage)), IterationS: 4, LongestS: 0.3,
			Bubbles: 2 + stage, Cycle: fmt.Sprintf("%d-%d", main/2, stage), MainEndMs: nowMs + int64(main+1)*3_600_000,
		}
		if main >= 6 {
			s.Options = "allow=account:account1+account:account2+account:account3"
		}
		out = append(out, s)
	}
	return out
}

// queueSpeed stands for the planner: what a plan makes of a cycle.
func queueSpeed(profile string, s schedule.Slot) float64 {
	of := map[string]float64{"bert-base": 0.9, "bert-large": 0.8, "swin": 0.7, "xlm": 0.5}[profile]
	if profile == "xlm" && strings.HasSuffix(s.Cycle, "-0") {
		return 0
	}
	return of * s.Share
}

func fullQueue(p *schedule.Policy) (*schedule.Scheduler, *rand.Rand) {
	rng := rand.New(rand.NewPCG(1, 1))
	s := schedule.New(p, schedule.Options{Speed: queueSpeed, MaxWait: schedule.DefaultMaxWait, Limits: schedule.Limits{PerUser: 64}})
	s.SetShares(queueShares(rng))
	for id := range int64(scheduleJobs) {
		s.Put(queueJob(rng, id+1))
	}
	return s, rng
}

func queueShares(rng *rand.Rand) schedule.Shares {
	shares := schedule.Shares{Accounts: map[string]float64{"account1": 4, "account2": 2}}
	for u := range 500 {
		shares.Usage = append(shares.Usage, schedule.Usage{User: fmt.Sprintf("user%d", u), Account: fmt.Sprintf("account%d", u%20), Seconds: rng.Float64() * 1e6})
	}
	return shares
}

// heaviest is as long as an expression may be, of attributes that all move, so
// that nothing of it can be kept.
func heaviest() (*schedule.Policy, error) {
	term := "halving(abs(job.slack_s), 3600) * log(2 + job.wait_s) + "
	for n := 40; ; n-- {
		p, err := schedule.Compile("heaviest", "", strings.Repeat(term, n)+"0", nil)
		if err == nil || n == 1 {
			return p, err
		}
	}
}

func (b *bench) schedule(ctx context.Context) error {
	set := schedule.Builtin()
	for _, name := range set.Names() {
		if err := b.measurePolicy(ctx, name, set[name], slotTarget, 600); err != nil {
			return err
		}
	}
	p, err := heaviest()
	if err != nil {
		return err
	}
	if err := b.measurePolicy(ctx, "longest expression", p, anyTarget, 100); err != nil {
		return err
	}
	return b.quality()
}

// quality holds assignments against exact ones.
func (b *bench) quality() error {
	var rows []row
	for _, q := range quality.Measure(60) {
		r := row{Name: "schedule quality, 1 is exact: " + q.Family, Unit: "", Value: q.Mean, N: q.N}
		b.say("  p95 %.3f, most %.3f of %s", q.P95, q.Most, q.Family)
		if !q.Bound {
			r.aim(quality.Aim, q.Mean <= quality.Aim)
		}
		rows = append(rows, r)
	}
	return b.add(rows...)
}

// measurePolicy frees one slot after another, then all at once.
func (b *bench) measurePolicy(ctx context.Context, name string, p *schedule.Policy, target float64, decisions int) error {
	s, rng := fullQueue(p)
	slots := queueSlots()
	begin := b.now()
	got := len(s.Assign(nowMs, slots))
	first := b.since(begin)
	if got < scheduleSlots/2 {
		return fmt.Errorf("%s: only %d of %d slots were assigned", name, got, scheduleSlots)
	}
	var one []float64
	at := nowMs
	for i := range decisions {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at += 1000
		slot := slots[rng.IntN(len(slots))]
		s.Vacate(slot.Node, slot.Device)
		shares := queueShares(rng)
		begin := b.now()
		s.Put(queueJob(rng, scheduleJobs+int64(i)+1))
		if i%60 == 0 {
			s.SetShares(shares) // usage comes in once a minute
		}
		s.Assign(at, []schedule.Slot{slot})
		one = append(one, b.since(begin))
	}
	slices.Sort(one)
	median, worst := one[len(one)/2], one[len(one)*99/100]
	freed := row{Name: "schedule " + name + ": one freed slot to its decision", Unit: "ms", Value: median, P50: &median, P99: &worst, N: len(one)}
	freed.aim(target, worst <= target)
	rows := []row{freed}
	if target == slotTarget {
		all := row{Name: "schedule " + name + ": a round over all free slots, nothing kept", Unit: "ms", Value: first, N: 1}
		all.aim(roundTarget, first <= roundTarget)
		runtime.GC()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		heap := float64(mem.HeapAlloc) / 1e6
		used := row{Name: "schedule " + name + ": memory for queue, slots and what is kept", Unit: "MB", Value: heap, N: 1}
		used.aim(heapTarget, heap <= heapTarget)
		rows = append(rows, all, used)
	}
	runtime.KeepAlive(s)
	return b.add(rows...)
}

func (b *bench) since(begin time.Time) float64 { return b.now().Sub(begin).Seconds() * 1000 }
