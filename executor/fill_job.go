package executor

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/api"
)

// fillJob is an assignment that has reached this node.
type fillJob struct {
	rec     fillRecord
	devices []*mainDevice // none once the main job is gone, or the assignment ended
	group   *group
	page    *page[fillPage]
	super   *page[superPage]

	runningNs int64 // since when its gate may open, CLOCK_MONOTONIC
	killNs    int64 // ending: when what is left is killed
	chargedAt time.Time
	absent    int

	plan    heldPlan  // none: its file is nil
	waiting *api.Plan // handed out once its move has been done

	moved     uint64 // of the main page's MoveTimes, when the move was ordered
	cuts      int    // of the governor, then
	follows   bool   // it has said that it follows the plan that counts on the move
	strangers int    // looks in a row that found a process of it on the GPU past the launch library
}

const (
	// How long a fill job that is told to end gets, with its gate open.
	graceTime = 2 * time.Second
	// How often usage goes to the ledger: what a host that loses its power has not
	// charged. Every record is a row of the controller's, of 8,192 fill jobs 273 a
	// second.
	chargeEvery = 30 * time.Second
	// How long a plugin waits for an assignment (docs/protocol.md).
	wantTime = 10 * time.Second
)

func (f *fillJob) ended() bool { return f.rec.Assignment.State == pipefill.AssignmentEnded }

// live finds the fill job of a Slurm job that has attached and not ended.
func (n *node) live(jobID int64) *fillJob {
	for _, f := range n.fills {
		if f.rec.Assignment.Job.JobID == jobID && !f.ended() {
			return f
		}
	}
	return nil
}

// attachFill answers a step of a fill job: a copy of its assignment, or what to
// do without.
func (n *node) attachFill(key pipefill.JobKey, uid uint32, step, partition, options string) (*pipefill.Assignment, reply, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	// Before the first sync every partition is another: a job that is not ours
	// must not wait for a controller. The plugin holds those of its own list.
	if partition != "" && !slices.Contains(n.record.Partitions, partition) {
		return nil, replyOther, nil
	}
	f := n.live(key.JobID)
	if f != nil && (!sameAttempt(f.rec.Assignment.Job, key) || f.rec.Assignment.UID != uid) {
		f = nil
	}
	for id, a := range n.orders {
		if !sameAttempt(a.Job, key) || a.UID != uid {
			continue
		}
		if f != nil {
			// The controller is one attempt further: the end of the one before
			// was missed.
			n.finish(f, pipefill.OutcomeLost, "another attempt of the job has started", -1)
			return nil, replyWait, nil
		}
		f, err := n.startFill(a, step, options)
		if errors.Is(err, errNoSlot) {
			return nil, replyNone, nil
		}
		if err != nil {
			return nil, reply{}, err
		}
		delete(n.orders, id)
		a = f.rec.Assignment
		return &a, reply{}, nil
	}
	switch {
	case f == nil:
	case f.rec.Stopping != "" && isBatch(step):
		return nil, replyWait, nil // of the attempt to come
	case f.rec.Stopping != "":
		return nil, replyNone, nil
	default:
		if err := n.addFillStep(f, step); err != nil {
			return nil, reply{}, err
		}
		a := f.rec.Assignment
		return &a, reply{}, nil
	}
	return nil, n.want(key, uid), nil
}

// sameAttempt compares a job's name with what a plugin told of it: Slurm 22.05
// tells the plugin of a batch step 0 restarts whatever their number, and of two
// attempts of a job the first has ended before the second starts.
func sameAttempt(known, told pipefill.JobKey) bool {
	return known.Cluster == told.Cluster && known.JobID == told.JobID && (known.Restarts == told.Restarts || told.Restarts == 0)
}

// want asks the controller about a job, once, and answers for it meanwhile.
func (n *node) want(key pipefill.JobKey, uid uint32) reply {
	now := n.now()
	for i, w := range n.wants {
		if w.job != key || w.uid != uid {
			continue
		}
		if w.refused || now.After(w.until) {
			n.wants = slices.Delete(n.wants, i, i+1)
			return replyNone
		}
		return replyWait
	}
	if len(n.wants) >= 64 {
		return replyNone // nobody fills a node with that many at once
	}
	n.wants = append(n.wants, &want{job: key, uid: uid, until: now.Add(wantTime)})
	n.changed()
	return replyWait
}

