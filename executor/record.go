package executor

import (
	"fmt"
	"math"
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
)

// A recording keeps the newest records of one device of a main job in memory:
// what the main job announced and what fill jobs ran, for pipefill-cli trace. It
// is off unless the site turns it on (recording: in pipefilld.yaml), and never
// larger than that says.
type recording struct {
	ring []record // grows up to most, then its oldest are overwritten
	most int
	put  uint64
	lost int64 // overwritten in a page before they were read
}

// record is an event of the main page or a chunk. 64 bytes.
type record struct {
	beginNs, endNs int64
	deadlineNs     int64 // event: as announced; chunk: when the gate was shut
	number         int64 // event: the iteration; chunk: the fill job
	cpuNs, lateNs  int64 // chunk: CPU time within the gate, and what it is charged after
	index          uint32
	flags          uint32
	kind           uint8 // event: bubble or work; chunk: of modes
	chunk          bool
}

const (
	recordBytes = 64
	// The smallest recording still has some hundred iterations of one stage, and
	// eight of the largest are what a node daemon may hold.
	leastRecording = 64 << 10
	mostRecording  = 64 << 20
	// How long the recording of a main job that has ended is kept, unless
	// another takes the device.
	recordingKept = 24 * time.Hour
	// Records in one answer: some 15 MB of JSON.
	answerRecords = 100_000
)

// workKinds are enum pf_work of spank/pipefill.h.
var workKinds = []string{"forward", "backward", "step", "evaluation", "checkpoint"}

// parseRecording reads recording: off, or a size per device.
func parseRecording(text string) (int64, error) {
	if text == "off" || text == "" {
		return 0, nil
	}
	size, err := pipefill.ParseSize(text)
	if err != nil || size < leastRecording || size > mostRecording {
		return 0, fmt.Errorf("recording: %q: write off, or the memory for each device of a main job, from 64KiB to 64MiB", text)
	}
	return size, nil
}

// newRecording returns nil, which keeps nothing, for no bytes.
func newRecording(bytes int64) *recording {
	if bytes <= 0 {
		return nil
	}
	return &recording{most: int(bytes / recordBytes)}
}

func (r *recording) add(x record) {
	if len(r.ring) < r.most {
		if len(r.ring) == cap(r.ring) { // append would make room beyond the bound
			larger := make([]record, len(r.ring), min(r.most, max(1024, 2*cap(r.ring))))
			copy(larger, r.ring)
			r.ring = larger
		}
		r.ring = append(r.ring, x)
	} else {
		r.ring[r.put%uint64(r.most)] = x
	}
	r.put++
}

func (r *recording) event(e eventCopy) {
	if r == nil || e.flags&eventWork != 0 && int(e.kind) >= len(workKinds) {
		return
	}
	r.add(record{
		beginNs: e.begin, endNs: e.end, deadlineNs: max(0, e.deadline), number: int64(min(e.iteration, math.MaxInt64)),
		index: e.index, flags: e.flags, kind: uint8(min(e.kind, math.MaxUint8)),
	})
}

// chunks takes in what a fill job's supervisor wrote since tail, and returns
// the next tail.
func (r *recording) chunks(f *fillJob, tail uint64) uint64 {
	head := f.super.at.ChunkHead.Load()
	if r == nil || head < tail {
		return head
	}
	if head-tail > superChunks {
		r.lost += int64(head - tail - superChunks)
		tail = head - superChunks
	}
	for ; tail < head; tail++ {
		c := &f.super.at.Chunks[tail%superChunks]
		seq := c.Seq.Load()
		x := record{
			beginNs: int64(c.BeginNs.Load()), deadlineNs: int64(c.ShutNs.Load()), endNs: int64(c.EndNs.Load()),
			cpuNs: int64(c.CPUNs.Load()), lateNs: int64(c.LateNs.Load()), flags: uint32(c.Overrun.Load()),
			number: f.rec.Assignment.Job.JobID, kind: uint8(max(0, slices.Index(pipefill.Modes, f.rec.Assignment.Mode))), chunk: true,
		}
		if seq != tail+1 || c.Seq.Load() != seq {
			r.lost++
			continue
		}
		r.add(x)
	}
	return tail
}

// recordChunks takes in what the device's fill job ran since the last time.
func (d *mainDevice) recordChunks() { d.chunkTail = d.record.chunks(d.fill, d.chunkTail) }

// copied is a copy of the newest records, oldest first, most of them at most;
// cut is set where there were more.
func (r *recording) copied(most int) (records []record, cut bool) {
	n := uint64(len(r.ring))
	first := r.put - n
	if n > uint64(most) {
		first, cut = r.put-uint64(most), true
	}
	for i := first; i < r.put; i++ {
		records = append(records, r.ring[i%uint64(r.most)])
	}
	return records, cut
}

// told puts records that ended since sinceNs into the words of the wire. What
// ends later than nowNs is a lie of the main job's.
func told(records []record, sinceNs, nowNs int64) (events []api.RecordedEvent, chunks []api.RecordedChunk) {
	events, chunks = []api.RecordedEvent{}, []api.RecordedChunk{}
	for i := range records {
		x := &records[i]
		switch {
		case x.endNs < sinceNs || x.endNs > nowNs || x.beginNs < 0:
		case x.chunk:
			chunks = append(chunks, api.RecordedChunk{
				Job: x.number, Mode: pipefill.Modes[x.kind], BeginNs: x.beginNs, ShutNs: x.deadlineNs, EndNs: x.endNs,
				CPUNs: x.cpuNs, LateNs: x.lateNs, Overrun: x.flags != 0,
			})
		default:
			events = append(events, x.event())
		}
	}
	return events, chunks
}

