package device

import (
	"strings"
	"testing"

	"pipefill"
)

func TestMeter_Health(t *testing.T) {
	library, _ := fakeDriver(t)
	gpu := Device{ID: "gpu:GPU-aaaa", Node: &Node{Major: 195, Minor: 6}}
	m, err := OpenMeter([]Device{gpu}, library)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	says := func(got, want string) bool { return (got == "") == (want == "") && strings.Contains(got, want) }
	for call, want := range map[string]Health{
		"": {}, "powercap": {}, "unsupported": {}, "exclusive": {Shut: "nvidia-smi -c DEFAULT"}, "hot": {Slow: "the hardware slows it down, it is too hot"},
		"swhot": {Slow: "the driver slows it down"}, "brake": {Slow: "its power supply slows it down"}, "slowdown": {Slow: "the hardware slows it down: look"},
		"exclusive hot": {Shut: "nvidia-smi -c DEFAULT", Slow: "too hot"},
	} {
		t.Setenv("FAKE_NVML", call)
		if got, err := m.Health(gpu.ID); err != nil || !says(got.Shut, want.Shut) || !says(got.Slow, want.Slow) {
			t.Errorf("%s: %+v, %v, want %+v", call, got, err, want)
		}
	}
	for call, want := range map[string]string{
		"mode": "read its compute mode: NVML: GPU is lost", "clocks": "read why its clocks are slow: NVML: GPU is lost",
		"exclusive clocks": "read why its clocks are slow: NVML: GPU is lost",
	} {
		t.Setenv("FAKE_NVML", call)
		if h, err := m.Health(gpu.ID); err == nil || !strings.Contains(err.Error(), want) || (h.Shut != "") != strings.Contains(call, "exclusive") {
			t.Errorf("%s: %+v, %v", call, h, err)
		}
	}
	if _, err := m.Health("gpu:GPU-zzzz"); pipefill.ErrorCode(err) != pipefill.CodeNotFound {
		t.Error(err)
	}
}
