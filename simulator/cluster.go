package simulator

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"pipefill"
	"pipefill/simulator/workload"
)

// Recorded is what a cluster has seen.
type Recorded struct {
	Devices []RecordedDevice
	Jobs    []RecordedJob // fill jobs that completed
}

// RecordedDevice is a device of a running main job.
type RecordedDevice struct {
	MainJob  int64
	Cycle    pipefill.BubbleCycle // what is offered
	BubbleNs int64                // of all bubbles of an iteration, the mean; 0: not known
}

// RecordedJob is a fill job that completed.
type RecordedJob struct {
	SubmitMs, DeviceMs int64
	User               string
}

// enoughJobs are as many as make a workload of a cluster's own.
const enoughJobs = 20

// FromCluster makes a scenario of what a cluster has recorded. The file at path
// may set all but main jobs; "" is none. With fewer completed fill jobs than make
// a workload, jobs of the published shape stand in.
func FromCluster(path string, r Recorded) (*File, error) {
	f := defaultFile()
	f.Version, f.Name = FileVersion, "this cluster"
	f.Workload.Mix = map[string]float64{kindProgram: 1}
	f.from, f.plans = &mistakes{name: "cluster"}, &planCache{}
	if path != "" {
		data, err := os.ReadFile(path) //nolint:gosec // the user names it, as the user
		if err != nil {
			return nil, pipefill.Errorf(pipefill.CodeInvalid, "scenario: %w", err)
		}
		if f.from, err = decodeStrict(filepath.Base(path), data, &f); err != nil {
			return nil, err
		}
		f.dir = filepath.Dir(path)
		f.from.rule(len(f.MainJobs) == 0, "main_jobs", "with --from-cluster they are the cluster's: leave the key out")
	}
	mains, err := r.mains()
	if err != nil {
		return nil, err
	}
	f.recorded = mains
	if len(r.Jobs) >= enoughJobs && f.Workload.Source == sourceSynthetic && f.from.lines["workload.source"] == 0 {
		f.trace = r.trace(f.Filling.ProgramPct / 100)
		f.Workload.Source = sourceCluster
		if f.from.lines["workload.load"] == 0 {
			f.Workload.Load = 0
		}
	}
	f.check()
	return &f, f.from.err()
}

// sourceCluster is the workload that a cluster has recorded.
const sourceCluster = "cluster"

// mains makes main jobs of the devices that have learned their bubbles.
func (r Recorded) mains() ([]Main, error) {
	byJob := map[int64]*Main{}
	var order []int64
	for _, d := range r.Devices {
		if d.Cycle.IterationNs <= 0 {
			continue
		}
		m := byJob[d.MainJob]
		if m == nil {
			m = &Main{Name: fmt.Sprintf("job %d", d.MainJob)}
			byJob[d.MainJob] = m
			order = append(order, d.MainJob)
		}
		bubble := d.BubbleNs
		if bubble == 0 {
			for _, b := range d.Cycle.Bubbles {
				bubble += b.DurationNs
			}
		}
		m.Measured = append(m.Measured, Measured{Cycle: d.Cycle, BubbleNs: min(bubble, d.Cycle.IterationNs), Devices: 1})
		m.Devices++
	}
	if len(order) == 0 {
		return nil, pipefill.Errorf(pipefill.CodeConflict, "no main job runs whose bubbles are known yet: simulate a FILE.yaml, or ask again some iterations after one has started")
	}
	slices.Sort(order)
	var mains []Main
	for _, job := range order {
		mains = append(mains, *byJob[job])
	}
	return mains, nil
}

// trace makes a workload of the fill jobs. What they are charged is the time for
// which their gate was open: alone they would have taken speed of it.
func (r Recorded) trace(speed float64) *workload.Trace {
	users := map[string]int{}
	t := &workload.Trace{}
	for _, j := range r.Jobs {
		if _, known := users[j.User]; !known {
			users[j.User] = len(users)
		}
		t.Jobs = append(t.Jobs, workload.Job{SubmitMs: j.SubmitMs, RunMs: max(1, int64(speed*float64(j.DeviceMs))), Devices: 1, User: users[j.User]})
	}
	t.Settle()
	return t
}
