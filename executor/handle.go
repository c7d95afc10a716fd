package executor

import (
	"context"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/executor/device"
)

// The verbs of docs/protocol.md section 2.

const (
	// How long an epilog waits for fill processes to be gone: the grace, the
	// kill, and room for a slow disk.
	epilogTime = 10 * time.Second
	epilogPoll = 20 * time.Millisecond
	jobMax     = math.MaxUint32
)

// attach answers attach.sock, which only root can open.
func (n *node) attach(ctx context.Context, r request) (reply, []*os.File) {
	if r.uid != 0 {
		return failed(pipefill.Errorf(pipefill.CodeDenied, "this socket is the plugin's")), nil
	}
	answer, err := n.attachVerb(ctx, r)
	if err != nil {
		return answerOf(n.log, r.verb, err), nil
	}
	return answer, nil
}

func (n *node) attachVerb(ctx context.Context, r request) (reply, error) {
	key, uid, err := r.job()
	if err != nil {
		return reply{}, err
	}
	if key.Cluster != "" && key.Cluster != n.cfg.Cluster {
		return replyNone, nil // a node of two clusters serves the one configured
	}
	key.Cluster = n.cfg.Cluster
	step := r.keys["step"]
	switch r.verb {
	case "main":
		return n.verbMain(key, uid, step, r.message)
	case "fill":
		a, answer, err := n.attachFill(key, uid, step, r.keys["partition"], r.keys["options"])
		if err != nil || a == nil {
			return answer, err
		}
		return n.cfg.fillReply(*a), nil
	case "task":
		return n.verbTask(key, uid, r.message)
	case "leave":
		return n.verbLeave(key, uid, step, r.message)
	case "epilog":
		return n.verbEpilog(ctx, key, uid)
	}
	return reply{}, pipefill.Errorf(pipefill.CodeInvalid, "unknown verb %q: the plugin is of another release", r.verb)
}

// fillReply tells the plugin what a fill job is to run with.
func (c *config) fillReply(a pipefill.Assignment) reply {
	keys := []string{
		"assignment", strconv.FormatInt(a.ID, 10), "device", string(a.Device), "mode", string(a.Mode),
		"mem_bytes", strconv.FormatInt(a.MemBytes, 10), "dir", c.RunDir, "devices", string(pipefill.DevicesOf(a.Devices())),
	}
	if a.Mode == pipefill.ModeLaunch {
		keys = append(keys, "preload", c.LaunchLib)
	}
	return ok(keys...)
}

// job reads who a message is about. restarts is absent where it cannot matter.
func (m message) job() (pipefill.JobKey, uint32, error) {
	id, err := m.number("job", jobMax)
	if err != nil {
		return pipefill.JobKey{}, 0, err
	}
	uid, err := m.number("uid", math.MaxUint32)
	if err != nil {
		return pipefill.JobKey{}, 0, err
	}
	key := pipefill.JobKey{Cluster: m.keys["cluster"], JobID: id}
	if m.keys["restarts"] != "" {
		restarts, err := m.number("restarts", math.MaxInt32)
		if err != nil {
			return pipefill.JobKey{}, 0, err
		}
		key.Restarts = int(restarts)
	}
	return key, uint32(uid), nil
}

