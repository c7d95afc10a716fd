package try

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
)

// controller answers the daemon's syncs from memory: a queue served in order,
// one fill job a device.
type controller struct {
	cfg  Config
	news chan struct{} // closed and made anew when something changes

	mu     sync.Mutex
	serial int64
	jobs   []*fillJob
	acks   map[string]int64
	over   bool // the main job has ended: nothing more is assigned
	last   api.NodeSync
	synced bool
	ready  chan int64 // fill jobs to start, by number
}

// fillJob is a fill command with its assignment. Its number is the assignment's.
type fillJob struct {
	Fill
	assignment pipefill.Assignment
	told       bool       // ended, as the daemon said
	plan       *plan.Kept // nil: none yet
}

func newController(cfg Config) *controller {
	c := &controller{cfg: cfg, news: make(chan struct{}), serial: 1, acks: map[string]int64{}, ready: make(chan int64, len(cfg.Fills))}
	for i, command := range cfg.Fills {
		job := int64(mainJob + 1 + i)
		c.jobs = append(c.jobs, &fillJob{Fill: Fill{Job: job, Command: command, State: "waiting", Output: cfg.output(job)}})
	}
	return c
}

// serve answers on the socket until stop is called.
func (c *controller) serve(ctx context.Context) (stop func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", c.cfg.controllerSocket())
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/node/sync", func(w http.ResponseWriter, r *http.Request) {
		var state api.NodeSync
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, api.MaxBody)).Decode(&state); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		orders := c.sync(r.Context(), state)
		w.Header().Set(api.VersionHeader, api.Version)
		_ = json.NewEncoder(w).Encode(orders) // one that hung up asks again
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }, nil
}

