// Package device is the one door to what a device is made of: the cores of a
// cpu device, a GPU through NVML, and the right to open a device's node.
//
// It knows nothing of jobs, pages or gates.
package device

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"pipefill"
)

// Device is one device of this node as the daemon needs it.
type Device struct {
	ID         pipefill.DeviceID
	Cores      []int // cpu devices
	Node       *Node // GPUs: what must be opened to use it
	TotalBytes int64
}

// Node is a character device node.
type Node struct {
	Path         string
	Major, Minor int64
}

// HeldBy tells whether a process has the node open. Nothing but Slurm's own
// constraint lets it, so that this proves that the GPU is its job's; what a
// job's environment says of GPUs proves nothing.
func (n Node) HeldBy(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Stat(dir+"/"+e.Name(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			continue
		}
		if int64(unix.Major(st.Rdev)) == n.Major && int64(unix.Minor(st.Rdev)) == n.Minor {
			return true
		}
	}
	return false
}

// Probe looks at the devices named in the configuration.
func Probe(ids []pipefill.DeviceID) ([]Device, error) {
	devices := make([]Device, 0, len(ids))
	for _, id := range ids {
		if err := id.Validate(); err != nil {
			return nil, err
		}
		var d Device
		var err error
		if id.Kind() == pipefill.KindCPU {
			d, err = probeCPU(id)
		} else {
			d, err = probeGPU(id)
		}
		if err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

func probeCPU(id pipefill.DeviceID) (Device, error) {
	cores, err := id.Cores()
	if err != nil {
		return Device{}, err
	}
	for _, c := range cores {
		if _, err := os.Stat(fmt.Sprintf("/sys/devices/system/cpu/cpu%d", c)); err != nil {
			return Device{}, pipefill.Errorf(pipefill.CodeInvalid, "device %s: this machine has no core %d: %w", id, c, err)
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Device{}, fmt.Errorf("device %s: read memory: %w", id, err)
	}
	return Device{ID: id, Cores: cores, TotalBytes: int64(info.Totalram) * int64(info.Unit)}, nil
}

// nodeAt reads the numbers of a device node.
func nodeAt(path string) (Node, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Node{}, fmt.Errorf("device node %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return Node{}, pipefill.Errorf(pipefill.CodeInvalid, "device node %s is not a character device", path)
	}
	return Node{Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}, nil
}
