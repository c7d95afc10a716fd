package device

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"pipefill"
)

// DriverLibrary is NVML as the driver installs it.
const DriverLibrary = "libnvidia-ml.so.1"

// symbols are what is called of NVML beyond what every driver has had: calling
// one that the driver lacks would end the process (the bindings bind lazily).
var symbols = []string{
	"nvmlInit_v2", "nvmlShutdown", "nvmlErrorString", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetMemoryInfo",
	"nvmlDeviceGetComputeMode", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID",
}

// driver is an opened NVML and the folder of the device nodes.
type driver struct {
	nvml nvml.Interface
	dev  string
}

// openDriver loads NVML; close it.
func openDriver(library, dev string) (*driver, error) {
	d := &driver{nvml: nvml.New(nvml.WithLibraryPath(library)), dev: dev}
	if ret := d.nvml.Init(); ret != nvml.SUCCESS {
		why := "the driver's library " + library + " is not here"
		if ret != nvml.ERROR_LIBRARY_NOT_FOUND {
			why = "NVML: " + nvml.ErrorString(ret)
		}
		return nil, pipefill.Errorf(pipefill.CodeUnavailable, "no NVIDIA driver answers: %s: see that nvidia-smi works, or name cpu devices", why)
	}
	for _, name := range symbols {
		if err := d.nvml.Extensions().LookupSymbol(name); err != nil {
			d.close()
			return nil, pipefill.Errorf(pipefill.CodeUnavailable, "the NVIDIA driver is too old: its %s has no %s: %w", library, name, err)
		}
	}
	return d, nil
}

func (d *driver) close() { _ = d.nvml.Shutdown() }

// probeGPU looks a GPU up by its UUID.
func probeGPU(id pipefill.DeviceID) (Device, error) {
	d, err := openDriver(DriverLibrary, "/dev")
	if err != nil {
		return Device{}, fmt.Errorf("device %s: %w", id, err)
	}
	defer d.close()
	return d.probe(id)
}

func (d *driver) probe(id pipefill.DeviceID) (Device, error) {
	uuid := strings.TrimPrefix(string(id), string(pipefill.KindGPU)+":")
	if strings.HasPrefix(uuid, "MIG-") {
		return Device{}, pipefill.Errorf(pipefill.CodeInvalid, "device %s: a slice of a GPU has no device node of its own: name a whole GPU", id)
	}
	handle, ret := d.nvml.DeviceGetHandleByUUID(uuid)
	if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
		return Device{}, pipefill.Errorf(pipefill.CodeInvalid, "device %s: this machine has no such GPU: nvidia-smi -L lists %s", id, d.list())
	}
	if ret != nvml.SUCCESS {
		return Device{}, failure(id, "find", ret)
	}
	minor, ret := handle.GetMinorNumber()
	if ret != nvml.SUCCESS {
		return Device{}, failure(id, "read its minor number", ret)
	}
	memory, ret := handle.GetMemoryInfo()
	if ret != nvml.SUCCESS {
		return Device{}, failure(id, "read its memory", ret)
	}
	mode, ret := handle.GetComputeMode()
	if ret != nvml.SUCCESS {
		return Device{}, failure(id, "read its compute mode", ret)
	}
	if mode != nvml.COMPUTEMODE_DEFAULT {
		return Device{}, pipefill.Errorf(pipefill.CodeConflict,
			"device %s: its compute mode lets one process use it, so that no fill job can: nvidia-smi -c DEFAULT", id)
	}
	node, err := nodeAt(filepath.Join(d.dev, fmt.Sprintf("nvidia%d", minor)))
	if err != nil {
		return Device{}, fmt.Errorf("device %s: %w", id, err)
	}
	return Device{ID: id, Node: &node, TotalBytes: int64(memory.Total)}, nil
}

func failure(id pipefill.DeviceID, what string, ret nvml.Return) error {
	return pipefill.Errorf(pipefill.CodeUnavailable, "device %s: %s: NVML: %s", id, what, nvml.ErrorString(ret))
}

// list names this machine's GPUs for a message.
func (d *driver) list() string {
	count, ret := d.nvml.DeviceGetCount()
	if ret != nvml.SUCCESS || count == 0 {
		return "none"
	}
	var all []string
	for i := range count {
		if handle, ret := d.nvml.DeviceGetHandleByIndex(i); ret == nvml.SUCCESS {
			if uuid, ret := handle.GetUUID(); ret == nvml.SUCCESS {
				all = append(all, uuid)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// Here lists this machine's devices for a command that names none: its GPUs,
// or each of the cores that cores tells, where no driver answers.
func Here(cores []int) []pipefill.DeviceID {
	var ids []pipefill.DeviceID
	if d, err := openDriver(DriverLibrary, "/dev"); err == nil {
		defer d.close()
		for uuid := range strings.SplitSeq(d.list(), ", ") {
			if strings.HasPrefix(uuid, "GPU-") {
				ids = append(ids, pipefill.DeviceID("gpu:"+uuid))
			}
		}
	}
	if len(ids) > 0 {
		return ids
	}
	for _, core := range cores {
		ids = append(ids, pipefill.DeviceID(fmt.Sprintf("cpu:%d", core)))
	}
	return ids
}
