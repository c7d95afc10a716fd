package schedule

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/expr-lang/expr"

	"pipefill"
	"pipefill/controller/store"
)

const testNowMs = 1_800_000_000_000

// full evaluates every job on every free slot by expr's own machine, again for
// each pair: what Assign is to equal.
type full struct {
	s    *Scheduler
	now  int64
	jobs []store.FillJob
	free []Slot
	runs map[string]int // by "user NAME" and "account NAME"
	busy []Busy
	// The facts by which a job has its place, by job: its own, until it trades.
	places map[int64]facts
}

func (r *full) limited(j *store.FillJob) bool {
	l := r.s.options.Limits
	user, account := l.user(j.User), l.account(j.Account)
	return user > 0 && r.runs["user "+j.User] >= user || account > 0 && r.runs["account "+j.Account] >= account
}

// key is tier and scores; the environment is filled in by the attributes'
// names, so that a wrong name or getter shows.
func (r *full) key(t *testing.T, j *store.FillJob, slot *Slot) []float64 {
	t.Helper()
	s := r.s
	f := r.place(j)
	starving := s.options.MaxWait > 0 && float64(r.now)-f.firstMs >= float64(s.options.MaxWait.Milliseconds())
	key := []float64{f.tier - flag(f.starving) + flag(starving)}
	if starving {
		return key
	}
	var m market
	if s.policy.uses.worth {
		m = r.market()
	}
	c := context{columns: new(columns), nowMs: float64(r.now), slot: slot, groups: s.groups, doneS: m.doneS}
	c.push(f)
	for _, p := range s.profiles {
		speed := slot.Share
		if p != "" {
			speed = s.options.Speed(p, *slot)
		}
		c.speeds = append(c.speeds, speed)
	}
	c.misfits = m.misfits(c.speeds)
	env := map[string]map[string]any{"job": {}, "slot": {}}
	for _, a := range Attributes {
		of, name := a.Name[:len(a.Name)-len(after(a.Name))-1], after(a.Name)
		switch a.Type {
		case "number":
			env[of][name] = a.value(&c, 0)
			if name == "elsewhere_s" {
				env[of][name] = r.elsewhere(&f)
			}
		case "bool":
			env[of][name] = a.value(&c, 0) != 0
		case "string":
			env[of][name] = a.text(&c, 0)
		}
	}
	out, err := expr.Run(s.policy.program, structured(env))
	if err != nil {
		t.Fatal(err)
	}
	if list, ok := out.([]any); ok {
		for _, x := range list {
			key = append(key, number(x))
		}
		return key
	}
	return append(key, number(out))
}

// market is of each slot by itself.
func (r *full) market() market {
	var pools []pool
	work, longest, last := make([]float64, len(r.s.profiles)), make([]float64, len(r.s.profiles)), int64(0)
	add := func(slot Slot, busyMs int64) {
		one := pool{speeds: []float64{slot.Share}, count: 1, busyMs: busyMs, soonS: float64(busyMs) / 1000}
		for _, p := range r.s.profiles[1:] {
			one.speeds = append(one.speeds, r.s.options.Speed(p, slot))
		}
		pools = append(pools, one)
		last = max(last, busyMs)
	}
	for _, slot := range r.free {
		add(slot, 0)
	}
	for _, b := range r.busy {
		add(b.Slot, max(0, b.ExpectMs-r.now))
	}
	ms := make([]int64, len(work))
	for i := range r.jobs {
		f := r.s.facts(r.s.byID[r.jobs[i].ID])
		ms[f.profile] += milliseconds(f.ownWorkS)
		longest[f.profile] = max(longest[f.profile], f.ownWorkS)
	}
	for p := range work {
		work[p] = float64(ms[p]) / 1000
	}
	m := newMarket(joinPools(pools), work, longest)
	m.doneS = max(m.doneS, float64(last)/1000)
	return m
}

// elsewhere goes through all slots that are taken.
func (r *full) elsewhere(f *facts) float64 {
	best := Never
	for _, b := range r.busy {
		speed := b.Slot.Share
		if p := r.s.profiles[f.profile]; p != "" {
			speed = r.s.options.Speed(p, b.Slot)
		}
		if b.ExpectMs > 0 && speed > 0 {
			best = min(best, max(0, float64(b.ExpectMs-r.now)/1000)+f.workS*(1/max(speed, leastSpeed)))
		}
	}
	return best
}

