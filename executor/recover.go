package executor

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/executor/device"
)

// After its own death the daemon takes its pages back from the processes that
// have them mapped: the main job's, or the supervisor's. Nothing survives a
// kill -9 so well as what the main job holds itself. A page is known by its
// inode, written down when it was made, so that a process cannot offer another
// file in its place.

func statInode(info fs.FileInfo) (inode, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, fmt.Errorf("stat page: %w", errors.ErrUnsupported)
	}
	return inode{Dev: st.Dev, Ino: st.Ino}, nil
}

// findPage opens the page that has inode want in one of the processes.
func findPage(want inode, holders []process) (*os.File, error) {
	if want == (inode{}) {
		return nil, fs.ErrNotExist
	}
	for _, p := range holders {
		if !p.alive() {
			continue
		}
		for _, path := range append(mappedPages(p.Pid), openFiles(p.Pid)...) {
			if f := openPage(path, want); f != nil {
				return f, nil
			}
		}
	}
	return nil, fs.ErrNotExist
}

// openPage opens path if it is the wanted page. What path means is its process's
// to change at any time, and opening a stranger's device or terminal would do
// something: so it is looked at through a descriptor that opens nothing.
func openPage(path string, want inode) *os.File {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	at := os.NewFile(uintptr(fd), path)
	defer func() { _ = at.Close() }()
	if info, err := at.Stat(); err != nil || !isInode(info, want) {
		return nil
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return f
}

func isInode(info fs.FileInfo, want inode) bool {
	got, err := statInode(info)
	return err == nil && info.Mode().IsRegular() && got == want
}

// mappedPages lists the memfds of ours that a process has mapped.
func mappedPages(pid int) []string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var paths []string
	for lines := bufio.NewScanner(f); lines.Scan() && len(paths) < 1024; {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 6 && strings.HasPrefix(fields[5], "/memfd:pipefill-") {
			paths = append(paths, fmt.Sprintf("/proc/%d/map_files/%s", pid, fields[0]))
		}
	}
	return paths
}

// openFiles lists the descriptors of a process, for pages not mapped yet.
func openFiles(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var paths []string
	for _, e := range entries[:min(len(entries), 4096)] {
		path := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(path); err == nil && strings.HasPrefix(to, "/memfd:pipefill-") {
			paths = append(paths, path)
		}
	}
	return paths
}

