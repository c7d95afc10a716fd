package simulator

import (
	"fmt"
	"maps"

	"pipefill"
)

// sweepKey is one key of a sweep: how a value of it changes a file.
type sweepKey struct {
	name   string
	values []any
	apply  func(f *File, value any)
}

func anys[T any](values []T) (out []any) {
	for _, v := range values {
		out = append(out, v)
	}
	return out
}

// keys lists what is swept, in the order of the output's columns.
func (s *SweepFile) keys() []sweepKey {
	eachMain := func(change func(*MainFile, any)) func(*File, any) {
		return func(f *File, v any) {
			for i := range f.MainJobs {
				if len(f.MainJobs[i].Measured) == 0 {
					change(&f.MainJobs[i], v)
				}
			}
		}
	}
	all := []sweepKey{
		{"gpus", anys(s.GPUs), eachMain(func(m *MainFile, v any) { m.GPUs = v.(int) })},                                                   //nolint:errcheck,forcetypeassert // of values
		{"micro_batches", anys(s.MicroBatches), eachMain(func(m *MainFile, v any) { m.MicroBatches, m.GlobalMicroBatches = v.(int), 0 })}, //nolint:errcheck,forcetypeassert // of values
		{"schedule", anys(s.Schedule), eachMain(func(m *MainFile, v any) { m.setSchedule(v.(string)) })},                                  //nolint:errcheck,forcetypeassert // of values
		{"free_gib", anys(s.FreeGiB), func(f *File, v any) {
			for i := range f.MainJobs {
				f.MainJobs[i].FreeGiB = v.(float64) //nolint:errcheck,forcetypeassert // of values
			}
		}},
		{"bubble_scale_pct", anys(s.BubbleScalePct), func(f *File, v any) { f.Filling.BubbleScalePct = v.(float64) }}, //nolint:errcheck,forcetypeassert // of values
		{"host_link_gbps", anys(s.HostLinkGBps), func(f *File, v any) { f.Device.HostLinkGBps = v.(float64) }},        //nolint:errcheck,forcetypeassert // of values
		{"guard_ms", anys(s.GuardMs), func(f *File, v any) { f.Filling.GuardMs = v.(float64) }},                       //nolint:errcheck,forcetypeassert // of values
	}
	var used []sweepKey
	for _, k := range all {
		if len(k.values) > 0 {
			used = append(used, k)
		}
	}
	return used
}

// setSchedule changes the schedule, and the chunks with it, which are others'.
func (j *MainFile) setSchedule(name string) {
	if j.Schedule != name {
		j.Schedule, j.Chunks = name, 0
	}
}

// mostPoints bounds a sweep.
const mostPoints = 1000

// Points are the file's scenarios: every value of each swept key with every one
// of the others, under every policy.
func (f *File) Points() ([]Point, error) {
	if err := f.loadTrace(); err != nil {
		return nil, err
	}
	files := []swept{{f, nil}}
	for _, k := range f.Sweep.keys() {
		var next []swept
		for _, base := range files {
			for _, v := range k.values {
				next = append(next, base.with(k, v))
			}
		}
		if files = next; len(files) > mostPoints {
			return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s: sweep: more than %d combinations: write fewer values", f.from.name, mostPoints)
		}
	}
	var points []Point
	for _, file := range files {
		s, err := file.file.scenario()
		if err != nil {
			if file.at != nil {
				err = fmt.Errorf("sweep at %v: %w", file.at, err)
			}
			return nil, err
		}
		for _, name := range f.Filling.Policies {
			policy, err := f.policy(name)
			if err != nil {
				return nil, err
			}
			points = append(points, Point{Scenario: s, Policy: policy, Sweep: file.at})
		}
	}
	return points, nil
}

// swept is a file with some keys set.
type swept struct {
	file *File
	at   map[string]any
}

func (s swept) with(k sweepKey, value any) swept {
	file := *s.file
	file.MainJobs = append([]MainFile(nil), s.file.MainJobs...)
	at := map[string]any{k.name: value}
	maps.Copy(at, s.at)
	k.apply(&file, value)
	return swept{&file, at}
}