func (r *full) place(j *store.FillJob) facts {
	own := r.s.facts(r.s.byID[j.ID])
	if place, ok := r.places[j.ID]; ok {
		return own.at(place)
	}
	return own
}

func unwilling(key []float64) bool { return len(key) > 1 && key[1] <= never }

func after(name string) string {
	for i := range name {
		if name[i] == '.' {
			return name[i+1:]
		}
	}
	return name
}

// assign is the definition of a round.
func (r *full) assign(t *testing.T) []Pair {
	t.Helper()
	var pairs []Pair
	for {
		best, at, bestKey := -1, -1, []float64(nil)
		for i := range r.jobs {
			for k := range r.free {
				if !r.may(&r.jobs[i], &r.free[k]) {
					continue
				}
				key := r.key(t, &r.jobs[i], &r.free[k])
				if unwilling(key) {
					continue
				}
				if best < 0 || r.ahead(key, bestKey, &r.jobs[i], &r.jobs[best], &r.free[k], &r.free[at]) {
					best, at, bestKey = i, k, key
				}
			}
		}
		if best < 0 {
			return pairs
		}
		// The user's own wish, on that slot; who was to be served has its place.
		served := best
		for i := range r.jobs {
			j := &r.jobs[i]
			if j.User != r.jobs[best].User || !r.may(j, &r.free[at]) || j.Priority < r.jobs[best].Priority || unwilling(r.key(t, j, &r.free[at])) {
				continue
			}
			if j.Priority > r.jobs[best].Priority ||
				r.ahead(r.key(t, j, &r.free[at]), r.key(t, &r.jobs[best], &r.free[at]), j, &r.jobs[best], &r.free[at], &r.free[at]) {
				best = i
			}
		}
		j := r.jobs[best]
		if best != served {
			r.places[r.jobs[served].ID] = r.place(&j)
		}
		pairs = append(pairs, Pair{Job: j, Slot: r.free[at]})
		r.runs["user "+j.User]++
		r.runs["account "+j.Account]++
		f := r.s.facts(r.s.byID[j.ID])
		r.busy = append(r.busy, Busy{Slot: r.free[at], ExpectMs: r.now + milliseconds(r.s.timeOn(&r.free[at], &f))})
		r.jobs, r.free = slices.Delete(r.jobs, best, best+1), slices.Delete(r.free, at, at+1)
	}
}

func (r *full) may(j *store.FillJob, slot *Slot) bool {
	return Waits(*j) && Obstacle(*j, *slot) == "" && !r.limited(j) && (r.s.options.Veto == nil || !r.s.options.Veto(j, slot)) &&
		(j.Profile == "" || r.s.options.Speed(j.Profile, *slot) > 0)
}

func (r *full) ahead(a, b []float64, j, k *store.FillJob, s, u *Slot) bool {
	if c := slices.Compare(a, b); c != 0 {
		return c > 0
	}
	return cmp.Or(cmp.Compare(r.place(j).firstMs, r.place(k).firstMs), cmp.Compare(j.JobID, k.JobID), cmp.Compare(u.Share, s.Share), cmp.Compare(s.Node, u.Node), cmp.Compare(s.Device, u.Device)) < 0
}

// state is a random queue on random slots.
type state struct {
	rng  *rand.Rand
	next int64
}

func (st *state) job() store.FillJob {
	rng := st.rng
	st.next++
	pick := func(values ...int64) int64 { return values[rng.IntN(len(values))] }
	j := store.FillJob{
		ID: st.next, JobID: 1000 + st.next, FirstMs: testNowMs - 1000*pick(0, 1, 1, 60, 3600, 90_000), Requeue: rng.IntN(3) > 0,
		User: string(rune('a' + rng.IntN(4))), Account: string(rune('A' + rng.IntN(2))), Name: "n" + string(rune('0'+rng.IntN(3))),
		LimitMs: 1000 * pick(0, 60, 64, 600, 4096), ExpectMs: 1000 * pick(0, 0, 32, 128, 1024), MemBytes: pick(0, 0, 4, 6) << 30,
		Priority: pick(0, 0, 0, 0, 5, -5), SitePriority: pick(0, 0, 0, 0, 0, 1), Front: rng.IntN(8) == 0, Attempts: int(pick(0, 0, 1)),
		UserHeld: rng.IntN(10) == 0, DeviceMs: 1000 * pick(0, 10),
	}
	if rng.IntN(3) == 0 {
		j.DeadlineMs = testNowMs + 1000*pick(-60, 64, 1000, 8192)
	}
	if rng.IntN(3) == 0 {
		j.Mode = []pipefill.Mode{pipefill.ModeChunked, pipefill.ModeChunked, pipefill.ModeLaunch}[rng.IntN(3)]
		j.GPUs = []string{"", "gres:gpu:1"}[rng.IntN(2)]
		j.Profile = []string{"", "bert", "swin"}[rng.IntN(3)]
	}
	return j
}

