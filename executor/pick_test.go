package executor

import (
	"os"
	"testing"

	"pipefill"
	"pipefill/executor/device"
)

func TestPick_OnlyWhatTheProcessMayHave(t *testing.T) {
	m := &mainJob{}
	for i, id := range []pipefill.DeviceID{"gpu:GPU-a", "gpu:GPU-b", "gpu:GPU-c"} {
		m.devices = append(m.devices, &mainDevice{device: device.Device{ID: id, Node: &device.Node{Major: 195, Minor: int64(i)}}})
		m.rec.Devices = append(m.rec.Devices, mainPageRecord{Device: id})
	}
	notFirst := func(d device.Device) bool { return d.Node.Minor > 0 }
	self, err := readProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]pipefill.DeviceID{"gpu:GPU-b": "gpu:GPU-b", "gpu:GPU-a": "", "1": "gpu:GPU-c", "2": "", "": "gpu:GPU-b", "x": ""} {
		got := pipefill.DeviceID("")
		if d := m.pick(name, notFirst); d != nil {
			got = d.device.ID
		}
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	m.rec.Devices[1].Openers = []process{self}
	if d := m.pick("", notFirst); d == nil || d.device.ID != "gpu:GPU-c" {
		t.Errorf("the second to ask: %+v", d)
	}
	if d := m.pick("", func(device.Device) bool { return false }); d != nil {
		t.Errorf("none: %+v", d)
	}
}

func TestOfJob(t *testing.T) {
	free := func() []device.Device {
		return []device.Device{
			{ID: "cpu:0"}, {ID: "gpu:GPU-a", Node: &device.Node{Minor: 0}}, {ID: "gpu:GPU-b", Node: &device.Node{Minor: 5}},
		}
	}
	for gpus, want := range map[string]int{"": 3, "5": 2, "0,5": 3, "0-5": 3, "7": 1, "junk": 3} {
		if got := ofJob(free(), gpus); len(got) != want {
			t.Errorf("%q: %v", gpus, got)
		}
	}
}
