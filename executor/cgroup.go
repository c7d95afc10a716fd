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

	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/executor/device"
)

// cgroups is where this node's fill jobs get groups of their own:
// <hierarchy>/pipefill_<cluster>_<node>/assignment_<id>.
//
// Freezing, killing and CPU time are the unified (v2) hierarchy's: it freezes
// in 13 us where v1 takes 82, and Slurm's proctrack on v1 keeps track of
// processes by the v1 freezer, which a fill job must therefore never leave.
// Slurm finds no process by its cpuset or devices group, so those may be ours.
type cgroups struct {
	unified string
	cpuset  string // "" where the v1 controller is not mounted
	devices string // the same
	cpu     string // the same
	name    string
	sched   fillSched
}

// findCgroups reads the mounts of this machine; name is the folder's.
func findCgroups(name string) (*cgroups, error) {
	c := &cgroups{name: name}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		at, fields := strings.Fields(before), strings.Fields(after)
		// Only whole hierarchies: a mount of a part of one has another root.
		if !ok || len(at) < 5 || len(fields) < 3 || at[3] != "/" {
			continue
		}
		options := strings.Split(fields[2], ",")
		switch {
		case fields[0] == "cgroup2" && c.unified == "":
			c.unified = at[4]
		case fields[0] == "cgroup" && slices.Contains(options, "cpuset"):
			c.cpuset = at[4]
		case fields[0] == "cgroup" && slices.Contains(options, "devices"):
			c.devices = at[4]
		case fields[0] == "cgroup" && slices.Contains(options, "cpu"):
			c.cpu = at[4]
		}
	}
	if c.unified == "" {
		return nil, pipefill.Errorf(pipefill.CodeUnavailable, "no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	return c, nil
}

// slurmOnV2 tells whether Slurm tracks processes by the unified hierarchy, where
// a process is in one group only. A fill job cannot leave Slurm's then: Slurm
// would find nothing to kill, and drain the node.
func (c *cgroups) slurmOnV2() bool {
	scopes, err := filepath.Glob(filepath.Join(c.unified, "system.slice", "*slurmstepd.scope"))
	return err == nil && len(scopes) > 0
}

func (c *cgroups) jobDir(job int64) string {
	return filepath.Join(c.unified, c.name, jobPrefix+strconv.FormatInt(job, 10))
}

// adopt moves a process into the group of a main job, made if need be.
func (c *cgroups) adopt(job int64, pid int) error {
	dir := c.jobDir(job)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as all groups are
		return fmt.Errorf("make group: %w", err)
	}
	return writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
}

// release takes the group of a main job away, if there is one and it is empty.
func (c *cgroups) release(job int64) error {
	err := os.Remove(c.jobDir(job))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove group: %w", err)
	}
	return nil
}

// leave takes the node's folders away where nothing is in them; the next
// daemon makes them anew.
func (c *cgroups) leave() {
	// A main job's own, where its last process took longer than its end.
	if jobs, err := filepath.Glob(filepath.Join(c.unified, c.name, jobPrefix+"*")); err == nil {
		for _, dir := range jobs {
			_ = os.Remove(dir)
		}
	}
	for _, dir := range []string{c.unified, c.cpuset, c.devices, c.cpu} {
		if dir != "" {
			_ = os.Remove(filepath.Join(dir, c.name)) // fails where there is something
		}
	}
}

// group is the groups of one fill job.
type group struct {
	unified string
	cpuset  string
	devices string
	cpu     string // of fill_sched: idle
	cores   []int
	grants  []device.Node
	sched   fillSched
}

// group names the groups of a fill job that has devices.
func (c *cgroups) group(id int64, devices ...device.Device) *group {
	sub := filepath.Join(c.name, fmt.Sprintf("assignment_%d", id))
	g := &group{unified: filepath.Join(c.unified, sub), sched: c.sched}
	for _, d := range devices {
		g.cores = append(g.cores, d.Cores...)
		if d.Node != nil {
			g.grants = append(g.grants, *d.Node)
		}
	}
	slices.Sort(g.cores)
	if c.cpu != "" && c.sched == schedIdle {
		g.cpu = filepath.Join(c.cpu, sub)
	}
	if c.cpuset != "" && len(g.cores) > 0 {
		g.cpuset = filepath.Join(c.cpuset, sub)
	}
	if c.devices != "" && len(g.grants) > 0 {
		g.devices = filepath.Join(c.devices, sub)
	}
	return g
}

// canGrant tells whether fill jobs can be let onto devices: it makes the groups
// of one that nobody has. nil where no device has a node.
func (c *cgroups) canGrant(devices []device.Device) error {
	i := slices.IndexFunc(devices, func(d device.Device) bool { return d.Node != nil })
	if i < 0 {
		return nil
	}
	g := c.group(0, devices[i])
	return errors.Join(g.create(nil), g.remove())
}