func (st *state) slots(n int) []Slot {
	var out []Slot
	for i := range n {
		k := st.rng.IntN(4)
		slot := Slot{
			Node: fmt.Sprintf("n%d", i/2), Device: pipefill.DeviceID(fmt.Sprintf("cpu:%d", i%2)), Main: pipefill.JobKey{JobID: int64(k)},
			Share: []float64{0, 0.25, 0.5, 0.5}[k], Cycle: []string{"", "c1", "c2", "c3"}[k], FreeBytes: []int64{0, 4 << 30, 5 << 30, 8 << 30}[st.rng.IntN(4)],
			IterationS: 2, LongestS: 0.5, Bubbles: k, MainEndMs: []int64{0, testNowMs + 3_600_000}[st.rng.IntN(2)],
		}
		if st.rng.IntN(3) == 0 {
			slot.Device = pipefill.DeviceID(fmt.Sprintf("gpu:%d", i%2))
			slot.Launches = st.rng.IntN(2) == 0
		}
		if st.rng.IntN(4) == 0 {
			slot.Options = "budget=1%,allow=user:a+account:B"
		}
		out = append(out, slot)
	}
	return out
}

func testSpeed(profile string, s Slot) float64 {
	return map[string]float64{"bert c1": 0.25, "bert c2": 0.375, "bert c3": 0.5, "swin c1": 0.125, "swin c3": 0.0625}[profile+" "+s.Cycle]
}

// A thousand random states, each over some rounds in which jobs come, change and
// go, time passes and slots free: always what full evaluation gives.
func TestAssign_EqualsFullEvaluation(t *testing.T) {
	policies := append(slices.Collect(func(yield func(*Policy) bool) {
		set := Builtin()
		for _, name := range set.Names() {
			if !yield(set[name]) {
				return
			}
		}
	}), strange(t)...)
	for seed := range uint64(1000) {
		p := policies[seed%uint64(len(policies))]
		compareStates(t, seed, p)
		if t.Failed() {
			return
		}
	}
}

func compareStates(t *testing.T, seed uint64, p *Policy) {
	t.Helper()
	st := &state{rng: rand.New(rand.NewPCG(seed, 5))}
	options := Options{Speed: testSpeed}
	if st.rng.IntN(2) == 0 {
		options.MaxWait = 24 * 3600 * 1e9
	}
	if st.rng.IntN(3) == 0 {
		options.Limits = Limits{PerUser: 2, Accounts: map[string]int{"A": 3}}
	}
	if st.rng.IntN(3) == 0 {
		options.Veto = func(j *store.FillJob, s *Slot) bool { return j.JobID%5 == int64(s.Node[1]-'0') }
	}
	s := New(p, options)
	now := int64(testNowMs)
	waiting := map[int64]store.FillJob{}
	for range 1 + st.rng.IntN(4) {
		now += 1000 * []int64{0, 1, 64, 4096}[st.rng.IntN(4)]
		for range st.rng.IntN(12) {
			j := st.job()
			waiting[j.ID] = j
			s.Put(j)
		}
		for _, id := range slices.Sorted(maps.Keys(waiting)) {
			j := waiting[id]
			switch st.rng.IntN(12) {
			case 0:
				delete(waiting, id)
				s.Remove(id)
			case 1:
				j.Priority += 3
				waiting[id] = j
				s.Put(j)
			}
		}
		if st.rng.IntN(2) == 0 {
			s.SetShares(Shares{Accounts: map[string]float64{"A": 2}, Usage: []Usage{{"a", "A", float64(st.rng.IntN(100))}, {"b", "B", 64}, {"b", "A", 32}}})
		}
		busy := st.slots(st.rng.IntN(4))
		r := &full{s: s, now: now, free: st.slots(1 + st.rng.IntN(7)), runs: map[string]int{}, places: map[int64]facts{}}
		var taken []Busy
		for i, b := range busy {
			b.Node = "busy"
			b.Device += pipefill.DeviceID(fmt.Sprint(i))
			taken = append(taken, Busy{Slot: b, User: "a", Account: "A", ExpectMs: now + 1000*st.rng.Int64N(64)})
			r.runs["user a"]++
			r.runs["account A"]++
		}
		r.busy = taken
		s.SetBusy(taken)
		if s.policy.uses.running {
			s.countRunning()
		}
		for _, id := range slices.Sorted(maps.Keys(waiting)) {
			j := waiting[id]
			if _, ok := s.byID[j.ID]; ok {
				r.jobs = append(r.jobs, j)
			}
		}
		free := slices.Clone(r.free)
		want := r.assign(t)
		got := s.Assign(now, free)
		if a, b := pairNames(got), pairNames(want); !slices.Equal(a, b) {
			t.Errorf("seed %d, policy %s:\n got %v\nwant %v", seed, p.Name, a, b)
			return
		}
		for _, pair := range got {
			delete(waiting, pair.Job.ID)
		}
		if fault := s.Fault(); fault != "" {
			t.Errorf("seed %d: %s", seed, fault)
		}
	}
}