func (x *record) event() api.RecordedEvent {
	e := api.RecordedEvent{Iteration: x.number, BeginNs: x.beginNs, EndNs: x.endNs, DeadlineNs: x.deadlineNs, Flags: x.flags, Index: int64(x.index)}
	switch {
	case x.flags&eventIteration != 0:
		e.Index = 0
	case x.flags&eventWork != 0:
		if e.Kind = workKinds[x.kind]; x.index == math.MaxUint32 {
			e.Index = -1
		}
	default:
		e.Kind = pipefill.BubbleKind(x.kind).String()
	}
	return e
}

// keptRecording is of a main job that has ended.
type keptRecording struct {
	job     pipefill.JobKey
	uid     uint32
	stage   int
	ended   time.Time
	endNs   int64 // the same by CLOCK_MONOTONIC
	records *recording
}

// setRecording changes how much is recorded, of running main jobs too.
func (n *node) setRecording(bytes int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cfg.recording == bytes {
		return
	}
	n.cfg.recording = bytes
	for _, m := range n.mains {
		for _, d := range m.devices {
			n.startRecording(d)
		}
	}
	if bytes == 0 {
		clear(n.kept)
	}
	n.log.Info("recording changed", "bytes", bytes)
	n.changed()
}

// startRecording starts or ends the recording of a device, by the configuration.
func (n *node) startRecording(d *mainDevice) {
	d.record = newRecording(n.cfg.recording)
	on := uint32(0)
	if d.record != nil {
		on = 1
		delete(n.kept, d.device.ID)
		if f := d.fill; f != nil && f.super != nil {
			d.chunkTail = f.super.at.ChunkHead.Load()
		}
	}
	d.control.at.Recording.Store(on)
}

// keepRecording keeps what was recorded of a device whose main job has ended.
func (n *node) keepRecording(m *mainJob, d *mainDevice) {
	if d.record != nil {
		n.kept[d.device.ID] = keptRecording{m.rec.Job, m.rec.UID, d.stage(), n.now(), n.mono(), d.record}
	}
}

// dropRecordings forgets those kept for long enough.
func (n *node) dropRecordings() {
	for id, k := range n.kept {
		if n.now().Sub(k.ended) > recordingKept {
			delete(n.kept, id)
			n.changed()
		}
	}
}

// stage is the device's place in the pipeline, -1 where its program did not say.
func (d *mainDevice) stage() int {
	if said := d.main.at.Stage.Load(); said <= 1<<20 {
		return int(said) - 1
	}
	return -1
}

// recordings lists what is recorded, for the controller.
func (n *node) recordings() []api.RecordingOf {
	var all []api.RecordingOf
	for _, m := range n.sortedMains() {
		if n.cfg.recording > 0 {
			all = append(all, api.RecordingOf{Job: m.rec.Job, UID: m.rec.UID})
		}
	}
	for _, d := range n.devices {
		if k, ok := n.kept[d.ID]; ok && (len(all) == 0 || all[len(all)-1].Job != k.job) {
			all = append(all, api.RecordingOf{Job: k.job, UID: k.uid})
		}
	}
	return all
}

// answerRecording is the node's part of a main job's recording.
func (n *node) answerRecording(ask api.RecordingAsk) api.Recording {
	out := api.Recording{ID: ask.ID, Node: n.cfg.Node, Job: ask.Job, Devices: []api.RecordedDevice{}}
	last := min(ask.LastMs, int64(recordingKept/time.Millisecond)) * int64(time.Millisecond)
	n.mu.Lock()
	now := n.mono()
	out.EpochNs = n.now().UnixNano() - now
	most := answerRecords / max(1, len(n.devices))
	var copies [][]record
	var since []int64
	add := func(id pipefill.DeviceID, stage int, r *recording, endNs int64) {
		records, cut := r.copied(most)
		copies = append(copies, records)
		out.Devices = append(out.Devices, api.RecordedDevice{Device: id, Stage: stage, Lost: r.lost, Cut: cut})
		horizon := int64(0)
		if last > 0 {
			horizon = endNs - last
		}
		since = append(since, horizon)
	}
	if m := n.mains[ask.Job.JobID]; m != nil && m.rec.Job == ask.Job {
		for _, d := range m.devices {
			if d.record != nil {
				n.drainDevice(m, d) // up to this moment
				add(d.device.ID, d.stage(), d.record, now)
			}
		}
	}
	for _, d := range n.devices {
		// What is asked for of one that has ended counts from its end.
		if k, ok := n.kept[d.ID]; ok && k.job == ask.Job {
			add(d.ID, k.stage, k.records, k.endNs)
		}
	}
	n.mu.Unlock()
	for i := range out.Devices {
		out.Devices[i].Events, out.Devices[i].Chunks = told(copies[i], since[i], now)
	}
	return out
}