func (n *node) addFillStep(f *fillJob, step string) error {
	if slices.Contains(f.rec.Steps, step) {
		return nil
	}
	rec := f.rec
	rec.Steps = append(slices.Clone(rec.Steps), step)
	return n.saveFill(f, rec)
}

// saveFill makes a change of a fill job's record durable, then visible.
func (n *node) saveFill(f *fillJob, rec fillRecord) error {
	if err := n.state.saveFill(rec); err != nil {
		n.fault("state", fmt.Sprintf("state cannot be written, no fill job starts: %v", err))
		return err
	}
	n.fault("state", "")
	f.rec = rec
	n.changed()
	return nil
}

// errNoSlot: an assignment cannot be taken up as it is; its job is not to run.
var errNoSlot = errors.New("no slot for this assignment")

// startFill makes an assignment's groups, pages and supervisor, all shut, and
// writes it down as attached.
func (n *node) startFill(a pipefill.Assignment, step, options string) (*fillJob, error) {
	if no := n.noFilling(); no != "" {
		n.log.Warn("fill job refused", "fill_job_id", a.Job.JobID, "reason", no)
		return nil, errNoSlot
	}
	slots := n.slots(a)
	if len(slots) == 0 {
		n.log.Warn("fill job without its slot", "fill_job_id", a.Job.JobID, "assignment", a.ID, "device", pipefill.DevicesOf(a.Devices()))
		return nil, errNoSlot
	}
	if a.Mode == "" {
		if a.Mode = fillMode(options); a.Mode == "" {
			a.Mode = pipefill.ModeSignal
		}
	}
	if no := cmp.Or(a.Mode.Obstacle(a.Device, n.cfg.LaunchLib != ""), a.Mode.GangObstacle(len(slots))); no != "" {
		n.log.Warn("fill job refused", "fill_job_id", a.Job.JobID, "reason", no)
		return nil, errNoSlot
	}
	if a.MemBytes == 0 && a.Device.Kind() == pipefill.KindGPU {
		// What it may hold on each also between bubbles; 0 while nobody knows.
		for i, d := range slots {
			if free := n.cycle(n.mains[a.MainJob.JobID], d).AlwaysFreeBytes; i == 0 || free > 0 && (a.MemBytes == 0 || free < a.MemBytes) {
				a.MemBytes = free
			}
		}
	}
	a.State = pipefill.AssignmentAttached
	f := &fillJob{
		rec:     fillRecord{Assignment: a, Steps: []string{step}, AttachedMs: n.nowMs(), ChargedMs: n.nowMs()},
		devices: slots, group: n.groups.group(a.ID, devicesOf(slots)...), chargedAt: n.now(),
	}
	if err := n.equipFill(f); err != nil {
		n.dismantle(f)
		return nil, err
	}
	n.fills[a.ID] = f
	n.bind(f)
	n.mark(a.Job.JobID)
	n.log.Info("fill job attached", "fill_job_id", a.Job.JobID, "assignment", a.ID, "device", pipefill.DevicesOf(a.Devices()), "mode", a.Mode)
	return f, nil
}

// equipFill makes what a new fill job needs and writes it down.
func (n *node) equipFill(f *fillJob) error {
	if err := f.group.create(n.otherNodes(f.rec.Assignment.Devices())); err != nil {
		return err
	}
	var err error
	if f.page, err = newPage[fillPage]("fill", fillMagic); err != nil {
		return err
	}
	if err := n.startSupervisor(f); err != nil {
		return err
	}
	if f.rec.Fill, err = inodeOf(f.page.file); err != nil {
		return err
	}
	return n.saveFill(f, f.rec)
}

