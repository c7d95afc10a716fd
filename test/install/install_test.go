//go:build install

// Package install tests `make install`: it needs what make builds.
package install

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// install runs packaging/install into dir.
func install(t *testing.T, dir string, settings ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../packaging/install")
	cmd.Env = append(os.Environ(), append([]string{"DESTDIR=" + dir}, settings...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestInstall_EveryFileWithItsMode(t *testing.T) {
	dir := t.TempDir()
	install(t, dir)
	want := map[string]fs.FileMode{
		"usr/sbin/pipefilld": 0o755, "usr/sbin/pipefillctld": 0o755, "usr/bin/pipefill-cli": 0o755,
		"usr/lib/libpipefill.so.1": 0o644, "usr/include/pipefill.h": 0o644, "usr/lib/pipefill/spank_pipefill.so": 0o644,
		"usr/lib/python3/dist-packages/pipefill/__init__.py": 0o644,
		"usr/lib/systemd/system/pipefilld.service":           0o644,
		"usr/lib/systemd/system/pipefillctld.service":        0o644,
		"etc/pipefill/pipefilld.yaml.example":                0o644,
		"etc/pipefill/pipefillctld.yaml.example":             0o644,
		"etc/pipefill/plugstack.conf.example":                0o644,
		"etc/pipefill/job_submit.lua.example":                0o644,
		"etc/pipefill/slurm.conf.example":                    0o644,
		"usr/share/man/man1/pipefill-cli.1":                  0o644,
	}
	for name, mode := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	err := filepath.WalkDir(filepath.Join(dir, "etc"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "@libdir@") || strings.Contains(string(text), "@sbindir@") {
			t.Errorf("%s: a place was not filled in", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestInstall_TheLibraryIsFoundByItsName(t *testing.T) {
	dir := t.TempDir()
	install(t, dir, "prefix=/opt/pf", "sysconfdir=/opt/pf/etc")
	lib, err := elf.Open(filepath.Join(dir, "opt/pf/lib/libpipefill.so"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lib.Close() }()
	names, err := lib.DynString(elf.DT_SONAME)
	if err != nil || !slices.Equal(names, []string{"libpipefill.so.1"}) {
		t.Errorf("soname %v, %v", names, err)
	}
	unit, err := os.ReadFile(filepath.Join(dir, "opt/pf/lib/systemd/system/pipefilld.service"))
	if err != nil || !strings.Contains(string(unit), "ExecStart=/opt/pf/sbin/pipefilld ") {
		t.Errorf("%v: %s", err, unit)
	}
}

func TestInstall_AgainKeepsWhatWasEdited(t *testing.T) {
	dir := t.TempDir()
	install(t, dir)
	path := filepath.Join(dir, "etc/pipefill/pipefilld.yaml")
	if err := os.WriteFile(path, []byte("node: mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	install(t, dir)
	if text, err := os.ReadFile(path); err != nil || string(text) != "node: mine\n" {
		t.Errorf("%v: %q", err, text)
	}
}

func TestExamples_PassTheirDaemonsCheck(t *testing.T) {
	dir := t.TempDir()
	install(t, dir)
	for _, daemon := range []string{"pipefilld", "pipefillctld"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "usr/sbin", daemon), "--check", "--config",
			filepath.Join(dir, "etc/pipefill", daemon+".yaml.example"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", daemon, err, out)
		}
	}
}

func TestManualPages_HaveNoMistake(t *testing.T) {
	pages, err := filepath.Glob("../../docs/man/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no manual pages: %v", err)
	}
	for _, page := range pages {
		out, err := exec.CommandContext(t.Context(), "../../packaging/man", page).Output()
		if err != nil || !strings.HasPrefix(string(out), ".TH PIPEFILL") || strings.Contains(string(out), "**") {
			t.Errorf("%s: %v: %.300s", page, err, out)
		}
	}
}

func TestInstall_WithoutABuildSaysSo(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "../../packaging/install")
	cmd.Env = append(os.Environ(), "DESTDIR="+t.TempDir(), "BUILD="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "run make first") {
		t.Errorf("%v: %s", err, out)
	}
}
