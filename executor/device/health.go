package device

import (
	"strings"

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

// Health tells what of a GPU slows jobs down, or keeps fill jobs from it, that
// is neither a main job's nor ours; "" if nothing does.
func (m *Meter) Health(id pipefill.DeviceID) (string, error) {
	handle, ok := m.handles[id]
	if !ok {
		return "", pipefill.Errorf(pipefill.CodeNotFound, "device %s: is not metered", id)
	}
	var wrong []string
	mode, ret := handle.GetComputeMode()
	if ret != nvml.SUCCESS {
		return "", failure(id, "read its compute mode", ret)
	}
	if mode != nvml.COMPUTEMODE_DEFAULT {
		wrong = append(wrong, "its compute mode lets one process use it, so that no fill job can: nvidia-smi -c DEFAULT")
	}
	if !m.driver.has("nvmlDeviceGetCurrentClocksThrottleReasons") {
		return strings.Join(wrong, "; "), nil
	}
	reasons, ret := handle.GetCurrentClocksThrottleReasons()
	if ret == nvml.ERROR_NOT_SUPPORTED {
		return strings.Join(wrong, "; "), nil
	}
	if ret != nvml.SUCCESS {
		return "", failure(id, "read why its clocks are slow", ret)
	}
	for _, s := range slowed {
		if reasons&s.bit != 0 {
			wrong = append(wrong, s.text+": look at fans, airflow and power (nvidia-smi -q -d PERFORMANCE); slow-downs measured meanwhile are not of filling alone")
			break
		}
	}
	return strings.Join(wrong, "; "), nil
}