// startSupervisor starts the process that stops and continues a fill job. It
// holds it stopped until it is told otherwise.
func (n *node) startSupervisor(f *fillJob) error {
	if f.super == nil {
		super, err := newPage[superPage]("supervisor", superMagic)
		if err != nil {
			return err
		}
		// What earlier supervisors charged, whose page is gone.
		super.at.charged(n.ledger.sums[f.rec.Assignment.ID], f.width())
		f.super = super
	}
	a := f.rec.Assignment
	f.super.at.Command.Store(superHold)
	f.super.at.DaemonPid.Store(uint32(n.self.Pid))
	f.super.at.State.Store(stateStarting)
	args, err := superviseArguments(superviseOrder{
		ID: a.ID, Job: a.Job.JobID, Group: f.group.unified, Device: a.Device, Others: a.Others, Mode: a.Mode, TraceDir: n.cfg.TraceDir,
	})
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: args, Env: superviseEnv(), Stderr: os.Stderr, Dir: "/",
		ExtraFiles:  []*os.File{f.devices[0].main.file, f.devices[0].control.file, f.page.file, f.super.file},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	for _, d := range f.devices[1:] {
		cmd.ExtraFiles = append(cmd.ExtraFiles, d.main.file, d.control.file)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	p, err := readProcess(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // only to bury it: its end is seen in tick
	if err != nil {
		return err
	}
	f.rec.Supervisor = p
	return nil
}

// dismantle takes back what equipFill made.
func (n *node) dismantle(f *fillJob) {
	if f.super != nil {
		f.super.at.Command.Store(superExit)
	}
	if err := errors.Join(f.group.kill(), f.group.remove()); err != nil {
		n.log.Error("groups not removed", "assignment", f.rec.Assignment.ID, "err", err)
	}
	f.page.close()
	f.super.close()
	f.plan.close()
}

// addTask moves a task into its fill job's groups, and lets the gate open once
// that is on disk.
func (n *node) addTask(f *fillJob, pid int) error {
	if err := f.group.add(pid); err != nil {
		return err
	}
	return n.letRun(f)
}

// letRun writes running down before the gate is first open to a fill job.
func (n *node) letRun(f *fillJob) error {
	if f.rec.Assignment.State != pipefill.AssignmentRunning {
		rec := f.rec
		rec.Assignment.State = pipefill.AssignmentRunning
		if err := n.saveFill(f, rec); err != nil {
			return err
		}
	}
	if f.runningNs == 0 {
		f.runningNs = n.mono()
	}
	n.command(f)
	return nil
}

// command tells the supervisor what to do, after all that has a say.
func (n *node) command(f *fillJob) {
	if f.super == nil || f.ended() {
		return
	}
	order := uint32(superHold)
	switch now := f.super.at.Command.Load(); {
	case now == superGrace || now == superExit:
		return // on its way out
	case f.rec.Assignment.State == pipefill.AssignmentRunning && n.faults["ledger"] == "":
		order = superRun
	}
	f.super.at.Command.Store(order)
}

// evict tells a fill job to end, and kills it after the grace. Its gate stays
// open for the grace where the device is free; next to a running main job it
// opens in bubbles only.
func (n *node) evict(f *fillJob, outcome pipefill.Outcome, reason string, free bool) {
	if f.ended() || f.rec.Stopping != "" {
		return
	}
	rec := f.rec
	rec.Stopping, rec.Assignment.Reason = outcome, reason
	if err := n.saveFill(f, rec); err != nil {
		// Its end must not wait for a disk; the record follows when it can.
		n.log.Error("end of fill job not written", "assignment", rec.Assignment.ID, "err", err)
		f.rec = rec
	}
	f.killNs = n.mono() + int64(graceTime)
	for _, d := range f.devices {
		d.control.at.FillStop.Store(1)
	}
	if err := f.group.signal(unix.SIGTERM); err != nil {
		n.log.Warn("fill job not told to end", "assignment", rec.Assignment.ID, "err", err)
	}
	if free && f.super != nil {
		f.super.at.GraceUntilNs.Store(uint64(f.killNs))
		f.super.at.Command.Store(superGrace)
		f.wakeSupervisor()
	}
}

// finish ends a fill job whose script is over: whatever it left running dies.
func (n *node) finish(f *fillJob, outcome pipefill.Outcome, reason string, exit int) {
	if f.ended() {
		return
	}
	rec := f.rec
	if rec.Stopping == "" {
		rec.Stopping, rec.Assignment.Reason, rec.ExitCode = outcome, reason, exit
	} else if exit >= 0 {
		rec.ExitCode = exit
	}
	if err := n.saveFill(f, rec); err != nil {
		n.log.Error("end of fill job not written", "assignment", rec.Assignment.ID, "err", err)
		f.rec = rec // conclude writes it when the disk can
	}
	f.killNs = n.mono()
	n.advance(f)
}

// advance takes an ending fill job as far towards its end as it gets now.
func (n *node) advance(f *fillJob) {
	pids, err := f.group.pids()
	if err != nil {
		n.log.Error("group not read", "assignment", f.rec.Assignment.ID, "err", err)
		return
	}
	if len(pids) > 0 {
		if n.mono() >= f.killNs {
			if err := f.group.kill(); err != nil {
				n.fault(fmt.Sprintf("kill-%d", f.rec.Assignment.ID), fmt.Sprintf("fill job %d cannot be killed: %v", f.rec.Assignment.Job.JobID, err))
			}
		}
		return
	}
	// Its page is the only one that knows of the last opening: it lives until
	// that is in the ledger, lest a daemon that is killed meanwhile finds none.
	f.super.at.Command.Store(superHold)
	f.wakeSupervisor()
	if f.super.at.ThawedAtNs.Load() != 0 && f.rec.Supervisor.alive() {
		return // it is charging the last opening
	}
	n.conclude(f)
}

// conclude writes the end of a fill job down: its usage first, so that an
// ended assignment is never charged again.
func (n *node) conclude(f *fillJob) {
	if err := n.charge(f); err != nil {
		return // no slot is free before its usage is on disk
	}
	rec := f.rec
	rec.Assignment.State, rec.Assignment.Outcome, rec.EndedMs = pipefill.AssignmentEnded, rec.Stopping, n.nowMs()
	if err := n.saveFill(f, rec); err != nil {
		return
	}
	f.super.at.Command.Store(superExit)
	f.wakeSupervisor()
	n.fault(fmt.Sprintf("kill-%d", rec.Assignment.ID), "")
	for _, d := range f.devices {
		d.usedHere = d.usedHere.plus(f.super.at.used(0))
		d.recordChunks()
	}
	n.unbind(f)
	if err := f.group.remove(); err != nil {
		n.log.Warn("groups not removed", "assignment", rec.Assignment.ID, "err", err)
	}
	f.page.close()
	f.super.close()
	f.page, f.super = nil, nil
	f.plan.close()
	n.unmark(rec.Assignment.Job.JobID)
	n.changed()
	n.log.Info("fill job ended", "fill_job_id", rec.Assignment.Job.JobID, "assignment", rec.Assignment.ID,
		"outcome", rec.Assignment.Outcome, "reason", rec.Assignment.Reason)
}

// usedBy is what a fill job has used since it attached: of each of its devices.
func (n *node) usedBy(f *fillJob) used {
	u := f.super.at.used(n.mono())
	u.DeviceNs, u.OverrunNs = u.DeviceNs*f.width(), u.OverrunNs*f.width()
	if cpu, err := f.group.cpuNs(); err == nil {
		u.CPUNs = cpu
	}
	return u
}

// charge brings the ledger up to date. While it cannot be written no gate
// opens for any fill job.
func (n *node) charge(f *fillJob) error {
	now := n.nowMs()
	err := n.ledger.charge(f.rec.Assignment.ID, n.usedBy(f), f.rec.ChargedMs, now)
	if err != nil {
		n.fault("ledger", fmt.Sprintf("usage ledger cannot be written, no fill job runs: %v", err))
		n.commandAll()
		return err
	}
	f.chargedAt, f.rec.ChargedMs = n.now(), now
	return nil
}

func (n *node) commandAll() {
	for _, f := range n.fills {
		n.command(f)
	}
}
