package schedule

import (
	"math"
	"slices"
	"sync"
	"time"

	"pipefill"
	"pipefill/controller/store"
)

// DefaultMaxWait is after how long a job is served before all whom only the
// policy puts first.
const DefaultMaxWait = 7 * 24 * time.Hour

// Options of a Scheduler; each may be left out.
type Options struct {
	Limits  Limits
	MaxWait time.Duration // see the package comment; 0: none
	// Speed is how many device seconds of a profile's work a second on a slot
	// does, 0 where its plan fits no bubble. It is asked once for each pair of
	// profile and Slot.Cycle. nil: jobs with a profile run as those without.
	Speed func(profile string, s Slot) float64
	// Veto keeps a job off a slot for reasons of the moment, such as a node that
	// it was just refused by. It is asked from several goroutines at once. nil:
	// nothing does.
	Veto func(j *store.FillJob, s *Slot) bool
}

// Limits bound the slots that a user's or an account's jobs hold at once; 0: no
// bound. A name in Users or Accounts has a bound of its own.
type Limits struct {
	PerUser    int            `yaml:"per_user"`
	PerAccount int            `yaml:"per_account"`
	Users      map[string]int `yaml:"users"`
	Accounts   map[string]int `yaml:"accounts"`
}

// Busy is a slot that a fill job has.
type Busy struct {
	Slot          Slot
	User, Account string
	UntilMs       int64 // when it ends at the latest, as far as is known; 0: not known
	ExpectMs      int64 // when it is expected to end; 0: not known

	kind int // of slot, in Scheduler.kinds
}

type slotKind struct {
	cycle string
	share float64
}

// Pair is a decision. A job that needs several slots comes in several pairs.
type Pair struct {
	Job  store.FillJob
	Slot Slot
	// ExpectMs is from start to end on this slot, as expected, and Source where
	// that is from: plan, history, limit or nothing.
	ExpectMs int64
	Source   string
}

type place struct {
	node   string
	device pipefill.DeviceID
}

// Scheduler holds the waiting jobs and what it worked out about them. It is not
// safe for concurrent use.
type Scheduler struct {
	policy  *Policy
	options Options

	columns

	byID    map[int64]int32
	waiting int
	gangs   []int32
	oldest  jobHeap // not yet starving: by firstMs
	late    int     // jobs that are starving

	groups   []group
	groupIDs map[[2]string]int32
	users    tally
	accounts tally
	levels   []map[int64][]int32 // by user: jobs by the user's own priority
	places   map[int64]facts     // by job: the place that it has instead of its own
	shapes   []shape
	shapeIDs map[shape]int32
	profiles []string
	profIDs  map[string]int32
	wheres   map[[2]string]*where
	mems     []int64 // all that jobs ask for, rising

	shares    sums
	sharesRun int // counts changes, for what was worked out before
	roundsRun int
	endsRun   int
	busy      map[place]int // into taken
	taken     []Busy
	later     [][]opening // see context
	workOf    []int64     // of all that wait, ms by profile
	longest   []jobHeap   // the same by work, by profile
	slotKinds []int       // slots by kind, free or not
	market    market
	kinds     []Slot // one of each kind that was ever taken
	kindIDs   map[slotKind]int
	cycles    map[string]*cycle
	tables    map[tableKey]*table
	indexes   map[indexKey]*index
	batch     batch
	batches   sync.Pool  // of *batch, for parts
	badMu     sync.Mutex // tables are worked out side by side
	bad       string
	used      int // counts Assign, to forget what was not used for long
}

// tally counts what runs, by name.
type tally struct {
	ids    map[string]int
	counts []int
	limits []int
}

func (t *tally) id(name string, limits func(string) int) int {
	if id, ok := t.ids[name]; ok {
		return id
	}
	id := len(t.counts)
	t.ids[name] = id
	t.counts = append(t.counts, 0)
	t.limits = append(t.limits, limits(name))
	return id
}

func (t *tally) full(id, more int) bool { return t.limits[id] > 0 && t.counts[id]+more > t.limits[id] }

// New returns a scheduler without jobs.
func New(policy *Policy, options Options) *Scheduler {
	s := &Scheduler{policy: policy, options: options, busy: map[place]int{}, kindIDs: map[slotKind]int{}}
	s.clear()
	return s
}

func (s *Scheduler) clear() {
	s.workOf, s.longest = nil, nil
	s.columns, s.byID, s.waiting, s.gangs, s.late = columns{}, map[int64]int32{}, 0, nil, 0
	s.oldest = jobHeap{less: func(a, b int32) bool { return s.firstMs[a] < s.firstMs[b] }}
	s.groups, s.groupIDs, s.levels = nil, map[[2]string]int32{}, nil
	if s.places == nil {
		s.places = map[int64]facts{}
	}
	s.users, s.accounts = tally{ids: map[string]int{}}, tally{ids: map[string]int{}}
	s.shapes, s.shapeIDs, s.wheres = nil, map[shape]int32{}, map[[2]string]*where{}
	s.profiles, s.profIDs, s.mems = []string{""}, map[string]int32{"": 0}, nil
	s.forget()
}

