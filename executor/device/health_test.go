package device

import (
	"strings"
	"testing"

	"pipefill"
)

func TestMeter_Health(t *testing.T) {
	library, dev := fakeDriver(t)
	gpu := Device{ID: "gpu:GPU-aaaa", Node: &Node{Major: 195, Minor: 6}}
	_ = dev
	m, err := openMeter([]Device{gpu}, library)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for call, want := range map[string]string{
		"": "", "powercap": "", "unsupported": "", "exclusive": "nvidia-smi -c DEFAULT", "hot": "the hardware slows it down, it is too hot",
		"swhot": "the driver slows it down", "brake": "its power supply slows it down",
	} {
		t.Setenv("FAKE_NVML", call)
		if got, err := m.Health(gpu.ID); err != nil || (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, %v, want %q", call, got, err, want)
		}
	}
	for call, want := range map[string]string{"mode": "read its compute mode: NVML: GPU is lost", "clocks": "read why its clocks are slow: NVML: GPU is lost"} {
		t.Setenv("FAKE_NVML", call)
		if _, err := m.Health(gpu.ID); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", call, err)
		}
	}
	if _, err := m.Health("gpu:GPU-zzzz"); pipefill.ErrorCode(err) != pipefill.CodeNotFound {
		t.Error(err)
	}
}
