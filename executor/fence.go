package executor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill"
	"pipefill/executor/device"
)

// The memory fence: a fill job may hold what the device has, less the most that
// the main job has held, less a reserve. What keeps a fill job to that are its
// own allocations (PyTorch's limit, the launch library) or the driver; this
// looks, and ends what is beyond it, which may be too late for the main job's
// next allocation.

const (
	// How often it is looked: NVML's list of processes takes milliseconds.
	memoryEvery = time.Second
	// Of so many looks one is at heat, power and compute mode too.
	healthEvery = 10
	// What is never offered of a GPU where the main job names no reserve: its
	// allocator may grow before it is looked at again.
	reserveUsual = int64(1) << 30
	// Iterations after which the most that a main job holds is known: its
	// allocator has by then seen forward, backward and the optimizer.
	knownIterations = 2
	// What answers in milliseconds, and later than this most likely never.
	driverPatience = 30 * time.Second
	// Looks in a row that must find a process beside the launch library: it may
	// just be starting.
	strangerMost = 3
)

// meter is device.Meter, in tests another.
type meter interface {
	Read(id pipefill.DeviceID) ([]device.Use, error)
	Limit(id pipefill.DeviceID, group string, bytes int64) error
	Limits() bool
	Health(id pipefill.DeviceID) (device.Health, error)
}

var _ meter = (*device.Meter)(nil)

// memory is what is known of a GPU's memory; zero is nothing.
type memory struct {
	total, high, reserve int64
}

// offered is what fill jobs may hold, ok once it is known.
func (m memory) offered() (bytes int64, ok bool) {
	return max(0, m.total-m.high-m.reserve), m.high > 0
}

// full tells whether it is known that nothing is left to fill jobs.
func (m memory) full() bool {
	left, known := m.offered()
	return known && left == 0
}

// squeezed tells whether the main job has grown into the reserve: by half of
// it, beside what a fill job may hold.
func (m memory) squeezed(held int64) bool {
	return m.high > 0 && m.high+held > m.total-m.reserve/2
}

// judgeMemory tells how a fill job must end that may hold limit (0: nobody has
// said) and holds used, "" if it need not.
func judgeMemory(limit, used int64, m memory, id pipefill.DeviceID) (pipefill.Outcome, string) {
	if limit > 0 && used > limit {
		return pipefill.OutcomeFailed, fmt.Sprintf(
			"it held %s of memory on %s and may hold %s, %s too much: use a smaller batch, or ask for more by --pipefill=fill,mem=SIZE",
			mib(used), id, mib(limit), mib(used-limit))
	}
	if m.squeezed(max(limit, used)) {
		return pipefill.OutcomeEvicted, fmt.Sprintf("the main job's memory on %s grew to %s of %s, and %s are this job's",
			id, mib(m.high), mib(m.total), mib(max(limit, used)))
	}
	return "", ""
}

func mib(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }

// watchMemory looks again and again.
func (n *node) watchMemory(ctx context.Context) error {
	ticker := time.NewTicker(memoryEvery)
	defer ticker.Stop()
	for looks := 0; ; looks++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			n.lookAtMemory()
			if looks%healthEvery == 0 {
				n.lookAtHealth()
			}
		}
	}
}

// lookAtHealth says what keeps fill jobs from GPUs of main jobs, and what slows
// them down that is not filling; nothing of those that no main job has.
func (n *node) lookAtHealth() {
	ids := n.metered()
	for _, id := range ids {
		n.asking(id)
		h, err := n.meter.Health(id)
		n.asking("")
		var wrong []string
		if h.Shut != "" {
			wrong = append(wrong, h.Shut)
		}
		if h.Slow != "" {
			wrong = append(wrong, h.Slow)
		}
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("is not watched: %v", err))
		}
		n.mu.Lock()
		n.health[id] = h
		n.faultOf("health-", id, strings.Join(wrong, "; "))
		n.mu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.devices {
		if !slices.Contains(ids, d.ID) {
			delete(n.health, d.ID)
			n.faultOf("health-", d.ID, "")
			n.faultOf("memory-", d.ID, "")
		}
	}
}