func pairNames(pairs []Pair) []string {
	var out []string
	for _, p := range pairs {
		out = append(out, fmt.Sprintf("%d on %s %s", p.Job.ID, p.Slot.Node, p.Slot.Device))
	}
	return out
}

// structured makes the environment of values by their names in the language.
func structured(values map[string]map[string]any) environment {
	var env environment
	for of, into := range map[string]reflect.Value{"job": reflect.ValueOf(&env.Job).Elem(), "slot": reflect.ValueOf(&env.Slot).Elem()} {
		for i := range into.NumField() {
			into.Field(i).Set(reflect.ValueOf(values[of][into.Type().Field(i).Tag.Get("expr")]))
		}
	}
	return env
}

// strange are policies that use all of the language.
func strange(t *testing.T) []*Policy {
	t.Helper()
	var out []*Policy
	for i, source := range []string{
		"0",
		"let x = job.gpu ? job.time_s : 0; [job.attempts > 0 ? x + 1 : 0.5, -(job.has_deadline ? 1.5 : 1) * 2]",
		"job.elsewhere_s < 64 ? never() : job.elsewhere_s - job.time_s",
		"[-job.misfit, job.time_s - job.done_s]",
		"job.running * -1 - job.account_running / 4",
		"let x = job.work_s; let u = job.user; (u == 'a' or u in ['b', 'd']) and not (x > 100) ? x * 2 : -x ** 2",
		"[slot.remaining_s - job.wait_s * 2, slot.kind == 'gpu' ? 1 : 0, job.attempts + job.used_s]",
		"[job.name matches '^n[01]$' ? 1 : 0, job.mode startsWith 'ch' ? 1 : 0, job.partition contains 'x' ? 1 : 0, job.source endsWith 'y' ? 2 : 1]",
		"min(job.time_s, 512, job.limit_s) + max(slot.share, 0.25) - abs(job.deadline_s) + round(job.slack_s / 64) + floor(1.5) + ceil(1.5)",
		"clamp(job.wait_s, 0, 100) + sqrt(job.mem_bytes) + halving(job.usage_s, 64) + exp(-job.account_usage_s) + log(1 + slot.free_bytes)",
		"job.attempts in [1, 2] ? slot.iteration_s + slot.longest_s + slot.bubbles : +job.devices",
		"let x = (let y = job.time_s; y * y); x + (slot.node != 'n0' ? 8 : 0) + (job.has_deadline && !job.gpu || job.account == 'A' ? 1 : 0)",
		"4 * job.wait_s - job.time_s + slot.share",
		"job.wait_s * slot.share * 4",
		"[job.slack_s > -64 ? 3 : job.deadline_s < 0 ? 2 : 2, job.time_s]",
		"[min(job.slack_s / 64, 100) - job.time_s, -job.wait_s, job.slack_s >= 64 ? 1 : 0]",
		"let late = not (job.slack_s >= 0 and job.deadline_s > 100); [late ? -1 : 1, late ? never() : job.work_s]",
		"job.deadline_s < 1000 ? never() : job.work_s",
		"job.due_s == 1e12 ? 1 : job.mem_bytes <= 4 and job.time_s >= 64 ? 2 : job.wait_s < 10 ? 3 : 4",
	} {
		p, err := Compile(fmt.Sprintf("strange%d", i), "", source, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}
