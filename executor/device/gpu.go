package device

import "pipefill"

// probeGPU is not there yet: it needs NVML (see docs/decisions).
func probeGPU(id pipefill.DeviceID) (Device, error) {
	return Device{}, pipefill.Errorf(pipefill.CodeUnavailable, "device %s: GPUs are not supported by this build yet; name cpu devices", id)
}
