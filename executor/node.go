package executor

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/executor/device"
)

// node is everything the daemon knows. Its lock is held for short work and for
// durable writes, never while waiting for a process, a socket or the
// controller; the beat has a lock of its own.
type node struct {
	cfg     config
	log     *slog.Logger
	now     func() time.Time
	mono    func() int64
	groups  *cgroups
	devices []device.Device
	meter   meter   // nil where there is no GPU, or its memory cannot be watched
	self    process // what supervisors watch

	mu     sync.Mutex
	state  state
	ledger *ledger
	mains  map[int64]*mainJob // by Slurm job: one attempt of a job runs at a time
	fills  map[int64]*fillJob // by assignment, ended ones until forgotten
	orders map[int64]pipefill.Assignment
	record nodeRecord
	wants  []*want
	faults map[string]string // by what is at fault
	health map[pipefill.DeviceID]device.Health

	askedOf pipefill.DeviceID // of which GPU the driver is being asked, ""
	askedAt time.Time
	poke    chan struct{} // something a controller should know changed
	run     int64         // names this run to the controller
	syncs   int64         // so many were made

	takesKept bool // the controller that answered last understands api.MainDevice.CycleKept

	past map[pipefill.DeviceID]*deviceTotals // of main jobs that have ended
	kept map[pipefill.DeviceID]keptRecording // the same

	asked map[int64]bool // recordings that are being answered

	beatMu sync.Mutex
	beats  map[*controlPage]bool
	busy   chan struct{} // there is a first page to beat in
}

// mainJob is a main job that has steps on this node.
type mainJob struct {
	rec     mainRecord
	options mainOptions
	devices []*mainDevice
	dirty   bool // rec is not on disk as it is
	ending  bool
	absent  int // how often in a row no process of it was found
}

// mainDevice is one device of a main job: its pages and what is known of it.
type mainDevice struct {
	device   device.Device
	main     *page[mainPage]
	control  *page[controlPage]
	drain    drain
	governor *governor
	fill     *fillJob
	usedHere used // by fill jobs that have ended here

	chunkTail uint64 // of its supervisor's chunks, up to where they are recorded
	limited   int64  // the memory that the driver was told of it

	told   toldCycle
	trace  *eventTrace
	record *recording // nil: off
	noMove string     // why the main job's state stays there for the rest of it
	handed struct {   // the main page, last
		to process
		at time.Time
	}
}

// want is a fill job that came without an assignment.
type want struct {
	job     pipefill.JobKey
	uid     uint32
	until   time.Time
	refused bool
}

func newNode(cfg config, log *slog.Logger, groups *cgroups, devices []device.Device, store storage) (*node, error) {
	self, err := readProcess(os.Getpid())
	if err != nil {
		return nil, err
	}
	n := &node{
		cfg: cfg, log: log, now: time.Now, //nolint:forbidigo // the clock is handed on from here
		mono: monotonicNs, groups: groups, devices: devices, self: self,
		state: state{cfg.StateDir, store}, mains: map[int64]*mainJob{}, fills: map[int64]*fillJob{},
		orders: map[int64]pipefill.Assignment{}, faults: map[string]string{}, health: map[pipefill.DeviceID]device.Health{}, poke: make(chan struct{}, 1),
		past: map[pipefill.DeviceID]*deviceTotals{}, kept: map[pipefill.DeviceID]keptRecording{}, asked: map[int64]bool{}, beats: map[*controlPage]bool{}, busy: make(chan struct{}, 1),
	}
	return n, nil
}

// changed wakes the sync loop.
func (n *node) changed() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// fault notes what a person should know; an empty text says it is over.
func (n *node) fault(key, text string) {
	if n.faults[key] == text {
		return
	}
	if text == "" {
		delete(n.faults, key)
	} else {
		n.faults[key] = text
	}
	n.changed()
}

// nowMs is the time as the wire writes it.
func (n *node) nowMs() int64 { return n.now().UnixMilli() }