// hasPage tells whether a process still has a page.
func hasPage(p process, want inode) bool {
	f, err := findPage(want, []process{p})
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// processesOf lists a user's processes that have a memfd of ours.
func processesOf(uid uint32) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // it ended
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != uid || len(mappedPages(pid)) == 0 {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// findMapped is findPage and mapPage in one.
func findMapped[T any](want inode, holders []process) (*page[T], error) {
	f, err := findPage(want, holders)
	if err != nil {
		return nil, err
	}
	p, err := mapPage[T](f)
	if err != nil {
		_ = f.Close()
	}
	return p, err
}

// restore takes up what the records say, before any socket is answered.
func (n *node) restore() {
	n.mu.Lock()
	defer n.mu.Unlock()
	mains, fills, rec, faults := n.state.load()
	for i, f := range faults {
		n.fault(fmt.Sprintf("state-%d", i), f)
	}
	n.record = rec
	supervisors := map[int64][]process{} // by main job
	for _, f := range fills {
		id := f.Assignment.MainJob.JobID
		supervisors[id] = append(supervisors[id], f.Supervisor)
	}
	for _, m := range mains {
		n.restoreMain(m, supervisors[m.Job.JobID])
	}
	for _, f := range fills {
		n.restoreFill(f)
	}
}

func (n *node) restoreMain(rec mainRecord, supervisors []process) {
	m := &mainJob{rec: rec, options: n.cfg.mainOptions(rec.Options)}
	m.rec.Devices = nil
	for _, r := range rec.Devices {
		dev, ok := n.device(r.Device)
		if !ok {
			continue // taken out of the configuration
		}
		holders := append(append([]process{}, r.Openers...), supervisors...)
		main, err1 := findMapped[mainPage](r.Main, holders)
		if err1 != nil {
			// Who opened it may not have come to disk.
			r.Openers = processesOf(rec.UID)
			holders = append(holders, r.Openers...)
			main, err1 = findMapped[mainPage](r.Main, holders)
		}
		control, err2 := findMapped[controlPage](r.Control, holders)
		if err1 == nil && err2 == nil {
			r.Openers = slices.DeleteFunc(r.Openers, func(p process) bool { return !hasPage(p, r.Main) })
			m.rec.Devices = append(m.rec.Devices, r)
			n.takeMainDevice(m, dev, main, control)
			m.devices[len(m.devices)-1].governor.disabled = r.Disabled
			continue
		}
		// Nobody has them mapped: whoever asks next gets new ones.
		main.close()
		control.close()
		if err := n.addMainDevice(m, dev); err != nil {
			n.fault("pages", fmt.Sprintf("main job %d cannot be taken up again: %v", rec.Job.JobID, err))
			continue
		}
		m.dirty = true
	}
	n.mains[rec.Job.JobID] = m
	n.log.Info("main job taken up again", "job_id", rec.Job.JobID, "devices", len(m.devices))
}

func (n *node) device(id pipefill.DeviceID) (device.Device, bool) {
	for _, d := range n.devices {
		if d.ID == id {
			return d, true
		}
	}
	return device.Device{}, false
}

// restoreFill takes an assignment up again: with the supervisor that kept it
// stopped meanwhile, or with a new one.
func (n *node) restoreFill(rec fillRecord) {
	f := &fillJob{rec: rec, chargedAt: n.now()}
	n.fills[rec.Assignment.ID] = f
	var devices []device.Device
	for _, id := range rec.Assignment.Devices() {
		if d, here := n.device(id); here {
			devices = append(devices, d)
		}
	}
	f.group = n.groups.group(rec.Assignment.ID, devices...)
	if f.ended() {
		n.clearAway(f)
		return
	}
	if !rec.Supervisor.alive() {
		// Nobody watches it: whatever follows, it stops first.
		if err := f.group.setFrozen(true); err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.log.Error("fill job not stopped", "assignment", rec.Assignment.ID, "err", err)
		}
	}
	holders := []process{rec.Supervisor}
	if pids, err := f.group.pids(); err == nil {
		for _, pid := range pids[:min(len(pids), 64)] {
			if p, err := readProcess(pid); err == nil {
				holders = append(holders, p)
			}
		}
	}
	var err error
	if f.page, err = findMapped[fillPage](rec.Fill, holders); err != nil {
		f.page, err = newPage[fillPage]("fill", fillMagic)
	}
	if err == nil {
		err = n.restoreSupervisor(f)
	}
	if err != nil {
		n.fault(fmt.Sprintf("fill-%d", rec.Assignment.ID), fmt.Sprintf("fill job %d cannot be taken up again: %v", rec.Assignment.Job.JobID, err))
	}
	if f.super == nil {
		return
	}
	for _, d := range f.devices {
		// The device's totals begin anew; what was filled before is not of them.
		d.usedHere = d.usedHere.minus(f.super.at.used(0))
	}
	switch {
	case f.rec.Stopping != "":
		f.killNs = n.mono()
	case len(f.devices) == 0:
		n.evict(f, pipefill.OutcomeEvicted, "the main job ended", false)
	case rec.Assignment.State == pipefill.AssignmentRunning:
		f.runningNs = n.mono()
		n.command(f)
	}
}

// clearAway removes what a daemon that was killed left of an assignment after
// its end was on disk.
func (n *node) clearAway(f *fillJob) {
	if f.rec.Supervisor.alive() {
		if err := syscall.Kill(f.rec.Supervisor.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			n.log.Warn("supervisor not ended", "assignment", f.rec.Assignment.ID, "err", err)
		}
	}
	if err := f.group.remove(); err != nil {
		n.log.Warn("groups not removed", "assignment", f.rec.Assignment.ID, "err", err)
	}
	f.group = nil
}

// restoreSupervisor finds the devices of a fill job and the supervisor that is
// still alive, or starts another.
func (n *node) restoreSupervisor(f *fillJob) error {
	f.devices = n.slots(f.rec.Assignment)
	n.bind(f)
	if p := f.rec.Supervisor; p.alive() {
		file, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", p.Pid, superPageFd), os.O_RDWR, 0)
		if err == nil {
			f.super, err = mapPage[superPage](file)
		}
		if err == nil {
			err = f.super.checkHead(superMagic)
		}
		if err == nil {
			f.super.at.Command.Store(superHold)
			f.super.at.DaemonPid.Store(uint32(n.self.Pid))
			return nil
		}
		// Of another release: it must stop before another one starts.
		n.log.Warn("supervisor replaced", "assignment", f.rec.Assignment.ID, "err", err)
		f.super.close()
		f.super = nil
		if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end old supervisor: %w", err)
		}
	}
	return n.replaceSupervisor(f)
}

// replaceSupervisor starts a supervisor for a fill job that has none. The fill
// job is stopped first: nobody watched it.
func (n *node) replaceSupervisor(f *fillJob) error {
	var nodes []device.Node
	if len(f.devices) > 0 {
		nodes = n.otherNodes(f.rec.Assignment.Devices())
	}
	if err := f.group.create(nodes); err != nil {
		return err
	}
	if len(f.devices) == 0 {
		// Without a main job there is no gate to follow: only its end is left.
		super, err := newPage[superPage]("supervisor", superMagic)
		if err == nil {
			super.at.charged(n.ledger.sums[f.rec.Assignment.ID], f.width())
			f.super = super
		}
		return err
	}
	if err := n.startSupervisor(f); err != nil {
		return err
	}
	var err error
	if f.rec.Fill, err = inodeOf(f.page.file); err != nil {
		return err
	}
	return n.saveFill(f, f.rec)
}

// otherNodes are the device nodes a fill job on ids must not open.
func (n *node) otherNodes(ids []pipefill.DeviceID) []device.Node {
	var nodes []device.Node
	for _, d := range n.devices {
		if !slices.Contains(ids, d.ID) && d.Node != nil {
			nodes = append(nodes, *d.Node)
		}
	}
	return nodes
}
