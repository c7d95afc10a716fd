package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"sync"

	"pipefill"
)

// index holds in memory what is open: jobs that have not ended and live
// assignments, as of the last commit. Its entries are never changed, only
// replaced, so that whoever has one may keep it.
type index struct {
	mu     sync.RWMutex
	jobs   map[int64]*FillJob // by row
	number map[jobNumber]*FillJob
	live   map[int64]*Assignment // by id
	ofJob  map[int64]*Assignment // by the job's row
	ofNode map[string]map[int64]*Assignment
	texts  map[string]string // names that many rows share, once each

	userHeld int64 // of jobs
}

type jobNumber struct {
	cluster string
	id      int64
}

func newIndex() *index {
	return &index{
		jobs: map[int64]*FillJob{}, number: map[jobNumber]*FillJob{}, live: map[int64]*Assignment{}, ofJob: map[int64]*Assignment{},
		ofNode: map[string]map[int64]*Assignment{}, texts: map[string]string{},
	}
}

// load reads what is open, once.
func (x *index) load(ctx context.Context, db *sql.DB) error {
	jobs, err := query(ctx, db, func(r *sql.Rows) (*FillJob, error) {
		j, err := scanJob(r)
		x.share(&j)
		return &j, err
	}, "SELECT "+jobColumns+" FROM fill_job j WHERE j.outcome = ''")
	if err != nil {
		return fmt.Errorf("read the queue: %w", err)
	}
	live, err := query(ctx, db, scanAssignment, "SELECT "+assignmentColumns+
		" FROM assignment a JOIN fill_job j ON j.id = a.fill_job_id WHERE a.state <> 'ended'")
	if err != nil {
		return fmt.Errorf("read the assignments: %w", err)
	}
	for _, j := range jobs {
		x.putJob(j)
	}
	for i := range live {
		x.putAssignment(&live[i])
	}
	return nil
}

// share lets rows with the same names keep them once.
func (x *index) share(j *FillJob) {
	const most = 100_000 // of users' own making: names of jobs
	for _, s := range []*string{&j.Cluster, &j.Name, &j.User, &j.Account, &j.Partition, &j.GPUs, &j.RequiredNodes, &j.ExcludedNodes, &j.Unfit, &j.Reason} {
		if *s == "" {
			continue
		}
		if same, ok := x.texts[*s]; ok {
			*s = same
		} else if len(x.texts) < most {
			x.texts[*s] = *s
		}
	}
}

func (x *index) putJob(j *FillJob) {
	n := jobNumber{j.Cluster, j.JobID}
	if old := x.jobs[j.ID]; old != nil && old.UserHeld {
		x.userHeld--
	}
	if j.UserHeld && j.Outcome == "" {
		x.userHeld++
	}
	if j.Outcome == "" {
		x.jobs[j.ID], x.number[n] = j, j
		return
	}
	delete(x.jobs, j.ID)
	if old := x.number[n]; old != nil && old.ID == j.ID {
		delete(x.number, n)
	}
}

func (x *index) putAssignment(a *Assignment) {
	if a.State == pipefill.AssignmentEnded {
		delete(x.live, a.ID)
		if old := x.ofJob[a.FillJobID]; old != nil && old.ID == a.ID {
			delete(x.ofJob, a.FillJobID)
		}
		if delete(x.ofNode[a.Node], a.ID); len(x.ofNode[a.Node]) == 0 {
			delete(x.ofNode, a.Node)
		}
		return
	}
	x.live[a.ID], x.ofJob[a.FillJobID] = a, a
	if x.ofNode[a.Node] == nil {
		x.ofNode[a.Node] = map[int64]*Assignment{}
	}
	x.ofNode[a.Node][a.ID] = a
}

// Open is the open job of a number, nil where there is none. It is not to be
// changed.
func (s *Store) Open(cluster string, number int64) *FillJob {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	return s.index.number[jobNumber{cluster, number}]
}

// OpenNumbers are the numbers of a cluster's open jobs, in no order.
func (s *Store) OpenNumbers(cluster string) []int64 {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	numbers := make([]int64, 0, len(s.index.number))
	for n := range s.index.number {
		if n.cluster == cluster {
			numbers = append(numbers, n.id)
		}
	}
	return numbers
}

// LiveOf is the live assignment of a job's row, nil where there is none. It is
// not to be changed.
func (s *Store) LiveOf(fillJobID int64) *Assignment {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	return s.index.ofJob[fillJobID]
}

