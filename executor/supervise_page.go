package executor

import (
	"sync/atomic"
	"unsafe"
)

// superPage is shared by pipefilld and the supervisor of one fill job, both
// root's; nobody else ever holds it. The daemon of a newer release may meet a
// supervisor of an older one, so it has a version as the other pages do.
type superPage struct {
	pageHead
	_ uint32

	// The daemon writes.
	Command      atomic.Uint32 // superRun...
	DaemonPid    atomic.Uint32 // whose death shuts the gate at once
	GraceUntilNs atomic.Uint64 // superGrace: until when
	_            [48]byte

	// The supervisor writes.
	Pid         atomic.Uint32
	State       atomic.Uint32 // stateFrozen...
	DeviceNs    atomic.Uint64 // device time up to the last stop
	OverrunNs   atomic.Uint64 // of it, after the gate was shut
	Openings    atomic.Uint64
	Overruns    atomic.Uint64 // openings with an overrun
	ThawedAtNs  atomic.Uint64 // 0 while stopped
	StopWorstNs atomic.Uint64 // longest time a stop took
	LastOpenNs  atomic.Uint64 // store of the gate word, by the main page
	Failures    atomic.Uint64 // writes to the freezer that failed
	Caught      atomic.Uint64 // times a chunked fill job did not mind its gate three times in a row, less those forgiven
	ChunkHead   atomic.Uint64 // chunks written
	Chunks      [superChunks]superChunk
	_           [4096 - 16 - 64 - 88 - superChunks*56]byte
}

// superChunk is one opening in which the fill job ran, for recordings.
type superChunk struct {
	Seq     atomic.Uint64 // its number + 1 once complete
	BeginNs atomic.Uint64 // let run
	ShutNs  atomic.Uint64 // the gate was shut, or the stop began ahead of it
	EndNs   atomic.Uint64 // verified stopped
	CPUNs   atomic.Uint64 // CPU time until it was shut
	LateNs  atomic.Uint64 // what is charged after that
	Overrun atomic.Uint64 // 1: counted as such
}

const (
	superMagic = 0x31534650 // "PFS1"
	superSize  = 4096
	// Of 2 ms each as many as there can be between two ticks.
	superChunks = 64

	superHold  = 0 // keep the fill job stopped
	superRun   = 1 // follow the gate
	superGrace = 2 // run until GraceUntilNs, gate or not: the fill job was told to end
	superExit  = 3 // stop it and exit

	stateStarting = 0
	stateFrozen   = 1
	stateThawed   = 2
)

var _ = [1]struct{}{}[unsafe.Sizeof(superPage{})-superSize]

// charged sets what supervisors before this one have charged to so many devices.
func (p *superPage) charged(sum used, devices int64) {
	p.DeviceNs.Store(uint64(sum.DeviceNs / devices))
	p.OverrunNs.Store(uint64(sum.OverrunNs / devices))
	p.Openings.Store(uint64(sum.Openings))
}

// used reads what the fill job has used of each of its devices, an opening that
// goes on included.
func (p *superPage) used(nowNs int64) used {
	u := used{
		DeviceNs: int64(p.DeviceNs.Load()), OverrunNs: int64(p.OverrunNs.Load()), Openings: int64(p.Openings.Load()),
	}
	if at := int64(p.ThawedAtNs.Load()); at != 0 && at < nowNs {
		u.DeviceNs += nowNs - at
	}
	return u
}
