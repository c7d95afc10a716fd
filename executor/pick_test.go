package executor

import (
	"os"
	"os/exec"
	"testing"
	"time"

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

func TestWriter_OnePageHasOne(t *testing.T) {
	main, err := newMainPage("main")
	if err != nil {
		t.Fatal(err)
	}
	inode, err := inodeOf(main.file)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	other, err := readProcess(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	self, err := readProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	d := &mainDevice{}
	d.handed.to, d.handed.at = other, now
	r := &mainPageRecord{Main: inode, Openers: []process{self, other}}
	if got := d.writer(r, other, now.Add(time.Minute)); got != self {
		t.Errorf("this process has the page mapped: %+v", got)
	}
	if got := d.writer(r, self, now.Add(mapTime/2)); got != other {
		t.Errorf("the other is about to map it: %+v", got)
	}
	if got := d.writer(r, self, now.Add(mapTime)); got != (process{}) {
		t.Errorf("the other never did: %+v", got)
	}
	main.close()
	if got := d.writer(r, other, now.Add(time.Minute)); got != (process{}) {
		t.Errorf("this process has closed it: %+v", got)
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
