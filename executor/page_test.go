package executor

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// offsets prints "struct.field offset size" for every tagged field.
func offsets(name string, t reflect.Type, base uintptr) []string {
	var lines []string
	for f := range t.Fields() {
		switch c := f.Tag.Get("c"); {
		case f.Anonymous:
			lines = append(lines, offsets(name, f.Type, base+f.Offset)...)
		case c != "":
			lines = append(lines, fmt.Sprintf("%s.%s %d %d", name, c, base+f.Offset, f.Type.Size()))
		}
	}
	return lines
}

func TestPage_OffsetsAreThoseOfC(t *testing.T) {
	want := map[string]bool{}
	data, err := os.ReadFile("testdata/page-offsets.golden")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && !strings.Contains(line, ".pad") && !strings.Contains(line, ".reserved") {
			want[line] = true
		}
	}
	got := map[string]bool{}
	for name, v := range map[string]any{"pf_event": pageEvent{}, "pf_main_page": mainPage{}, "pf_control_page": controlPage{}, "pf_fill_page": fillPage{}, "pf_fill_process": fillProcess{}} {
		for _, line := range offsets(name, reflect.TypeOf(v), 0) {
			got[line] = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("C against Go (-c +go):\n%s", diff)
	}
}

func TestPage_ReadOnlyDescriptorsAndSeals(t *testing.T) {
	p, err := newMainPage("test")
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.checkHead(mainMagic); err != nil {
		t.Error(err)
	}
	if err := p.file.Truncate(0); err == nil {
		t.Error("the page could be truncated")
	}
	ro, err := p.readOnly()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ro.Close() }()
	if _, err := unix.Mmap(int(ro.Fd()), 0, mainSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("a read-only descriptor could be mapped for writing")
	}
	info, err := p.file.Stat()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: another user could re-open the page", info.Mode(), err)
	}
	p.at.Word.Store(7)
	again, err := mapPage[mainPage](dup(t, p.file))
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if again.at.Word.Load() != 7 {
		t.Error("a second mapping shows other contents")
	}
}

func TestMapPage_RefusesWhatIsNotAPage(t *testing.T) {
	fd, err := unix.MemfdCreate("bare", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "bare")
	defer func() { _ = f.Close() }()
	if err := f.Truncate(mainSize); err != nil {
		t.Fatal(err)
	}
	if _, err := mapPage[mainPage](f); err == nil {
		t.Error("an unsealed memfd was mapped")
	}
}

// TestFindPage_OpensNothingElse: the processes it looks into belong to users.
func TestFindPage_OpensNothingElse(t *testing.T) {
	p, err := newMainPage("main")
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	want, err := inodeOf(p.file)
	if err != nil {
		t.Fatal(err)
	}
	link := fmt.Sprintf("/proc/self/fd/%d", p.file.Fd())
	f := openPage(link, want)
	if f == nil {
		t.Fatal("the page was not opened")
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !isInode(info, want) {
		t.Errorf("%v %v", info, err)
	}
	if f := openPage(link, inode{Dev: want.Dev, Ino: want.Ino + 1}); f != nil {
		t.Error("another file was opened")
	}
	// Opened for writing it would wait for a reader, or be one's terminal.
	pipe := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(pipe)
	if err != nil {
		t.Fatal(err)
	}
	fifo, err := statInode(info)
	if err != nil {
		t.Fatal(err)
	}
	if f := openPage(pipe, fifo); f != nil {
		t.Error("a fifo was opened")
	}
}

func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}
