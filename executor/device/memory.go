package device

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"pipefill"
)

// Use is what a process holds of a device's memory.
type Use struct {
	Pid   int // as this process sees it
	Bytes int64
}

// Meter tells what processes hold of GPUs' memory, by NVML: it looks, and
// nothing is kept from anybody by it. Its calls may take milliseconds, and on a
// GPU that has failed for ever.
type Meter struct {
	driver  *driver
	limits  bool
	handles map[pipefill.DeviceID]nvml.Device
}

// OpenMeter finds the GPUs among devices, by library (DriverLibrary); nil where
// there are none. Close it.
func OpenMeter(devices []Device, library string) (*Meter, error) {
	m := &Meter{handles: map[pipefill.DeviceID]nvml.Device{}}
	for _, dev := range devices {
		if dev.Node == nil {
			continue
		}
		if m.driver == nil {
			var err error
			if m.driver, err = openDriver(library, "/dev"); err != nil {
				return nil, err
			}
			m.limits = m.driver.has(limitSymbol)
		}
		handle, ret := m.driver.nvml.DeviceGetHandleByUUID(strings.TrimPrefix(string(dev.ID), "gpu:"))
		if ret != nvml.SUCCESS {
			m.Close()
			return nil, failure(dev.ID, "find", ret)
		}
		m.handles[dev.ID] = handle
	}
	if m.driver == nil {
		return nil, nil //nolint:nilnil // a node without GPUs has nothing to meter
	}
	if !m.driver.has("nvmlDeviceGetComputeRunningProcesses_v3") && !m.driver.has("nvmlDeviceGetComputeRunningProcesses_v2") &&
		!m.driver.has("nvmlDeviceGetComputeRunningProcesses") {
		m.Close()
		return nil, pipefill.Errorf(pipefill.CodeUnavailable, "the NVIDIA driver does not tell of processes' memory")
	}
	return m, nil
}

// limitSymbol is in drivers that keep to a limit by themselves (r615 on).
const limitSymbol = "nvmlDeviceSetMemoryLimits_v1"

// has tells whether the driver has a call: calling one that it lacks would end
// the process.
func (d *driver) has(symbol string) bool { return d.nvml.Extensions().LookupSymbol(symbol) == nil }

// Close lets NVML go.
func (m *Meter) Close() {
	if m != nil && m.driver != nil {
		m.driver.close()
		m.driver = nil
	}
}

// Limits tells whether the driver takes limits on the memory of a group.
func (m *Meter) Limits() bool { return m.limits }

// Read lists the processes that compute on a GPU.
func (m *Meter) Read(id pipefill.DeviceID) ([]Use, error) {
	handle, ok := m.handles[id]
	if !ok {
		return nil, pipefill.Errorf(pipefill.CodeNotFound, "device %s: is not metered", id)
	}
	processes, ret := handle.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS {
		return nil, failure(id, "list its processes", ret)
	}
	uses := make([]Use, 0, len(processes))
	for _, p := range processes {
		if p.UsedGpuMemory > 1<<50 { // NVML_VALUE_NOT_AVAILABLE
			return nil, pipefill.Errorf(pipefill.CodeUnavailable, "device %s: the driver does not tell what process %d holds", id, p.Pid)
		}
		uses = append(uses, Use{int(p.Pid), int64(p.UsedGpuMemory)})
	}
	return uses, nil
}

// Limit has the driver keep what a cgroup's processes hold of a GPU below
// bytes, where it can.
func (m *Meter) Limit(id pipefill.DeviceID, group string, bytes int64) error {
	handle, ok := m.handles[id]
	if !ok || !m.limits {
		return pipefill.Errorf(pipefill.CodeUnavailable, "device %s: the driver takes no limits", id)
	}
	if ret := handle.SetMemoryLimits_v1(group, 0, uint64(max(bytes, 0))); ret != nvml.SUCCESS {
		return failure(id, "limit "+group, ret)
	}
	return nil
}

// HostUse is what a process holds of the host's memory for itself, which is the
// memory of a cpu device: pages of files are everybody's.
func HostUse(pid int) (Use, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return Use{}, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(data))
	if len(fields) < 3 {
		return Use{}, fmt.Errorf("read memory of process %d: %q is not statm", pid, data)
	}
	resident, err1 := strconv.ParseInt(fields[1], 10, 64)
	shared, err2 := strconv.ParseInt(fields[2], 10, 64)
	if err1 != nil || err2 != nil {
		return Use{}, fmt.Errorf("read memory of process %d: %q is not statm", pid, data)
	}
	return Use{pid, max(0, resident-shared) * int64(os.Getpagesize())}, nil
}