func (n *node) verbMain(key pipefill.JobKey, uid uint32, step string, m message) (reply, error) {
	tasks, err := m.number("tasks", 1<<20)
	if err != nil {
		return reply{}, err
	}
	ids, err := n.attachMain(key, uid, step, m, int(tasks))
	if err != nil {
		return reply{}, err
	}
	if len(ids) == 0 {
		return replyNone, nil
	}
	if m.keys["pid"] != "" {
		if err := n.adopt(key.JobID, uid, m); err != nil {
			return reply{}, err
		}
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	return ok("dir", n.cfg.RunDir, "devices", strings.Join(names, " ")), nil
}

// adopt moves a main job's process that no slurmstepd started into a group by
// which its own processes are known.
func (n *node) adopt(job int64, uid uint32, m message) error {
	pid, err := m.number("pid", 1<<22)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || pid < 2 {
		return pipefill.Errorf(pipefill.CodeInvalid, "main: no process %d", pid)
	}
	if other, fill, err := parsePeer(string(data), n.groups.name, uid); err != nil || other != 0 && other != job || fill != 0 {
		return pipefill.Errorf(pipefill.CodeInvalid, "main: process %d is of another job", pid)
	}
	return n.groups.adopt(job, int(pid))
}

func (n *node) verbTask(key pipefill.JobKey, uid uint32, m message) (reply, error) {
	pid, err := m.number("pid", 1<<22)
	if err != nil {
		return reply{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.live(key.JobID)
	if f == nil || f.rec.Assignment.UID != uid || f.rec.Stopping != "" {
		return replyNone, nil
	}
	// The plugin is root and knows, yet a number that is another job's by now
	// would freeze a stranger.
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || pid < 2 {
		return reply{}, pipefill.Errorf(pipefill.CodeInvalid, "task: no process %d", pid)
	}
	if job, _, err := parsePeer(string(data), n.groups.name, uid); err != nil || job != 0 && job != key.JobID {
		return reply{}, pipefill.Errorf(pipefill.CodeInvalid, "task: process %d is not of job %d", pid, key.JobID)
	}
	return ok(), n.addTask(f, int(pid))
}

func (n *node) verbLeave(key pipefill.JobKey, uid uint32, step string, m message) (reply, error) {
	status, err := strconv.ParseInt(m.keys["status"], 10, 32)
	if err != nil {
		return reply{}, pipefill.Errorf(pipefill.CodeInvalid, "leave: status=%q: not a wait status", m.keys["status"])
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if j := n.mains[key.JobID]; j != nil && j.rec.UID == uid {
		n.leaveMain(j, step)
		return ok(), nil
	}
	if f := n.live(key.JobID); f != nil && f.rec.Assignment.UID == uid {
		return ok(), n.leaveFill(f, step, int(status))
	}
	return ok(), nil
}

// leaveFill takes a step of a fill job away. Its batch step's end is its own.
func (n *node) leaveFill(f *fillJob, step string, status int) error {
	rec := f.rec
	rec.Steps = nil
	for _, s := range f.rec.Steps {
		if s != step {
			rec.Steps = append(rec.Steps, s)
		}
	}
	if !isBatch(step) && len(rec.Steps) > 0 {
		return n.saveFill(f, rec)
	}
	outcome, reason, exit := judgeStatus(status)
	if f.rec.Assignment.State == pipefill.AssignmentAttached && status == int(unix.SIGKILL) {
		// The plugin ends a task that this daemon, away for too long, did not take.
		outcome, reason = pipefill.OutcomeEvicted, "its program was not started: pipefilld did not answer"
	}
	n.finish(f, outcome, reason, exit)
	return nil
}

// judgeStatus reads a wait status.
func judgeStatus(status int) (pipefill.Outcome, string, int) {
	ws := unix.WaitStatus(status)
	switch {
	case status == 0:
		return pipefill.OutcomeCompleted, "", 0
	case status < 0:
		return pipefill.OutcomeFailed, "its script never started", -1
	case ws.Signaled():
		return pipefill.OutcomeFailed, fmt.Sprintf("ended by signal %d", ws.Signal()), 128 + int(ws.Signal())
	}
	return pipefill.OutcomeFailed, fmt.Sprintf("exit status %d", ws.ExitStatus()), ws.ExitStatus()
}

// verbEpilog ends what is left of a job and waits for it, so that Slurm gives
// no device on which a fill process still runs to the next job.
func (n *node) verbEpilog(ctx context.Context, key pipefill.JobKey, uid uint32) (reply, error) {
	n.mu.Lock()
	var left []*fillJob
	if m := n.mains[key.JobID]; m != nil && m.rec.UID == uid {
		n.endMain(m, "the main job ended")
	}
	for _, f := range n.fills {
		a := f.rec.Assignment
		if f.ended() {
			continue
		}
		if a.Job.JobID == key.JobID && a.UID == uid {
			n.finish(f, pipefill.OutcomeFailed, "the job ended without its batch step's word", -1)
			left = append(left, f)
		}
		if a.MainJob.JobID == key.JobID && f.rec.Stopping != "" {
			left = append(left, f)
		}
	}
	n.mu.Unlock()
	return n.awaitEmpty(ctx, left)
}

// awaitEmpty waits until no process of the fill jobs is left.
func (n *node) awaitEmpty(ctx context.Context, left []*fillJob) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, epilogTime)
	defer cancel()
	ticker := time.NewTicker(epilogPoll)
	defer ticker.Stop()
	for {
		n.mu.Lock()
		busy := 0
		for _, f := range left {
			if pids, err := f.group.pids(); !f.ended() && (err != nil || len(pids) > 0) {
				busy++
			}
		}
		n.mu.Unlock()
		if busy == 0 {
			return ok(), nil
		}
		select {
		case <-ctx.Done():
			return reply{}, pipefill.Errorf(pipefill.CodeUnavailable, "%d fill jobs still have processes after %s", busy, epilogTime)
		case <-ticker.C:
		}
	}
}

// gate answers gate.sock, which every user can open.
func (n *node) gate(ctx context.Context, r request) (reply, []*os.File) {
	p, err := readPeer(r.pid, r.uid, n.groups.name)
	if err != nil {
		// The reason may tell a stranger of others' jobs: it goes to the log.
		n.log.InfoContext(ctx, "page refused", "verb", r.verb, "uid", r.uid, "pid", r.pid, "err", err)
		return failed(pipefill.Errorf(pipefill.CodeDenied, "this process is of no job that pipefill knows")), nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var answer reply
	var files []*os.File
	switch r.verb {
	case "open-main":
		answer, files, err = n.openMain(p, r.keys["device"])
	case "open-fill":
		answer, files, err = n.openFill(p, r.keys["devices"])
	case "plan":
		answer, files, err = n.openPlan(p)
	default:
		err = pipefill.Errorf(pipefill.CodeInvalid, "unknown verb %q: libpipefill is of another release", r.verb)
	}
	if err != nil {
		return answerOf(n.log, r.verb, err), nil
	}
	return answer, files
}

func (n *node) openMain(p peer, name string) (reply, []*os.File, error) {
	m := n.mains[p.job]
	if p.job == 0 || m == nil || m.rec.UID != p.uid || m.ending {
		return replyNone, nil, nil
	}
	d := m.pick(name, func(d device.Device) bool { return d.Node == nil || d.Node.HeldBy(p.process.Pid) })
	if d == nil {
		return reply{}, nil, pipefill.Errorf(pipefill.CodeNotFound,
			"job %d has no device %q here, or this process has not opened it yet (a GPU: use it before pf_open)", p.job, name)
	}
	r := m.record(d)
	if other := d.writer(r, p.process, n.now()); other != (process{}) {
		err := pipefill.Errorf(pipefill.CodeConflict, "process %d announces the bubbles of %s already, and a device has one such: "+
			"give each process its own (PIPEFILL_DEVICE, LOCAL_RANK)", other.Pid, d.device.ID)
		n.log.Warn("page refused", "job_id", p.job, "pid", p.process.Pid, "err", err)
		return reply{}, nil, err
	}
	files, err := handOut(d.main.shared, d.control.readOnly)
	if err != nil {
		return reply{}, nil, err
	}
	r.opened(p.process)
	d.handed.to, d.handed.at = p.process, n.now()
	m.dirty = true // tick writes it
	n.changed()
	return ok("device", string(d.device.ID)), files, nil
}

// mapTime is how long a process takes at most to map a page that was handed to
// it: the library gives up after 50 ms.
const mapTime = time.Second

// writer is the process, other than the asking one, that has the main page or
// is about to: a page has one writer. The zero process: none.
func (d *mainDevice) writer(r *mainPageRecord, asking process, now time.Time) process {
	for _, o := range r.Openers {
		fresh := o == d.handed.to && now.Sub(d.handed.at) < mapTime
		if o != asking && o.alive() && (fresh || hasPage(o, r.Main)) {
			return o
		}
	}
	return process{}
}

// record is what is kept on disk of a device of the job.
func (m *mainJob) record(d *mainDevice) *mainPageRecord {
	for i := range m.devices {
		if m.devices[i] == d {
			return &m.rec.Devices[i]
		}
	}
	return nil
}

// opened notes a process that may hold the pages, in place of the dead ones.
func (r *mainPageRecord) opened(p process) {
	kept := []process{p}
	for _, o := range r.Openers {
		if o != p && o.alive() && len(kept) < 64 {
			kept = append(kept, o)
		}
	}
	r.Openers = kept
}

// fillOf is the fill job that a process is of, if it may have its pages.
func (n *node) fillOf(p peer) *fillJob {
	f := n.fills[p.fill]
	if p.fill == 0 {
		f = n.live(p.job)
	}
	if f == nil || f.ended() || f.rec.Assignment.UID != p.uid || len(f.devices) == 0 {
		return nil
	}
	return f
}

// openFill hands a fill job its pages: main, control and fill, then main and
// control of each other device. follows is how many gates its library minds at
// once; one of an earlier release does not say, and would mind the first.
func (n *node) openFill(p peer, follows string) (reply, []*os.File, error) {
	f := n.fillOf(p)
	if f == nil {
		return replyNone, nil, nil
	}
	if most, err := strconv.Atoi(follows); len(f.devices) > 1 && (err != nil || most < len(f.devices)) {
		return reply{}, nil, pipefill.Errorf(pipefill.CodeConflict, "this job has %d devices, and its libpipefill follows fewer: install the libpipefill of this release",
			len(f.devices))
	}
	open := []func() (*os.File, error){f.devices[0].main.readOnly, f.devices[0].control.readOnly, f.page.shared}
	for _, d := range f.devices[1:] {
		open = append(open, d.main.readOnly, d.control.readOnly)
	}
	files, err := handOut(open...)
	if err != nil {
		return reply{}, nil, err
	}
	a := f.rec.Assignment
	return ok("device", string(a.Device), "mode", string(a.Mode), "assignment", strconv.FormatInt(a.ID, 10), "devices", string(pipefill.DevicesOf(a.Devices()))), files, nil
}

// handOut opens descriptors to send; all of them or none.
func handOut(open ...func() (*os.File, error)) ([]*os.File, error) {
	var files []*os.File
	for _, o := range open {
		f, err := o()
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
