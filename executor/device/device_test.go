package device

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pipefill"
)

func TestProbe_CPU(t *testing.T) {
	devices, err := Probe([]pipefill.DeviceID{"cpu:0"})
	if err != nil {
		t.Fatal(err)
	}
	if d := devices[0]; len(d.Cores) != 1 || d.Cores[0] != 0 || d.TotalBytes < 1<<20 || d.Node != nil {
		t.Errorf("%+v", d)
	}
	for _, id := range []pipefill.DeviceID{"cpu:8191", "tpu:1", "cpu:x"} {
		if _, err := Probe([]pipefill.DeviceID{id}); pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%s: %v, want an invalid error", id, err)
		}
	}
}

// canOpen tells whether a process in the group dir can open the node.
func canOpen(t *testing.T, dir, node string) bool {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read go; exec 3<"+node)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Error(err)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Error(err)
	}
	return cmd.Wait() == nil
}

// Two nodes of /dev/null's numbers and /dev/zero's: one granted, one not.
func TestGrant_OpensOneNodeAndNotTheOther(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes device nodes and cgroups")
	}
	for name, c := range map[string]struct {
		root  string
		grant func(string, []Node, []Node) error
	}{
		"v1": {"/sys/fs/cgroup/devices", GrantV1},
		"v2": {"/sys/fs/cgroup/unified", GrantV2},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "v2" {
				if _, err := os.Stat(c.root); err != nil {
					c.root = "/sys/fs/cgroup"
				}
			}
			dir := filepath.Join(c.root, "pipefill_test_grant_"+strconv.Itoa(os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Skip("needs writable cgroups: ", err)
			}
			t.Cleanup(func() {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			})
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
				t.Skip("no cgroups at ", c.root)
			}
			nodes := t.TempDir()
			var made [2]Node
			// /dev/full and /dev/zero, under names of our own.
			for i, minor := range []int{7, 5} {
				path := filepath.Join(nodes, strconv.Itoa(i))
				if err := syscall.Mknod(path, syscall.S_IFCHR|0o666, 1<<8|minor); err != nil {
					t.Skip("needs device nodes: ", err)
				}
				n, err := nodeAt(path)
				if err != nil {
					t.Fatal(err)
				}
				made[i] = n
			}
			if !canOpen(t, dir, made[0].Path) {
				t.Skip("device nodes cannot be opened in ", nodes)
			}
			if err := c.grant(dir, made[:1], made[1:]); err != nil {
				if strings.Contains(err.Error(), "operation not permitted") {
					t.Skip("needs BPF: ", err)
				}
				t.Fatal(err)
			}
			if !canOpen(t, dir, made[0].Path) {
				t.Error("the granted node cannot be opened")
			}
			if canOpen(t, dir, made[1].Path) {
				t.Error("a node that is not granted can be opened")
			}
			// Granting again, as after a restart, changes nothing.
			if err := c.grant(dir, made[:1], made[1:]); err != nil {
				t.Fatal(err)
			}
			if !canOpen(t, dir, made[0].Path) || canOpen(t, dir, made[1].Path) {
				t.Error("granting again changed what can be opened")
			}
		})
	}
}