// asking notes of which GPU the driver is asked, "" once it has answered.
func (n *node) asking(id pipefill.DeviceID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.askedOf, n.askedAt = id, n.now()
}

// tickDriver says that a driver does not answer, which whoever asked it cannot.
func (n *node) tickDriver() {
	text := ""
	if n.askedOf != "" && n.now().Sub(n.askedAt) > driverPatience {
		text = fmt.Sprintf("device %s: the driver has not answered since %s: memory and health of this node's GPUs are not watched; "+
			"nvidia-smi hangs too? reset the GPU or reboot the node", n.askedOf, n.askedAt.Format(time.RFC3339))
	}
	n.fault("driver", text)
}

// faultOf notes what is wrong with a device, or that nothing is.
func (n *node) faultOf(of string, id pipefill.DeviceID, wrong string) {
	if wrong != "" {
		wrong = fmt.Sprintf("device %s: %s", id, wrong)
	}
	n.fault(of+string(id), wrong)
}

// lookAtMemory reads without the node's lock, which a GPU that has failed must
// not hold up, and judges with it.
func (n *node) lookAtMemory() {
	for _, id := range n.metered() {
		n.asking(id)
		uses, err := n.meter.Read(id)
		n.asking("")
		n.mu.Lock()
		if err != nil {
			n.faultOf("memory-", id, fmt.Sprintf("its memory is not watched: %v", err))
		} else {
			n.faultOf("memory-", id, "")
			n.judgeGPU(id, uses)
		}
		n.mu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.sortedFills() {
		if a := f.rec.Assignment; a.Device.Kind() == pipefill.KindCPU && a.MemBytes > 0 && !f.ended() {
			n.judgeCores(f)
		}
	}
}

// metered lists the GPUs that a main job has, and has the driver limit the fill
// jobs on them where it can.
func (n *node) metered() []pipefill.DeviceID {
	if n.meter == nil {
		return nil
	}
	type order struct {
		id    pipefill.DeviceID
		group string
		bytes int64
	}
	var ids []pipefill.DeviceID
	var limits []order
	n.mu.Lock()
	for _, m := range n.sortedMains() {
		for _, d := range m.devices {
			if d.device.Node == nil {
				continue
			}
			ids = append(ids, d.device.ID)
			if f := d.fill; f != nil && d.limited != f.mayHold() && n.meter.Limits() {
				d.limited = f.mayHold()
				limits = append(limits, order{d.device.ID, f.group.unified, d.limited})
			}
		}
	}
	n.mu.Unlock()
	for _, o := range limits {
		if err := n.meter.Limit(o.id, o.group, o.bytes); err != nil {
			n.log.Warn("the driver does not limit a fill job's memory", "device", o.id, "err", err)
		}
	}
	return ids
}

// judgeGPU takes in what the processes of a GPU hold.
func (n *node) judgeGPU(id pipefill.DeviceID, uses []device.Use) {
	for _, m := range n.mains {
		for i, d := range m.devices {
			if d.device.ID != id {
				continue
			}
			var pids []int
			if d.fill != nil {
				var err error
				if pids, err = d.fill.group.pids(); err != nil {
					n.log.Error("group not read", "assignment", d.fill.rec.Assignment.ID, "err", err)
					return
				}
			}
			var ours, others int64
			var users []int // of the fill job's processes
			for _, u := range uses {
				switch {
				case slices.Contains(pids, u.Pid):
					ours, users = ours+u.Bytes, append(users, u.Pid)
				case exists(u.Pid): // NVML tells of a process for a while after its end
					// Whoever else is on the main job's device is no fill job.
					others += u.Bytes
				}
			}
			if r := &m.rec.Devices[i]; others > r.HighBytes {
				r.HighBytes, m.dirty = others, true
				n.changed()
			}
			if d.fill != nil && d.fill.rec.Stopping == "" {
				n.judgeFill(d.fill, id, d.fill.mayHold(), ours, n.memoryOf(m, d))
				n.judgeStrangers(d.fill, users)
			}
		}
	}
}

func exists(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// judgeFill ends a fill job that holds more than limit of a device, or has come
// to be in the way.
func (n *node) judgeFill(f *fillJob, id pipefill.DeviceID, limit, used int64, m memory) {
	a := f.rec.Assignment
	if m.high > 0 {
		m.high = max(1, m.high-f.room())
	}
	outcome, reason := judgeMemory(limit, used, m, id)
	if outcome == "" {
		return
	}
	n.log.Warn("fill job ended for memory", "fill_job_id", a.Job.JobID, "assignment", a.ID, "device", id, "reason", reason)
	n.evict(f, outcome, reason, false)
	// The main job may need it at any time: no grace.
	f.killNs = n.mono()
	n.advance(f)
}

// judgeStrangers ends a fill job of mode launch that uses the GPU past the
// launch library.
func (n *node) judgeStrangers(f *fillJob, users []int) {
	if f.rec.Assignment.Mode != pipefill.ModeLaunch || f.page == nil {
		return
	}
	known := map[int]bool{}
	for i := range f.page.at.Process {
		known[int(f.page.at.Process[i].Pid.Load())] = true
	}
	strange := slices.IndexFunc(users, func(pid int) bool { return !known[pid] && !known[insidePid(pid)] })
	if strange < 0 {
		f.strangers = 0
		return
	}
	if f.strangers++; f.strangers < strangerMost {
		return
	}
	n.evict(f, pipefill.OutcomeFailed, fmt.Sprintf(
		"its process %d uses the GPU without the launch library, and so without a gate: leave LD_PRELOAD and PIPEFILL_LAUNCH as they are, and link the program dynamically",
		users[strange]), false)
	f.killNs = n.mono()
	n.advance(f)
}

// insidePid is a process's number in its own namespace, which is what it writes
// into its page; 0 where it cannot be told.
func insidePid(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(list)
			if len(fields) == 0 {
				return 0
			}
			inside, err := strconv.Atoi(fields[len(fields)-1])
			if err != nil {
				return 0
			}
			return inside
		}
	}
	return 0
}

