//go:build install

// Package install tests `make install` and what it installs: it needs what make builds.
package install

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// script runs packaging/NAME and returns what it says.
func script(t *testing.T, name string, settings ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../packaging/"+name)
	cmd.Env = append(os.Environ(), settings...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

// files lists what is below dir: path -> mode.
func files(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	found := map[string]fs.FileMode{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		found[name] = info.Mode()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// python is where packaging/install puts the package below /usr/local.
func python(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import site; print(site.getsitepackages()[0])").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "/")
}

func TestInstall_EveryFileWithItsMode(t *testing.T) {
	dir := t.TempDir()
	script(t, "install", "DESTDIR="+dir)
	want := map[string]fs.FileMode{
		"usr/local/sbin/pipefilld": 0o755, "usr/local/sbin/pipefillctld": 0o755, "usr/local/bin/pipefill-cli": 0o755,
		"usr/local/lib/libpipefill.so.1": 0o644, "usr/local/lib/libpipefill.so": fs.ModeSymlink | 0o777,
		"usr/local/lib/libnccl-profiler-pipefill.so": 0o644,
		"usr/local/lib/libpipefill-cuda.so.1":        0o644, "usr/local/include/pipefill_stream.h": 0o644,
		"usr/local/lib/libpipefill_launch.so": 0o644,
		"usr/local/include/pipefill.h":        0o644, "usr/local/lib/slurm/spank_pipefill.so": 0o644,
	}
	add := func(folder, glob string, name func(string) string) {
		sources, err := filepath.Glob("../../" + glob)
		if err != nil || len(sources) == 0 {
			t.Fatalf("%s: %v, %v", glob, sources, err)
		}
		for _, source := range sources {
			want[filepath.Join(folder, name(filepath.Base(source)))] = 0o644
		}
	}
	same := func(s string) string { return s }
	page := func(s string) string {
		s = strings.TrimSuffix(s, ".md")
		return "man" + s[strings.LastIndex(s, ".")+1:] + "/" + s
	}
	add(filepath.Join(python(t), "pipefill"), "engine/pipefill/*.py", same)
	for _, folder := range []string{"fill", "hooks", "profiler", "site"} {
		add(filepath.Join(python(t), "pipefill", folder), "engine/pipefill/"+folder+"/*.py", same)
	}
	add("usr/local/lib/systemd/system", "packaging/systemd/*", same)
	add("etc/pipefill", "packaging/etc/*", func(s string) string { return strings.TrimSuffix(s, ".example") + ".example" })
	add("usr/local/share/pipefill/prometheus", "packaging/prometheus/*", same)
	add("usr/local/share/man", "docs/man/*.md", page)
	add("usr/local/share/doc/pipefill", "docs/*.md", same)
	for _, name := range []string{
		"bash-completion/completions/pipefill-cli", "zsh/site-functions/_pipefill-cli", "fish/vendor_completions.d/pipefill-cli.fish",
	} {
		want["usr/local/share/"+name] = 0o644
	}
	want["usr/local/bin/pipefill-sacct"] = 0o755
	for _, name := range []string{"README.md", "CHANGELOG.md", "LICENSE"} {
		want["usr/local/share/doc/pipefill/"+name] = 0o644
	}
	found := files(t, dir)
	for name, mode := range want {
		if got, ok := found[name]; !ok {
			t.Errorf("%s is not installed", name)
		} else if got != mode {
			t.Errorf("%s has mode %v, want %v", name, got, mode)
		}
	}
	for name := range found {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is installed, and nobody knows why", name)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "usr/local/lib/libpipefill.so")); err != nil || to != "libpipefill.so.1" {
		t.Errorf("libpipefill.so leads to %q, %v", to, err)
	}
}

func TestInstall_NoPlaceIsLeftOpen(t *testing.T) {
	dir := t.TempDir()
	script(t, "install", "DESTDIR="+dir, "prefix=/opt/pf", "sysconfdir=/opt/pf/etc")
	for name := range files(t, dir) {
		if !strings.HasPrefix(name, "opt/pf/") && !strings.Contains(name, "python") {
			t.Errorf("%s is outside its prefix", name)
		}
		if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".example") {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Error(err)
			}
			for _, place := range []string{"@spankdir@", "@sbindir@", "@sysconfdir@"} {
				if strings.Contains(string(text), place) {
					t.Errorf("%s: %s was not filled in", name, place)
				}
			}
		}
	}
}

func TestInstall_TheLibraryIsFoundByItsName(t *testing.T) {
	dir := t.TempDir()
	script(t, "install", "DESTDIR="+dir, "prefix=/opt/pf")
	lib, err := elf.Open(filepath.Join(dir, "opt/pf/lib/libpipefill.so"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lib.Close() }()
	names, err := lib.DynString(elf.DT_SONAME)
	if err != nil || !slices.Equal(names, []string{"libpipefill.so.1"}) {
		t.Errorf("soname %v, %v", names, err)
	}
}

func TestInstall_AgainKeepsWhatWasEdited(t *testing.T) {
	dir := t.TempDir()
	script(t, "install", "DESTDIR="+dir)
	before := files(t, dir)
	path := filepath.Join(dir, "etc/pipefill/pipefilld.yaml")
	if err := os.WriteFile(path, []byte("node: mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script(t, "install", "DESTDIR="+dir)
	if text, err := os.ReadFile(path); err != nil || string(text) != "node: mine\n" {
		t.Errorf("%v: %q", err, text)
	}
	if after := files(t, dir); len(after) != len(before)+1 {
		t.Errorf("%d files, then %d with one of the administrator's", len(before), len(after))
	}
}

func TestUninstall_LeavesWhatOthersWrote(t *testing.T) {
	dir := t.TempDir()
	settings := []string{"DESTDIR=" + dir, "prefix=/opt/pf"}
	script(t, "install", settings...)
	own := []string{"etc/pipefill/pipefilld.yaml", "opt/pf/lib/slurm/spank_other.so"}
	for _, name := range own {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if said := script(t, "uninstall", settings...); !strings.Contains(said, "configurations and /var/lib/pipefill are left") {
		t.Errorf("uninstall says %q", said)
	}
	left := files(t, dir)
	for _, name := range own {
		if _, ok := left[name]; !ok {
			t.Errorf("%s is gone", name)
		}
		delete(left, name)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(filepath.Join(dir, "opt/pf/share/doc/pipefill")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder of pipefill's is left: %v", err)
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

func TestUnits_SystemdTakesThem(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not on this machine")
	}
	dir := t.TempDir()
	script(t, "install", "DESTDIR=", "prefix="+dir, "sysconfdir="+dir+"/etc", "pythondir="+dir+"/python")
	for _, name := range []string{"pipefilld", "pipefillctld"} {
		unit := filepath.Join(dir, "lib/systemd/system", name+".service")
		if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// The examples of Slurm's files, installed as they are, pass pipefill's own doctor.
func TestExamples_DoctorFindsNothingInSlurmsFiles(t *testing.T) {
	dir := t.TempDir()
	script(t, "install", "DESTDIR=", "prefix="+dir, "sysconfdir="+dir+"/etc", "pythondir="+dir+"/python")
	text, err := os.ReadFile(filepath.Join(dir, "etc/pipefill/slurm.conf.example"))
	if err != nil {
		t.Fatal(err)
	}
	conf := strings.Replace(string(text), "/etc/slurm/plugstack.conf", dir+"/etc/pipefill/plugstack.conf.example", 1)
	path := filepath.Join(dir, "slurm.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"job_submit.lua", "cgroup.conf"} {
		if err := os.Rename(filepath.Join(dir, "etc/pipefill", name+".example"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "bin/pipefill-cli"), "--controller", "unix:"+dir+"/none.sock", "doctor", "--json", "--slurm-conf", path)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 4 {
		t.Errorf("doctor without a controller: %v, want exit status 4", err)
	}
	var findings []struct{ Check, State, Text string }
	if err := json.Unmarshal(out, &findings); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range findings {
		// Neither a controller nor munge runs here.
		if (f.State == "good") == (f.Check == "controller") && f.Check != "munge" {
			t.Errorf("%s: %s: %s", f.Check, f.State, f.Text)
		}
	}
	if len(findings) < 8 {
		t.Errorf("only %d findings: %v", len(findings), findings)
	}
}
