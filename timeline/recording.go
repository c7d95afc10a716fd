package timeline

import (
	"cmp"
	"fmt"
	"slices"

	"pipefill"
	"pipefill/api"
	"pipefill/measure"
)

// FromRecordings is the timeline of what nodes recorded of a main job, and the
// same as measure has it. Nodes' clocks are put on top of each other by their
// time of day: tracks of several hosts are as true as their NTP.
func FromRecordings(parts []api.Recording) (Timeline, measure.Traces, error) {
	r := reader{devices: map[string]*Device{}}
	events := map[string][]measure.Event{}
	var fills []measure.Fill
	parts = slices.Clone(parts)
	// n2 before n10.
	slices.SortStableFunc(parts, func(a, b api.Recording) int {
		return cmp.Or(cmp.Compare(len(a.Node), len(b.Node)), cmp.Compare(a.Node, b.Node))
	})
	for _, part := range parts {
		for i := range part.Devices {
			from := &part.Devices[i]
			id := part.Node + "/" + string(from.Device)
			// Without a word of the program: as nodes and their devices are in order.
			d := r.device(id)
			if from.Stage >= 0 {
				d.Stage, d.Name = from.Stage, fmt.Sprintf("stage %d, %s", from.Stage, id)
			}
			for _, e := range from.Events {
				rec := recordOf(e, part.EpochNs)
				d.event(&rec, false)
				if rec.Flags&flagWork == 0 {
					events[id] = append(events[id], measure.Event{
						Iteration: rec.Iteration, Index: int(e.Index), Kind: rec.Kind, BeginNs: rec.BeginNs, EndNs: rec.EndNs, DeadlineNs: rec.DeadlineNs, Flags: rec.Flags,
					})
				}
			}
			for _, c := range from.Chunks {
				d.ran(chunkOf(c, part.EpochNs))
			}
			fills = append(fills, fillsOf(id, from.Chunks, part.EpochNs)...)
		}
	}
	t := r.timeline()
	if _, _, ok := t.Bounds(); !ok {
		return t, measure.Traces{}, pipefill.Errorf(pipefill.CodeNotFound, "nothing is recorded of that time: ask for more with --last")
	}
	traces, err := measure.Announced(events, fills, t.IDs())
	return t, traces, err
}

func recordOf(e api.RecordedEvent, epochNs int64) record {
	rec := record{Iteration: e.Iteration, Kind: e.Kind, BeginNs: e.BeginNs + epochNs, EndNs: e.EndNs + epochNs, Flags: e.Flags, MicroBatch: int(e.Index)}
	if e.DeadlineNs > 0 {
		rec.DeadlineNs = e.DeadlineNs + epochNs
	}
	return rec
}

func chunkOf(c api.RecordedChunk, epochNs int64) chunk {
	return chunk{
		what:    fmt.Sprintf("job %d, %s", c.Job, c.Mode),
		beginNs: c.BeginNs + epochNs, shutNs: c.ShutNs + epochNs, endNs: c.EndNs + epochNs, cpuNs: c.CPUNs, lateNs: c.LateNs, overrun: c.Overrun,
	}
}

// fillsOf are the readings of the CPU clock that chunks tell of, job by job.
func fillsOf(device string, chunks []api.RecordedChunk, epochNs int64) []measure.Fill {
	var fills []measure.Fill
	sorted := slices.Clone(chunks)
	slices.SortStableFunc(sorted, func(a, b api.RecordedChunk) int { return cmp.Compare(a.BeginNs, b.BeginNs) })
	for _, c := range sorted {
		i := slices.IndexFunc(fills, func(f measure.Fill) bool { return f.Job == c.Job })
		if i < 0 {
			i = len(fills)
			fills = append(fills, measure.Fill{Assignment: c.Job, Job: c.Job, Device: device, Mode: string(c.Mode)})
		}
		f := &fills[i]
		var cpuNs int64
		if n := len(f.Readings); n > 0 {
			cpuNs = f.Readings[n-1].CPUNs
		}
		f.Readings = append(f.Readings,
			measure.Reading{AtNs: c.BeginNs + epochNs, CPUNs: cpuNs},
			measure.Reading{AtNs: max(c.BeginNs, c.ShutNs) + epochNs, CPUNs: cpuNs + c.CPUNs},
			measure.Reading{AtNs: max(c.EndNs, c.ShutNs, c.BeginNs) + epochNs, CPUNs: cpuNs + c.CPUNs + c.LateNs})
	}
	return fills
}