// judgeCores holds a fill job on cores to the memory that it said it needs; what
// it may have of the host's is Slurm's to limit (ConstrainRAMSpace).
func (n *node) judgeCores(f *fillJob) {
	pids, err := f.group.pids()
	if err != nil || f.rec.Stopping != "" {
		return
	}
	var used int64
	for _, pid := range pids {
		if u, err := device.HostUse(pid); err == nil { // else it has ended
			used += u.Bytes
		}
	}
	a := f.rec.Assignment
	n.judgeFill(f, pipefill.DeviceID(pipefill.DevicesOf(a.Devices())), f.mayHold()*f.width(), used, memory{})
}

// memoryOf is what is known of a device of a main job.
func (n *node) memoryOf(m *mainJob, d *mainDevice) memory {
	k := memory{total: d.device.TotalBytes, reserve: m.reserve(d)}
	if d.device.Node == nil || d.drain.totals.Iterations < knownIterations {
		return memory{}
	}
	k.high = m.record(d).HighBytes
	return k
}

// reserve is what is never offered of a device's memory.
func (m *mainJob) reserve(d *mainDevice) int64 {
	if m.options.reserve == 0 && d.device.Node != nil {
		return reserveUsual
	}
	return m.options.reserve
}

// cycle is the bubbles that are offered, with no more memory than is offered.
func (n *node) cycle(m *mainJob, d *mainDevice) pipefill.BubbleCycle {
	c := d.unmoved(d.drain.cycle(n.terms(m, d)))
	offered, ok := n.memoryOf(m, d).offered()
	if !ok {
		return c
	}
	least := func(known int64) int64 {
		if known == 0 {
			return max(1, offered) // 0 would say that there is no limit
		}
		return max(1, min(known, offered))
	}
	c.AlwaysFreeBytes = least(c.AlwaysFreeBytes)
	for i := range c.Bubbles {
		c.Bubbles[i].FreeBytes = least(c.Bubbles[i].FreeBytes)
	}
	return c
}

// fenceOf names what holds fill jobs to their memory, besides themselves.
func (n *node) fenceOf(d *mainDevice) string {
	switch {
	case d.device.Node == nil || n.meter == nil:
		return ""
	case n.meter.Limits():
		return "driver"
	}
	return "audit"
}