// attachMain registers a step of a main job and returns its devices.
func (n *node) attachMain(key pipefill.JobKey, uid uint32, step string, told message, tasks int) ([]pipefill.DeviceID, error) {
	options := told.keys["options"]
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.mains[key.JobID]; m != nil {
		if m.rec.Job == key && m.rec.UID == uid && !m.ending {
			if !slices.Contains(m.rec.Steps, step) {
				m.rec.Steps, m.dirty = append(slices.Clone(m.rec.Steps), step), true
			}
			return m.deviceIDs(), n.saveMain(m)
		}
		if m.rec.Job.Restarts >= key.Restarts && m.rec.Job != key || m.rec.UID != uid && !m.ending {
			return nil, pipefill.Errorf(pipefill.CodeConflict, "job %d is registered as another attempt or user's", key.JobID)
		}
		n.endMain(m, "the job was started again")
		n.dropMain(m) // its fill jobs go on ending without it
	}
	free := ofJob(n.freeDevices(), told.keys["gpus"])
	// A task each wants a device each; a single task may be a launcher.
	if tasks > 1 && tasks < len(free) {
		free = free[:tasks]
	}
	if len(free) == 0 {
		return nil, nil
	}
	m := &mainJob{rec: mainRecord{
		Job: key, UID: uid, Options: options, StartedMs: n.nowMs(), Steps: []string{step}, Seed: seedOf(key),
	}, options: n.cfg.mainOptions(options)}
	for _, d := range free {
		if err := n.addMainDevice(m, d); err != nil {
			n.closeMain(m)
			return nil, err
		}
	}
	m.dirty = true
	if err := n.saveMain(m); err != nil {
		n.closeMain(m)
		return nil, err
	}
	n.mains[key.JobID] = m
	n.mark(key.JobID)
	n.changed()
	n.log.Info("main job attached", "job_id", key.JobID, "devices", len(free))
	return m.deviceIDs(), nil
}

// saveMain writes the record of a main job, where it has changed.
func (n *node) saveMain(m *mainJob) error {
	if !m.dirty {
		return nil
	}
	if err := n.state.saveMain(m.rec); err != nil {
		n.fault("state", fmt.Sprintf("state cannot be written, no fill job starts: %v", err))
		return err
	}
	m.dirty = false
	n.fault("state", "")
	return nil
}

// seedOf is the same on every node of a main job.
func seedOf(key pipefill.JobKey) uint64 {
	h := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", key.Cluster, key.JobID, key.Restarts))
	return binary.LittleEndian.Uint64(h[:])
}

// freeDevices are those no main job and no fill job holds.
func (n *node) freeDevices() []device.Device {
	held := map[pipefill.DeviceID]bool{}
	for _, m := range n.mains {
		for _, d := range m.devices {
			held[d.device.ID] = true
		}
	}
	for _, f := range n.fills {
		if f.rec.Assignment.State == pipefill.AssignmentEnded {
			continue
		}
		for _, id := range f.rec.Assignment.Devices() {
			held[id] = true
		}
	}
	var free []device.Device
	for _, d := range n.devices {
		if !held[d.ID] {
			free = append(free, d)
		}
	}
	return free
}

// ofJob leaves out the GPUs that Slurm did not give the job, by SLURM_JOB_GPUS,
// so that two main jobs of one node have their own each. It is the job's to
// forge: what a process may have is seen when it opens (device.Node.HeldBy).
func ofJob(free []device.Device, gpus string) []device.Device {
	minors, err := pipefill.ParseCores(gpus)
	if gpus == "" || err != nil {
		return free
	}
	return slices.DeleteFunc(free, func(d device.Device) bool {
		return d.Node != nil && !slices.Contains(minors, int(d.Node.Minor))
	})
}

// addMainDevice makes the pages of one device.
func (n *node) addMainDevice(m *mainJob, dev device.Device) error {
	main, err := newMainPage("main")
	if err != nil {
		return err
	}
	control, err := newPage[controlPage]("control", controlMagic)
	if err != nil {
		main.close()
		return err
	}
	rec := mainPageRecord{Device: dev.ID}
	if rec.Main, err = inodeOf(main.file); err == nil {
		rec.Control, err = inodeOf(control.file)
	}
	if err != nil {
		main.close()
		control.close()
		return err
	}
	m.rec.Devices = append(m.rec.Devices, rec)
	n.takeMainDevice(m, dev, main, control)
	return nil
}