// forget drops what was worked out.
func (s *Scheduler) forget() {
	s.cycles, s.tables, s.indexes = map[string]*cycle{}, map[tableKey]*table{}, map[indexKey]*index{}
	s.batch = *s.newBatch()
}

// SetPolicy changes the policy; the jobs stay.
func (s *Scheduler) SetPolicy(p *Policy) {
	if s.policy != p {
		s.policy = p
		s.forget()
	}
}

// Policy returns the policy in use.
func (s *Scheduler) Policy() *Policy { return s.policy }

// SetLimits changes the limits.
func (s *Scheduler) SetLimits(l Limits) {
	s.options.Limits = l
	for name, id := range s.users.ids {
		s.users.limits[id] = l.user(name)
	}
	for name, id := range s.accounts.ids {
		s.accounts.limits[id] = l.account(name)
	}
}

func (l Limits) user(name string) int {
	if n, ok := l.Users[name]; ok {
		return n
	}
	return l.PerUser
}

func (l Limits) account(name string) int {
	if n, ok := l.Accounts[name]; ok {
		return n
	}
	return l.PerAccount
}

// Len is how many jobs wait.
func (s *Scheduler) Len() int { return s.waiting }

// Fault tells of a score that was no finite number since the last call, "" if
// there was none. Such a pair counts as the lowest of all.
func (s *Scheduler) Fault() string {
	bad := s.bad
	s.bad = ""
	return bad
}

// Waits tells whether a job is one to schedule: not held, not unfit, not ended.
func Waits(j store.FillJob) bool {
	return !j.UserHeld && j.Unfit == "" && j.Outcome == "" && (j.Attempts == 0 || j.Requeue)
}

// Put takes in jobs, or changes those with the same ID. One that does not wait
// (see Waits) is removed.
func (s *Scheduler) Put(jobs ...store.FillJob) {
	for _, j := range jobs {
		if i, ok := s.byID[j.ID]; ok {
			if *s.job[i] == j {
				continue
			}
			s.drop(i)
		}
		if Waits(j) {
			s.add(&j, false)
		}
	}
}

// Remove forgets jobs, by ID.
func (s *Scheduler) Remove(ids ...int64) {
	for _, id := range ids {
		if i, ok := s.byID[id]; ok {
			s.drop(i)
		}
		delete(s.places, id)
	}
}

// Sync makes jobs all that wait.
func (s *Scheduler) Sync(jobs []store.FillJob) {
	if s.waiting > 0 {
		keep := make(map[int64]bool, len(jobs))
		for i := range jobs {
			keep[jobs[i].ID] = true
		}
		for id, i := range s.byID {
			if !keep[id] {
				s.drop(i)
				delete(s.places, id)
			}
		}
	}
	s.Put(jobs...)
}

func (s *Scheduler) drop(i int32) {
	s.gone[i] = true
	s.waiting--
	s.workOf[s.profile[i]] -= milliseconds(s.ownWorkS[i])
	if s.starving[i] {
		s.late--
	}
	delete(s.byID, s.job[i].ID)
}

func (s *Scheduler) add(j *store.FillJob, starving bool) {
	s.compact()
	i := int32(s.len())
	f := s.factsOf(j)
	if place, ok := s.places[j.ID]; ok {
		f = f.at(place)
	}
	if starving && !f.starving {
		f.starving = true
		f.tier++
	}
	s.push(f)
	s.byID[j.ID] = i
	s.waiting++
	for len(s.workOf) < len(s.profiles) {
		s.workOf = append(s.workOf, 0)
		s.longest = append(s.longest, jobHeap{less: func(a, b int32) bool { return s.ownWorkS[a] > s.ownWorkS[b] }})
	}
	s.workOf[f.profile] += milliseconds(f.ownWorkS)
	s.longest[f.profile].push(i)
	own := s.levels[s.groups[f.group].userID]
	own[j.Priority] = append(own[j.Priority], i)
	if j.Devices > 1 {
		s.gangs = append(s.gangs, i)
	}
	if f.starving {
		s.late++
	} else if s.options.MaxWait > 0 {
		s.oldest.push(i)
	}
	if k, found := slices.BinarySearch(s.mems, j.MemBytes); !found {
		s.mems = slices.Insert(s.mems, k, j.MemBytes)
	}
}

func (s *Scheduler) groupOf(j *store.FillJob) int32 {
	key := [2]string{j.User, j.Account}
	if id, ok := s.groupIDs[key]; ok {
		return id
	}
	id := int32(len(s.groups))
	g := group{user: j.User, account: j.Account, userID: s.users.id(j.User, s.options.Limits.user), accountID: s.accounts.id(j.Account, s.options.Limits.account)}
	s.shares.of(&g)
	s.groups = append(s.groups, g)
	s.groupIDs[key] = id
	for len(s.levels) < len(s.users.counts) {
		s.levels = append(s.levels, map[int64][]int32{})
	}
	return id
}