// create makes the groups, frozen, or finds them made. others are the device
// nodes that are not this fill job's.
func (g *group) create(others []device.Node) error {
	for _, dir := range g.dirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as all groups are
			return fmt.Errorf("make group: %w", err)
		}
	}
	if err := g.setFrozen(true); err != nil {
		return err
	}
	if g.cpuset != "" {
		if err := g.fillCpuset(); err != nil {
			return err
		}
	}
	if g.cpu != "" {
		if err := g.makeIdle(); err != nil {
			return err
		}
	}
	if len(g.grants) == 0 {
		return nil
	}
	if g.devices != "" {
		return device.GrantV1(g.devices, g.grants, others)
	}
	return device.GrantV2(g.unified, g.grants, others)
}

func (g *group) dirs() []string {
	var dirs []string
	for _, dir := range []string{g.unified, g.cpuset, g.devices, g.cpu} {
		if dir != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// fillCpuset writes cores and memory nodes: a v1 cpuset is born empty, and a
// group may have no more than its parent.
func (g *group) fillCpuset() error {
	parent := filepath.Dir(g.cpuset)
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := os.ReadFile(filepath.Join(filepath.Dir(parent), file))
		if err != nil {
			return fmt.Errorf("read cpuset: %w", err)
		}
		if err := writeFile(filepath.Join(parent, file), string(all)); err != nil {
			return err
		}
		own := string(all)
		if file == "cpuset.cpus" {
			own = pipefill.FormatCores(g.cores)
		}
		if err := writeFile(filepath.Join(g.cpuset, file), own); err != nil {
			return err
		}
	}
	return nil
}

// add moves a process and what it has started into the groups. A child that
// is born during the walk is born in its parent's group if the parent has
// moved, and found by another pass if it has not.
func (g *group) add(pid int) error {
	moved := map[int]bool{}
	for range 10 {
		fresh := 0
		for _, p := range descendants(pid) {
			if moved[p] {
				continue
			}
			if err := g.move(p); err != nil && (p == pid || !errors.Is(err, unix.ESRCH)) {
				return err
			}
			moved[p], fresh = true, fresh+1
		}
		if fresh == 0 {
			return nil
		}
	}
	return fmt.Errorf("process %d starts processes faster than they can be moved", pid)
}

func (g *group) move(pid int) error {
	// The freezer last: everything else is then settled before it stops.
	for _, dir := range []string{g.cpuset, g.devices, g.cpu, g.unified} {
		if dir == "" {
			continue
		}
		if err := writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	g.sched.apply(pid)
	if g.cpuset != "" || len(g.cores) == 0 {
		return nil
	}
	var set unix.CPUSet
	for _, c := range g.cores {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(pid, &set); err != nil {
		return fmt.Errorf("pin process %d to cores %s: %w", pid, pipefill.FormatCores(g.cores), err)
	}
	return nil
}

// descendants lists pid and all that descend from it, parents first.
func descendants(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all) && len(all) < 1<<16; i++ {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", all[i]))
		if err != nil {
			continue // it ended meanwhile
		}
		for _, t := range threads {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", all[i], t.Name()))
			if err != nil {
				continue
			}
			for field := range strings.FieldsSeq(string(data)) {
				if child, err := strconv.Atoi(field); err == nil {
					all = append(all, child)
				}
			}
		}
	}
	return all
}

// pids lists the processes in the group.
func (g *group) pids() ([]int, error) {
	data, err := os.ReadFile(filepath.Join(g.unified, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list group: %w", err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("list group: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func (g *group) setFrozen(frozen bool) error {
	value := "0"
	if frozen {
		value = "1"
	}
	return writeFile(filepath.Join(g.unified, "cgroup.freeze"), value)
}

// cpuNs is the CPU time used by everything that was ever in the group.
func (g *group) cpuNs() (int64, error) {
	data, err := os.ReadFile(filepath.Join(g.unified, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	return parseCPUStat(data)
}

func parseCPUStat(data []byte) (int64, error) {
	for line := range strings.Lines(string(data)) {
		if usec, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(usec), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read CPU time: %w", err)
			}
			return n * 1000, nil
		}
	}
	return 0, fmt.Errorf("read CPU time: no usage_usec: %w", fs.ErrInvalid)
}

// signal sends sig to every process of the group.
func (g *group) signal(sig unix.Signal) error {
	pids, err := g.pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := g.signalOne(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// signalOne signals a process if it is of the group: its number may be a
// stranger's by now, and this is root.
func (g *group) signalOne(pid int, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		return unix.Kill(pid, sig)
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	// From here on the number and the descriptor are one process, or the number
	// is no more.
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(data), "0::/"+filepath.Base(filepath.Dir(g.unified))+"/"+filepath.Base(g.unified)+"\n") {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// kill ends every process of the group, frozen or not.
func (g *group) kill() error {
	err := writeFile(filepath.Join(g.unified, "cgroup.kill"), "1")
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(g.unified); errors.Is(err, fs.ErrNotExist) {
		return nil // the group is gone, and so is what was in it
	}
	// Before Linux 5.14: frozen, so that nobody forks away from the signal.
	if err := g.setFrozen(true); err != nil {
		return err
	}
	return g.signal(unix.SIGKILL)
}

// remove takes the groups away; they must be empty.
func (g *group) remove() error {
	for _, dir := range g.dirs() {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove group: %w", err)
		}
	}
	return nil
}

func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write group: %w", err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write group: %w", err)
	}
	return nil
}
