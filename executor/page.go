package executor

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go end of spank/page.h, which explains every word. The offsets of both
// are held to testdata/page-offsets.golden; the tags are the C names.
const (
	mainMagic    = 0x314d4650
	controlMagic = 0x31434650
	fillMagic    = 0x31464650
	pageVersion  = 1

	mainSize    = 65536
	controlSize = 4096
	fillSize    = 4096
	ringEvents  = 1008

	fillProcesses = 64

	wordOpen = 1

	moveTell     = 1 // PF_MOVE_... of the control page's move
	moveOut      = 2
	moveOutShift = 8
	moveInShift  = 16

	eventOffered   = 1
	eventControl   = 2
	eventShort     = 4
	eventIteration = 8
	eventWork      = 16 // kind is workKinds', index the micro-batch
)

// pageEvent is one finished bubble or an iteration mark (struct pf_event).
type pageEvent struct {
	Seq        atomic.Uint64 `c:"seq"`
	Iteration  atomic.Uint64 `c:"iteration"`
	BeginNs    atomic.Uint64 `c:"begin_ns"`
	EndNs      atomic.Uint64 `c:"end_ns"`
	DeadlineNs atomic.Uint64 `c:"deadline_ns"`
	FreeBytes  atomic.Uint64 `c:"free_bytes"`
	Index      atomic.Uint32 `c:"index"`
	Kind       atomic.Uint32 `c:"kind"`
	Flags      atomic.Uint32 `c:"flags"`
	_          uint32
}

// pageHead stands at the start of every page.
type pageHead struct {
	Magic   uint32 `c:"magic"`
	Version uint32 `c:"version"`
	Size    uint32 `c:"size"`
}

// mainPage is written by the main job alone (struct pf_main_page).
type mainPage struct {
	pageHead
	RingEvents uint32 `c:"ring_events"`
	_          [48]byte

	Word        atomic.Uint32 `c:"word"`
	Index       atomic.Uint32 `c:"index"`
	Kind        atomic.Uint32 `c:"kind"`
	Pid         atomic.Uint32 `c:"pid"`
	BeginNs     atomic.Uint64 `c:"begin_ns"`
	DeadlineNs  atomic.Uint64 `c:"deadline_ns"`
	EndNs       atomic.Uint64 `c:"end_ns"`
	FreeBytes   atomic.Uint64 `c:"free_bytes"`
	Iteration   atomic.Uint64 `c:"iteration"`
	NextBeginNs atomic.Uint64 `c:"next_begin_ns"`

	BeatNs      atomic.Uint64 `c:"beat_ns"`
	RingHead    atomic.Uint64 `c:"ring_head"`
	IterationNs atomic.Uint64 `c:"iteration_ns"`
	Stage       atomic.Uint32 `c:"stage"`
	_           [36]byte

	MoveBytes atomic.Uint64 `c:"move_bytes"`
	MoveOutNs atomic.Uint64 `c:"move_out_ns"`
	MoveInNs  atomic.Uint64 `c:"move_in_ns"`
	MoveTimes atomic.Uint64 `c:"move_times"`

	CacheBytes  atomic.Uint64 `c:"cache_bytes"`
	CacheOutNs  atomic.Uint64 `c:"cache_out_ns"`
	CacheInNs   atomic.Uint64 `c:"cache_in_ns"`
	CacheTimes  atomic.Uint64 `c:"cache_times"`
	CacheBubble atomic.Uint32 `c:"cache_bubble"`
	_           [764]byte

	Ring [ringEvents]pageEvent `c:"ring"`
}

// controlPage is written by the daemon alone (struct pf_control_page).
type controlPage struct {
	pageHead
	_          uint32
	Enabled    atomic.Uint32 `c:"enabled"`
	Wake       atomic.Uint32 `c:"wake"`
	SharePpm   atomic.Uint32 `c:"share_ppm"`
	ControlPpm atomic.Uint32 `c:"control_ppm"`
	Seed       atomic.Uint64 `c:"seed"`
	GuardNs    atomic.Uint64 `c:"guard_ns"`
	MinNs      atomic.Uint64 `c:"min_ns"`
	BeatNs     atomic.Uint64 `c:"beat_ns"`
	Assignment atomic.Uint64 `c:"assignment"`
	MarginNs   atomic.Uint64 `c:"margin_ns"`
	FillStop   atomic.Uint32 `c:"fill_stop"`
	Recording  atomic.Uint32 `c:"recording"`
	FloorNs    atomic.Uint64 `c:"floor_ns"`
	Plan       atomic.Uint64 `c:"plan"`
	Move       atomic.Uint32 `c:"move"`
	Cache      atomic.Uint32 `c:"cache"`
	_          [3984]byte
}

