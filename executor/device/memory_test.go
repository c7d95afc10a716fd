package device

import (
	"os"
	"strings"
	"testing"
)

func TestMeter(t *testing.T) {
	library, _ := fakeDriver(t)
	gpus := []Device{{ID: "cpu:0"}, {ID: "gpu:GPU-aaaa", Node: &Node{}}}
	m, err := OpenMeter(gpus, library)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	uses, err := m.Read("gpu:GPU-aaaa")
	if err != nil || len(uses) != 2 || uses[0] != (Use{11, 3 << 30}) || uses[1] != (Use{12, 1 << 30}) {
		t.Errorf("%v, %v", uses, err)
	}
	if m.Limits() || m.Limit("gpu:GPU-aaaa", "/sys/fs/cgroup/x", 5) == nil {
		t.Error("a driver without limits takes one")
	}
	if _, err := m.Read("gpu:GPU-bbbb"); err == nil {
		t.Error("a GPU that is not ours is read")
	}
	for call, want := range map[string]string{"processes": "list its processes: NVML: GPU is lost", "unknown": "does not tell what process 11 holds"} {
		t.Setenv("FAKE_NVML", call)
		if _, err := m.Read("gpu:GPU-aaaa"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func TestMeter_Limits(t *testing.T) {
	library, _ := fakeDriver(t, "-DLIMITS")
	m, err := OpenMeter([]Device{{ID: "gpu:GPU-aaaa", Node: &Node{}}}, library)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Limit("gpu:GPU-aaaa", "/sys/fs/cgroup/x", 5); err != nil || !m.Limits() {
		t.Error(err)
	}
	t.Setenv("FAKE_NVML", "limits")
	if err := m.Limit("gpu:GPU-aaaa", "/sys/fs/cgroup/x", 5); err == nil || !strings.Contains(err.Error(), "GPU is lost") {
		t.Error(err)
	}
}

func TestMeter_Nothing(t *testing.T) {
	if m, err := OpenMeter([]Device{{ID: "cpu:0"}}, "/nonexistent"); m != nil || err != nil {
		t.Errorf("a node without GPUs: %v, %v", m, err)
	}
	if _, err := OpenMeter([]Device{{ID: "gpu:GPU-aaaa", Node: &Node{}}}, "/nonexistent"); err == nil {
		t.Error("no driver, and no error")
	}
}

func TestHostUse(t *testing.T) {
	before, err := HostUse(os.Getpid())
	if err != nil || before.Bytes < 1<<20 {
		t.Fatal(before, err)
	}
	if _, err := HostUse(1 << 22); err == nil {
		t.Error("a process that does not exist holds memory")
	}
}