// whereOf is the function's, read once for all jobs with the same lists.
func (s *Scheduler) whereOf(j *store.FillJob) *where {
	key := [2]string{j.RequiredNodes, j.ExcludedNodes}
	w, known := s.wheres[key]
	if !known {
		w = whereOf(j)
		s.wheres[key] = w
	}
	return w
}

func (s *Scheduler) profileOf(name string) int32 {
	id, ok := s.profIDs[name]
	if !ok {
		id = int32(len(s.profiles))
		s.profiles = append(s.profiles, name)
		s.profIDs[name] = id
	}
	return id
}

func (s *Scheduler) shapeOf(key shape) int32 {
	id, ok := s.shapeIDs[key]
	if !ok {
		id = int32(len(s.shapes))
		s.shapes = append(s.shapes, key)
		s.shapeIDs[key] = id
	}
	return id
}

// compact starts afresh when most of what is held is gone: a few milliseconds
// once in as many decisions as there are jobs.
func (s *Scheduler) compact() {
	if s.len() < 4096 || s.len() < 3*s.waiting {
		return
	}
	old, runs, ofAccounts := s.columns, s.users, s.accounts
	s.clear()
	for i, j := range old.job {
		if !old.gone[i] {
			s.add(j, old.starving[i])
		}
	}
	for name, id := range runs.ids {
		s.users.counts[s.users.id(name, s.options.Limits.user)] = runs.counts[id]
	}
	for name, id := range ofAccounts.ids {
		s.accounts.counts[s.accounts.id(name, s.options.Limits.account)] = ofAccounts.counts[id]
	}
	for len(s.levels) < len(s.users.counts) {
		s.levels = append(s.levels, map[int64][]int32{})
	}
}

// SetBusy says which slots fill jobs have now, instead of all said before.
func (s *Scheduler) SetBusy(busy []Busy) {
	s.busy, s.taken = make(map[place]int, len(busy)), s.taken[:0]
	if len(s.kinds) > 4*maxLanes+len(busy) {
		s.kinds, s.kindIDs = nil, map[slotKind]int{}
	}
	clear(s.users.counts)
	clear(s.accounts.counts)
	for _, b := range busy {
		s.Occupy(b)
	}
}

// Occupy says that a fill job has a slot. Assign does so for the pairs it
// returns.
func (s *Scheduler) Occupy(b Busy) {
	p := place{b.Slot.Node, b.Slot.Device}
	s.Vacate(b.Slot.Node, b.Slot.Device)
	b.kind = s.kindOfSlot(&b.Slot)
	s.busy[p] = len(s.taken)
	s.taken = append(s.taken, b)
	s.count(b, 1)
}

// Vacate says that a slot's fill job is gone.
func (s *Scheduler) Vacate(node string, device pipefill.DeviceID) {
	p := place{node, device}
	if i, ok := s.busy[p]; ok {
		b, last := s.taken[i], len(s.taken)-1
		s.taken[i] = s.taken[last]
		s.busy[place{s.taken[i].Slot.Node, s.taken[i].Slot.Device}] = i
		s.taken = s.taken[:last]
		delete(s.busy, p)
		s.count(b, -1)
	}
}

func (s *Scheduler) count(b Busy, by int) {
	s.users.counts[s.users.id(b.User, s.options.Limits.user)] += by
	s.accounts.counts[s.accounts.id(b.Account, s.options.Limits.account)] += by
	for len(s.levels) < len(s.users.counts) {
		s.levels = append(s.levels, map[int64][]int32{})
	}
}

// age moves the jobs that have waited for MaxWait before the others.
func (s *Scheduler) age(nowMs int64) {
	if s.options.MaxWait <= 0 {
		return
	}
	before := float64(nowMs - s.options.MaxWait.Milliseconds())
	for len(s.oldest.jobs) > 0 && s.firstMs[s.oldest.jobs[0]] <= before {
		i := s.oldest.jobs[0]
		s.oldest.pop()
		if !s.gone[i] {
			j := s.job[i]
			s.drop(i)
			s.add(j, true)
		}
	}
}

func (s *Scheduler) full(g int32, more int) bool {
	return s.users.full(s.groups[g].userID, more) || s.accounts.full(s.groups[g].accountID, more)
}

// vetoed tells whether a job is kept off this slot of a class that it fits.
func (s *Scheduler) vetoed(i int32, slot *Slot) bool {
	if !s.where[i].suits(slot.Node) {
		return true
	}
	return s.options.Veto != nil && s.options.Veto(s.job[i], slot)
}

// noSource is the expected device time of a job that nothing tells about.
const unknownWork = 24 * time.Hour

// Expected is the device time that a job is thought to take, in ms, and where
// the figure is from: the "plan" of its profile, "history" of the same user and
// name, the "limit", or "nothing".
func Expected(j store.FillJob) (ms int64, source string) {
	switch {
	case j.WorkMs > 0:
		return j.WorkMs, "plan"
	case j.ExpectMs > 0:
		return j.ExpectMs, "history"
	case j.LimitMs > 0:
		return j.LimitMs, "limit"
	}
	return unknownWork.Milliseconds(), "nothing"
}

func milliseconds(seconds float64) int64 { return int64(math.Min(seconds*1000, math.MaxInt64/2)) }