// sync takes a node's state in and returns orders, at once where they are new
// to it.
func (c *controller) sync(ctx context.Context, state api.NodeSync) api.NodeOrders {
	c.mu.Lock()
	c.take(state)
	news := c.news
	fresh := c.serial != state.OrdersSeen || len(state.Usage) > 0
	c.mu.Unlock()
	if !fresh {
		select {
		case <-ctx.Done():
		case <-news:
		case <-time.After(time.Duration(state.WaitMs) * time.Millisecond):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.orders()
}

// changed lets a held answer go; c.mu is held.
func (c *controller) changed() {
	c.serial++
	close(c.news)
	c.news = make(chan struct{})
}

func (c *controller) take(state api.NodeSync) {
	c.last, c.synced = state, true
	for _, u := range state.Usage {
		if u.Seq <= c.acks[u.Ledger] {
			continue
		}
		c.acks[u.Ledger] = u.Seq
		if j := c.job(u.AssignmentID); j != nil {
			j.DeviceNs += u.DeviceNs
			j.CPUNs += u.CPUNs
		}
	}
	for _, a := range state.Assignments {
		if j := c.job(a.ID); j != nil && !j.told {
			c.follow(j, a)
		}
	}
	c.assign(state.Mains)
	if c.cfg.Profile != nil {
		c.plan(state)
	}
}

// plan makes the plans of fill jobs that run, and those anew whose bubbles have
// drifted.
func (c *controller) plan(state api.NodeSync) {
	for _, a := range state.Assignments {
		j := c.job(a.ID)
		m := slices.IndexFunc(state.Mains, func(m api.MainDevice) bool { return m.Device == a.Device })
		if j == nil || j.told || m < 0 || len(state.Mains[m].Cycle.Bubbles) == 0 {
			continue
		}
		var total int64
		for _, d := range state.Devices {
			if d.Device == a.Device {
				total = d.TotalBytes
			}
		}
		cycle := plan.WithDevice(state.Mains[m].Cycle, total)
		kept, drift := j.plan.Look(cycle, plan.Movable{}, *c.cfg.Profile, plan.Position{Config: a.At.Config, Op: a.At.Op}, a.At.Plan, c.cfg.Now().UnixMilli())
		if kept == nil {
			continue
		}
		j.plan = kept
		switch {
		case kept.Why != "":
			c.cfg.Say("no plan for fill job %d: %s", j.Job, kept.Why)
		default:
			c.cfg.Say("plan %d of fill job %d: %.4g samples/s (bubbles changed by %.0f %%)", kept.Times, j.Job, kept.Rate, 100*drift)
		}
		c.changed()
	}
}

// follow brings a fill job to the state that the node tells.
func (c *controller) follow(j *fillJob, a api.NodeAssignment) {
	switch {
	case a.State == pipefill.AssignmentEnded:
		j.told, j.State, j.Reason, j.ExitCode = true, string(a.Outcome), a.Reason, a.ExitCode
		j.assignment.State = a.State
		c.changed()
	case j.assignment.State == pipefill.AssignmentReserved:
		j.assignment.State, j.State = pipefill.AssignmentReleased, string(pipefill.AssignmentReleased)
		c.ready <- j.Job
		c.changed()
	case j.assignment.State.CanFollow(a.State) && j.assignment.State != a.State:
		j.assignment.State, j.State = a.State, string(a.State)
	}
}

// assign gives free slots to waiting fill jobs.
func (c *controller) assign(slots []api.MainDevice) {
	for _, slot := range slots {
		taken := slices.ContainsFunc(c.jobs, func(j *fillJob) bool { return j.Device == slot.Device && !j.told })
		next := slices.IndexFunc(c.jobs, func(j *fillJob) bool { return j.Device == "" })
		if c.over || taken || next < 0 || !slot.Enabled {
			continue
		}
		j := c.jobs[next]
		j.Device, j.State = slot.Device, string(pipefill.AssignmentReserved)
		j.assignment = pipefill.Assignment{
			ID: j.Job, Job: pipefill.JobKey{Cluster: cluster, JobID: j.Job}, UID: c.cfg.User.UID, User: c.cfg.User.Name,
			Node: node, Device: slot.Device, MainJob: slot.Job, Mode: c.cfg.Mode, State: pipefill.AssignmentReserved,
		}
		c.changed()
	}
}

func (c *controller) orders() api.NodeOrders {
	o := api.NodeOrders{
		Serial: c.serial, Assignments: []pipefill.Assignment{}, UsageAck: map[string]int64{}, Partitions: []string{partition}, Cluster: cluster,
		NowMs: c.cfg.Now().UnixMilli(),
	}
	maps.Copy(o.UsageAck, c.acks)
	for _, j := range c.jobs {
		switch {
		case j.told:
			o.Forget = append(o.Forget, j.Job)
		case j.Device != "":
			o.Assignments = append(o.Assignments, j.assignment)
			if j.plan != nil && j.plan.ID != 0 && j.plan.ID != c.heldPlan(j.Job) {
				o.Plans = append(o.Plans, api.Plan{Assignment: j.Job, ID: j.plan.ID, Text: j.plan.Text})
			}
		}
	}
	return o
}

// heldPlan is the plan that the daemon last said that it has of a fill job.
func (c *controller) heldPlan(id int64) uint64 {
	for _, a := range c.last.Assignments {
		if a.ID == id {
			return a.Plan
		}
	}
	return 0
}

func (c *controller) job(id int64) *fillJob {
	if i := int(id) - mainJob - 1; i >= 0 && i < len(c.jobs) {
		return c.jobs[i]
	}
	return nil
}

// failed ends a fill job that could not be started.
func (c *controller) failed(id int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.job(id)
	j.told, j.State, j.Reason, j.ExitCode = true, string(pipefill.OutcomeFailed), err.Error(), -1
	c.changed()
}

// finish lets nothing more be assigned.
func (c *controller) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// settled tells whether every fill job that was assigned has ended and all
// usage is in.
func (c *controller) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.last.Usage) == 0 && len(c.last.Mains) == 0 &&
		!slices.ContainsFunc(c.jobs, func(j *fillJob) bool { return j.Device != "" && !j.told })
}

// sawNode tells whether the daemon has synced.
func (c *controller) sawNode() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced
}

func (c *controller) fills() []Fill {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Fill, 0, len(c.jobs))
	for _, j := range c.jobs {
		all = append(all, j.Fill)
	}
	return all
}

// status is a line of progress.
func (c *controller) status() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var iterations, bubble, filled int64
	for _, m := range c.last.Mains {
		iterations = max(iterations, m.Totals.Iterations)
		bubble += m.Totals.BubbleNs
		filled += m.Totals.FilledNs
	}
	ended, running := 0, 0
	for _, j := range c.jobs {
		switch {
		case j.told:
			ended++
		case j.Device != "":
			running++
		}
	}
	return fmt.Sprintf("%d iterations, %.1f s of bubbles, %.1f s of gates open to fill jobs; fill jobs: %d running, %d waiting, %d ended",
		iterations, float64(bubble)/1e9, float64(filled)/1e9, running, len(c.jobs)-running-ended, ended)
}
