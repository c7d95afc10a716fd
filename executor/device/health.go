package device

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"pipefill"
)

// slowed are the reasons for slower clocks that say that something is wrong
// (nvml.h, nvmlClocksEventReasons), and what to do. The cap on power by software
// is not among them: a busy GPU runs against it.
var slowed = []struct {
	bit  uint64
	text string
}{
	{nvml.ClocksThrottleReasonHwThermalSlowdown, "the hardware slows it down, it is too hot"},
	{nvml.ClocksEventReasonSwThermalSlowdown, "the driver slows it down, it is too hot"},
	{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "its power supply slows it down"},
	{nvml.ClocksThrottleReasonHwSlowdown, "the hardware slows it down"},
}

// Health is what is wrong with a GPU that is neither a main job's doing nor ours,
// and what to do; "" where nothing is.
type Health struct {
	Shut string // it keeps fill jobs from the GPU
	Slow string // it slows all jobs down
}

// Health asks the driver. What was read before a call failed is returned too.
func (m *Meter) Health(id pipefill.DeviceID) (Health, error) {
	var h Health
	handle, ok := m.handles[id]
	if !ok {
		return h, pipefill.Errorf(pipefill.CodeNotFound, "device %s: is not metered", id)
	}
	mode, ret := handle.GetComputeMode()
	if ret != nvml.SUCCESS {
		return h, failure(id, "read its compute mode", ret)
	}
	if mode != nvml.COMPUTEMODE_DEFAULT {
		h.Shut = "its compute mode lets one process use it, so that no fill job can: nvidia-smi -c DEFAULT"
	}
	if !m.driver.has("nvmlDeviceGetCurrentClocksThrottleReasons") {
		return h, nil
	}
	reasons, ret := handle.GetCurrentClocksThrottleReasons()
	if ret == nvml.ERROR_NOT_SUPPORTED {
		return h, nil
	}
	if ret != nvml.SUCCESS {
		return h, failure(id, "read why its clocks are slow", ret)
	}
	for _, s := range slowed {
		if reasons&s.bit != 0 {
			h.Slow = s.text + ": look at fans, airflow and power (nvidia-smi -q -d PERFORMANCE); slow-downs measured meanwhile are not of filling alone"
			break
		}
	}
	return h, nil
}