// takeMainDevice starts governing a device whose pages are there.
func (n *node) takeMainDevice(m *mainJob, dev device.Device, main *page[mainPage], control *page[controlPage]) {
	d := &mainDevice{device: dev, main: main, control: control}
	d.governor = newGovernor(m.options.budget, m.options.share, milliseconds(n.cfg.GuardMs))
	d.drain.tail = main.at.RingHead.Load()
	c := control.at
	c.Seed.Store(m.rec.Seed)
	c.MinNs.Store(uint64(milliseconds(n.cfg.MinMs)))
	if dev.ID.Kind() == pipefill.KindCPU {
		c.FloorNs.Store(uint64(milliseconds(n.cfg.FloorMs)))
	}
	c.MarginNs.Store(uint64(200 * time.Microsecond))
	c.BeatNs.Store(uint64(n.mono()))
	if n.cfg.TraceDir != "" {
		d.trace = newEventTrace(n.cfg.TraceDir, dev.ID)
	}
	n.startRecording(d)
	m.devices = append(m.devices, d)
	n.steer(m, d)
	n.beatMu.Lock()
	n.beats[c] = true
	n.beatMu.Unlock()
	select {
	case n.busy <- struct{}{}:
	default:
	}
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// steer writes what the governor decided into the control page.
func (n *node) steer(m *mainJob, d *mainDevice) {
	c := d.control.at
	c.SharePpm.Store(uint32(d.governor.share * 1e6))
	c.GuardNs.Store(uint64(d.governor.guard))
	c.ControlPpm.Store(n.cfg.control(d.main.at.Iteration.Load()))
	enabled := uint32(1)
	if m.options.off || d.governor.disabled != "" || m.ending {
		enabled = 0
	}
	c.Enabled.Store(enabled)
	c.Move.Store(n.moveWord(m, d, api.MoveOptimizer, enabled != 0))
	c.Cache.Store(n.moveWord(m, d, api.MoveCache, enabled != 0))
}

func (m *mainJob) deviceIDs() []pipefill.DeviceID {
	var ids []pipefill.DeviceID
	for _, d := range m.devices {
		ids = append(ids, d.device.ID)
	}
	return ids
}

// pick chooses the device that open-main named, of those that the asking
// process may have: a name, a local rank, or nothing, for the first that
// nobody alive has opened.
func (m *mainJob) pick(name string, may func(device.Device) bool) *mainDevice {
	var own []int
	for i, d := range m.devices {
		if may(d.device) {
			own = append(own, i)
		}
	}
	for _, i := range own {
		if string(m.devices[i].device.ID) == name {
			return m.devices[i]
		}
	}
	if rank, err := strconv.Atoi(name); err == nil && rank >= 0 && rank < len(own) {
		return m.devices[own[rank]]
	}
	if name != "" || len(own) == 0 {
		return nil
	}
	for _, i := range own {
		if !slices.ContainsFunc(m.rec.Devices[i].Openers, process.alive) {
			return m.devices[i]
		}
	}
	return m.devices[own[0]]
}

// leaveMain takes a step of a main job away; with the last one it ends.
func (n *node) leaveMain(m *mainJob, step string) {
	steps := slices.DeleteFunc(slices.Clone(m.rec.Steps), func(s string) bool { return s == step })
	if len(steps) == 0 || isBatch(step) {
		n.endMain(m, "the main job ended")
		return
	}
	m.rec.Steps, m.dirty = steps, true
}

// isBatch tells whether a step is the batch script: its end is the job's.
func isBatch(step string) bool { return step == "batch" || step == "4294967291" }

// endMain shuts the gates of a main job and tells its fill jobs to end; tick
// drops it once they have.
func (n *node) endMain(m *mainJob, why string) {
	if m.ending {
		return
	}
	m.ending = true
	for _, d := range m.devices {
		n.steer(m, d)
		if d.fill != nil {
			n.evict(d.fill, pipefill.OutcomeEvicted, why, true)
		}
	}
	n.changed()
	n.log.Info("main job ended", "job_id", m.rec.Job.JobID, "why", why)
}

// dropMain forgets a main job that has ended. Fill jobs that still end keep
// their own hold on its pages.
func (n *node) dropMain(m *mainJob) {
	if err := n.state.dropMain(m.rec.Job); err != nil {
		n.log.Error("record not removed", "job_id", m.rec.Job.JobID, "err", err)
	}
	for _, d := range m.devices {
		n.keepRecording(m, d)
		if n.past[d.device.ID] == nil {
			n.past[d.device.ID] = &deviceTotals{}
		}
		n.past[d.device.ID].add(d, n.mono())
	}
	if n.mains[m.rec.Job.JobID] == m {
		delete(n.mains, m.rec.Job.JobID)
		n.unmark(m.rec.Job.JobID)
	}
	n.closeMain(m)
	if err := n.groups.release(m.rec.Job.JobID); err != nil {
		n.log.Debug("group of main job not removed", "job_id", m.rec.Job.JobID, "err", err)
	}
	n.changed()
}

func (n *node) closeMain(m *mainJob) {
	for _, d := range m.devices {
		n.beatMu.Lock()
		delete(n.beats, d.control.at)
		n.beatMu.Unlock()
		if d.fill != nil {
			d.fill.devices = nil
		}
		d.trace.close()
		d.main.close()
		d.control.close()
	}
}

// sortedMains and sortedFills give a stable order for what is sent.
func (n *node) sortedMains() []*mainJob {
	return slices.SortedFunc(maps.Values(n.mains), func(a, b *mainJob) int { return int(a.rec.Job.JobID - b.rec.Job.JobID) })
}

func (n *node) sortedFills() []*fillJob {
	return slices.SortedFunc(maps.Values(n.fills), func(a, b *fillJob) int { return int(a.rec.Assignment.ID - b.rec.Assignment.ID) })
}

// inodeOf names an open file.
func inodeOf(f *os.File) (inode, error) {
	info, err := f.Stat()
	if err != nil {
		return inode{}, fmt.Errorf("stat page: %w", err)
	}
	return statInode(info)
}