func (s *Store) live(id int64) *Assignment {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	return s.index.live[id]
}

// LiveOn lists the live assignments of a node by id. They are not to be changed.
func (s *Store) LiveOn(node string) []*Assignment {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.index.ofNode[node]), byID)
}

func byID(a, b *Assignment) int { return cmp.Compare(a.ID, b.ID) }

// LiveAll lists all live assignments by id. They are not to be changed.
func (s *Store) LiveAll() []*Assignment {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.index.live), byID)
}

// LiveCount is how many assignments are live.
func (s *Store) LiveCount() int {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	return len(s.index.live)
}

// EachLive calls do for every live assignment and its job, in no order; nil: it is
// not open. It holds the index meanwhile: do must not ask the store.
func (s *Store) EachLive(do func(*Assignment, *FillJob)) {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	for _, a := range s.index.live {
		do(a, s.index.jobs[a.FillJobID])
	}
}

// Live lists copies of all live assignments by id.
func (s *Store) Live(context.Context) ([]Assignment, error) {
	all := s.LiveAll()
	live := make([]Assignment, len(all))
	for i, a := range all {
		live[i] = *a
	}
	return live, nil
}

// OpenAll lists the jobs that have not ended by first sighting. They are not to
// be changed.
func (s *Store) OpenAll() []*FillJob {
	s.index.mu.RLock()
	jobs := slices.AppendSeq(make([]*FillJob, 0, len(s.index.jobs)), maps.Values(s.index.jobs))
	s.index.mu.RUnlock()
	slices.SortFunc(jobs, func(a, b *FillJob) int {
		return cmp.Or(cmp.Compare(a.FirstMs, b.FirstMs), cmp.Compare(a.JobID, b.JobID))
	})
	return jobs
}

// OpenJobs lists copies of the jobs that have not ended by first sighting.
func (s *Store) OpenJobs(context.Context) ([]FillJob, error) {
	all := s.OpenAll()
	jobs := make([]FillJob, len(all))
	for i, j := range all {
		jobs[i] = *j
	}
	return jobs, nil
}

// rows are what a transaction changed: read again before its commit, and put
// into the index after it.
type rows struct {
	jobs        map[int64]bool // by row
	assignments map[int64]bool
	used        map[int64]int64 // device time in ns by job's row
}

// Change is what a commit changed: whose jobs and whose nodes.
type Change struct {
	Jobs  []int64  // Slurm's numbers
	Nodes []string // whose assignments changed
}

func (r *rows) job(id int64)        { r.jobs[id] = true }
func (r *rows) assignment(id int64) { r.assignments[id] = true }

// read reads the changed rows as the transaction leaves them.
func (r *rows) read(ctx context.Context, tx *sql.Tx) (jobs []FillJob, assignments []Assignment, err error) {
	for id := range r.assignments {
		found, err := query(ctx, tx, scanAssignment, "SELECT "+assignmentColumns+
			" FROM assignment a JOIN fill_job j ON j.id = a.fill_job_id WHERE a.id = ?", id)
		if err != nil {
			return nil, nil, err
		}
		for _, a := range found {
			r.jobs[a.FillJobID] = true
		}
		assignments = append(assignments, found...)
	}
	for id := range r.jobs {
		found, err := query(ctx, tx, scanJob, "SELECT "+jobColumns+" FROM fill_job j WHERE j.id = ?", id)
		if err != nil {
			return nil, nil, err
		}
		jobs = append(jobs, found...)
	}
	return jobs, assignments, nil
}

// put takes in what a commit changed.
func (x *index) put(jobs []FillJob, assignments []Assignment, used map[int64]int64) Change {
	x.mu.Lock()
	defer x.mu.Unlock()
	var change Change
	fresh := make(map[int64]bool, len(jobs))
	for i := range jobs {
		j := &jobs[i]
		fresh[j.ID] = true
		x.share(j)
		x.putJob(j)
		change.Jobs = append(change.Jobs, j.JobID)
	}
	for i := range assignments {
		x.putAssignment(&assignments[i])
		change.Nodes = append(change.Nodes, assignments[i].Node)
	}
	for id, ns := range used {
		j := x.jobs[id]
		if j == nil || fresh[id] {
			continue // has ended, or was read with it
		}
		more := *j
		more.deviceNs += ns
		more.DeviceMs = more.deviceNs / 1e6
		x.putJob(&more)
	}
	return change
}
