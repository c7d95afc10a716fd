package device

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pipefill"
)

// fakeDriver builds testdata/fake_nvml.c and makes the nodes of its GPUs.
func fakeDriver(t *testing.T, flags ...string) (library, dev string) {
	t.Helper()
	dir := t.TempDir()
	library = filepath.Join(dir, "libnvidia-ml.so.1")
	args := append([]string{"-shared", "-fPIC", "-o", library, "testdata/fake_nvml.c"}, flags...)
	if out, err := exec.CommandContext(t.Context(), "gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	if err := unix.Mknod(filepath.Join(dir, "nvidia6"), unix.S_IFCHR|0o600, int(unix.Mkdev(195, 6))); err != nil {
		t.Skipf("needs root: mknod: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nvidia7"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return library, dir
}

func TestGPU(t *testing.T) {
	library, dev := fakeDriver(t)
	d, err := openDriver(library, dev)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.probe("gpu:GPU-aaaa")
	if err != nil || got.Node == nil || got.Node.Major != 195 || got.Node.Minor != 6 || got.TotalBytes != 80<<30 || got.Cores != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for call, want := range map[string]string{
		"handle":    "find: NVML: GPU is lost",
		"minor":     "read its minor number: NVML: GPU is lost",
		"memory":    "read its memory: NVML: GPU is lost",
		"mode":      "read its compute mode: NVML: GPU is lost",
		"exclusive": "nvidia-smi -c DEFAULT",
	} {
		t.Setenv("FAKE_NVML", call)
		if _, err := d.probe("gpu:GPU-aaaa"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s fails: %v", call, err)
		}
	}
	t.Setenv("FAKE_NVML", "")
	for id, want := range map[pipefill.DeviceID]string{
		"gpu:GPU-cccc":     "no such GPU: nvidia-smi -L lists GPU-aaaa, GPU-bbbb",
		"gpu:MIG-aaaa":     "name a whole GPU",
		"gpu:GPU-bbbb":     "not a character device",
		"gpu:GPU-aaaa-not": "no such GPU",
	} {
		if _, err := d.probe(id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
	d.close()
}

func TestGPU_NoDriver(t *testing.T) {
	if _, err := openDriver(filepath.Join(t.TempDir(), "libnvidia-ml.so.1"), "/dev"); err == nil || !strings.Contains(err.Error(), "is not here") {
		t.Errorf("no library: %v", err)
	}
	library, dev := fakeDriver(t)
	t.Setenv("FAKE_NVML", "init")
	if _, err := openDriver(library, dev); err == nil || !strings.Contains(err.Error(), "Driver Not Loaded") {
		t.Errorf("driver away: %v", err)
	}
	t.Setenv("FAKE_NVML", "")
	library, dev = fakeDriver(t, "-DOLD_DRIVER")
	if _, err := openDriver(library, dev); err == nil || !strings.Contains(err.Error(), "has no nvmlDeviceGetComputeMode") {
		t.Errorf("old driver: %v", err)
	}
}

func TestHere_CoresWithoutADriver(t *testing.T) {
	if _, err := os.Stat("/dev/nvidiactl"); err == nil {
		t.Skip("this machine has GPUs")
	}
	if got := Here([]int{0, 3}); len(got) != 2 || got[1] != "cpu:3" {
		t.Error(got)
	}
}