// fillPage is written by the fill job alone (struct pf_fill_page).
type fillPage struct {
	pageHead
	_        uint32
	Pid      atomic.Uint32 `c:"pid"`
	Running  atomic.Uint32 `c:"running"`
	Chunks   atomic.Uint64 `c:"chunks"`
	Overruns atomic.Uint64 `c:"overruns"`
	BeatNs   atomic.Uint64 `c:"beat_ns"`
	RunNs    atomic.Uint64 `c:"run_ns"`
	FirstNs  atomic.Uint64 `c:"first_ns"`
	Opening  atomic.Uint64 `c:"opening"`
	Plan     atomic.Uint64 `c:"plan"`
	PlanAt   atomic.Uint64 `c:"plan_at"`
	_        [40]byte

	Process [fillProcesses]fillProcess `c:"process"`
	_       [2944]byte
}

// fillProcess is a process with the launch library (struct pf_fill_process).
type fillProcess struct {
	Pid   atomic.Uint32 `c:"pid"`
	_     uint32
	Bytes atomic.Uint64 `c:"bytes"`
}

// Both ends are little endian, and a page is exactly its struct.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(mainPage{})-mainSize]
	_ = [1]struct{}{}[unsafe.Sizeof(controlPage{})-controlSize]
	_ = [1]struct{}{}[unsafe.Sizeof(fillPage{})-fillSize]
)

// page is a mapped memfd whose bytes are a T.
type page[T any] struct {
	at   *T
	file *os.File
	mem  []byte
}

// pageSeals keep every holder from truncating a page under its readers.
const pageSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// newMemfd makes a memfd that fill fills, and then seals it.
func newMemfd(name string, seals int, fill func(*os.File) error) (*os.File, error) {
	fd, err := unix.MemfdCreate("pipefill-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	// A memfd is born 0777: whoever is handed it read-only could re-open it for
	// writing through /proc.
	err = f.Chmod(0o600)
	if err == nil {
		err = fill(f)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// openReadOnly opens a memfd anew: the descriptor cannot be written, and its place
// in the file is its own.
func openReadOnly(f *os.File) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY, 0)
}

// newPage makes a page of zeros and writes its head.
func newPage[T any](name string, magic uint32) (*page[T], error) {
	size := int64(unsafe.Sizeof(*new(T)))
	f, err := newMemfd(name, pageSeals, func(f *os.File) error { return f.Truncate(size) })
	if err != nil {
		return nil, fmt.Errorf("make page %s: %w", name, err)
	}
	p, err := mapPage[T](f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	head := (*pageHead)(unsafe.Pointer(p.at))
	*head = pageHead{Magic: magic, Version: pageVersion, Size: uint32(size)}
	return p, nil
}

// mapPage maps f, which becomes the page's; f must be a sealed memfd of the
// right size.
func mapPage[T any](f *os.File) (*page[T], error) {
	size := int64(unsafe.Sizeof(*new(T)))
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("map page %s: %w", f.Name(), err)
	}
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&pageSeals != pageSeals || info.Size() != size {
		return nil, fmt.Errorf("map page %s: size %d, seals %#x: not a page of ours (%w)", f.Name(), info.Size(), seals, os.ErrInvalid)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map page %s: %w", f.Name(), err)
	}
	return &page[T]{at: (*T)(unsafe.Pointer(&mem[0])), file: f, mem: mem}, nil
}

// checkHead tells whether the page's head is what newPage wrote.
func (p *page[T]) checkHead(magic uint32) error {
	head := (*pageHead)(unsafe.Pointer(p.at))
	if want := (pageHead{Magic: magic, Version: pageVersion, Size: uint32(len(p.mem))}); *head != want {
		return fmt.Errorf("page %s has head %+v, want %+v: %w", p.file.Name(), *head, want, os.ErrInvalid)
	}
	return nil
}

// readOnly opens the page anew, so that the descriptor cannot be written.
func (p *page[T]) readOnly() (*os.File, error) {
	f, err := openReadOnly(p.file)
	if err != nil {
		return nil, fmt.Errorf("open page %s read-only: %w", p.file.Name(), err)
	}
	return f, nil
}

// close unmaps the page; nothing may read it afterwards.
func (p *page[T]) close() {
	if p == nil || p.mem == nil {
		return
	}
	_ = unix.Munmap(p.mem)
	_ = p.file.Close()
	p.at, p.mem = nil, nil
}

func newMainPage(name string) (*page[mainPage], error) {
	p, err := newPage[mainPage](name, mainMagic)
	if err == nil {
		p.at.RingEvents = ringEvents
	}
	return p, err
}

// monotonicNs is the clock of the pages.
func monotonicNs() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with a valid clock
	return ts.Nano()
}

// shared is another descriptor of the page that may be written.
func (p *page[T]) shared() (*os.File, error) {
	fd, err := unix.FcntlInt(p.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("share page %s: %w", p.file.Name(), err)
	}
	return os.NewFile(uintptr(fd), p.file.Name()), nil
}
