package simulator

import (
	"os"
	"path/filepath"

	"pipefill"
	"pipefill/simulator/workload"
)

// FileVersion is that of the input's and the output's format.
const FileVersion = 1

// File is a scenario's file (docs/simulator.md).
type File struct {
	Version  int          `yaml:"version"`
	Name     string       `yaml:"name"`
	Seed     uint64       `yaml:"seed"`
	Seeds    int          `yaml:"seeds"`
	Days     float64      `yaml:"days"`
	MainJobs []MainFile   `yaml:"main_jobs"`
	Filling  FillingFile  `yaml:"filling"`
	Device   DeviceFile   `yaml:"device"`
	Workload WorkloadFile `yaml:"workload"`
	Sweep    SweepFile    `yaml:"sweep"`

	dir   string // of the file: paths in it are relative to it
	from  *mistakes
	trace *workload.Trace
	plans *planCache
	// recorded are a cluster's main jobs, in place of MainJobs.
	recorded []Main
}

// MainFile is a main job.
type MainFile struct {
	Name               string         `yaml:"name"`
	GPUs               int            `yaml:"gpus"`
	TensorParallel     int            `yaml:"tensor_parallel"`
	Schedule           string         `yaml:"schedule"`
	Stages             int            `yaml:"stages"`
	Chunks             int            `yaml:"chunks"`
	MicroBatches       int            `yaml:"micro_batches"`
	GlobalMicroBatches int            `yaml:"global_micro_batches"`
	ForwardMs          numbers        `yaml:"forward_ms"`
	BackwardMs         numbers        `yaml:"backward_ms"`
	WeightMs           numbers        `yaml:"weight_ms"`
	TransferMs         float64        `yaml:"transfer_ms"`
	ReduceMs           float64        `yaml:"reduce_ms"`
	OptimizerMs        float64        `yaml:"optimizer_ms"`
	GlobalNorm         *bool          `yaml:"global_norm"`
	JitterPct          float64        `yaml:"jitter_pct"`
	Iterations         int64          `yaml:"iterations"`
	TFLOPS             float64        `yaml:"tflops"`
	Memory             MemoryFile     `yaml:"memory"`
	FreeGiB            float64        `yaml:"free_gib"`
	Measured           []MeasuredFile `yaml:"measured"`
}

// MemoryFile is the memory model.
type MemoryFile struct {
	ReserveGiB     float64 `yaml:"reserve_gib"`
	Parameters     float64 `yaml:"parameters"`
	WeightBytes    float64 `yaml:"weight_bytes"`
	OptimizerBytes float64 `yaml:"optimizer_bytes"`
	ShardOptimizer bool    `yaml:"shard_optimizer"`
	ActivationGiB  float64 `yaml:"activation_gib"`
}

// MeasuredFile is a bubble cycle that a device reported.
type MeasuredFile struct {
	Cycle    string  `yaml:"cycle"` // a bubble cycle's file
	Devices  int     `yaml:"devices"`
	BubbleMs float64 `yaml:"bubble_ms"` // of all bubbles of an iteration; 0: of those in the cycle
}

// FillingFile is how bubbles are offered.
type FillingFile struct {
	Policies       []string `yaml:"policies"`
	Share          float64  `yaml:"share"`
	GuardMs        float64  `yaml:"guard_ms"`
	LeastMs        float64  `yaml:"min_ms"`
	Kinds          []string `yaml:"kinds"`
	ControlPct     float64  `yaml:"control_pct"`
	OpenUs         float64  `yaml:"open_us"`
	LateUs         float64  `yaml:"late_us"`
	AnnounceUs     float64  `yaml:"announce_us"`
	StartS         float64  `yaml:"start_s"`
	InferencePct   float64  `yaml:"inference_pct"`
	TrainingPct    float64  `yaml:"training_pct"`
	ProgramPct     float64  `yaml:"program_pct"`
	Plans          string   `yaml:"plans"`
	BubbleScalePct float64  `yaml:"bubble_scale_pct"`
}

// DeviceFile is what fill jobs compute on.
type DeviceFile struct {
	MemoryGiB    float64 `yaml:"memory_gib"`
	ReserveGiB   float64 `yaml:"fill_reserve_gib"`
	TFLOPS       float64 `yaml:"fill_tflops"`
	HostLinkGBps float64 `yaml:"host_link_gbps"`
}

// WorkloadFile is what arrives.
type WorkloadFile struct {
	Source         string             `yaml:"source"`
	File           string             `yaml:"file"`
	Load           float64            `yaml:"load"`
	Backlog        int                `yaml:"backlog"`
	LongestH       float64            `yaml:"longest_h"`
	Users          int                `yaml:"users"`
	Gangs          bool               `yaml:"gangs"`
	DeadlineFactor float64            `yaml:"deadline_factor"`
	Mix            map[string]float64 `yaml:"mix"`
	Profiles       []ProfileFile      `yaml:"profiles"`
}

// ProfileFile is a kind of fill job whose profile was measured.
type ProfileFile struct {
	File   string  `yaml:"file"`
	Weight float64 `yaml:"weight"`
	TFLOPS float64 `yaml:"tflops"` // on an idle device; 0: the device's
}

// SweepFile lists values to compare: every one with every one of the other keys.
type SweepFile struct {
	GPUs           []int     `yaml:"gpus"`
	MicroBatches   []int     `yaml:"micro_batches"`
	Schedule       []string  `yaml:"schedule"`
	FreeGiB        []float64 `yaml:"free_gib"`
	BubbleScalePct []float64 `yaml:"bubble_scale_pct"`
	HostLinkGBps   []float64 `yaml:"host_link_gbps"`
	GuardMs        []float64 `yaml:"guard_ms"`
}

// The kinds of workload besides traces, and the fill job without profile.
const (
	sourceSynthetic = "synthetic"
	kindProgram     = "program"
)

// defaultFile is what a file may leave out: what pipefilld offers by default, an
// H100, and jobs of the published shape.
func defaultFile() File {
	return File{
		Seed: 1, Seeds: 3, Days: 7,
		Filling: FillingFile{
			Policies: []string{"fifo"}, Share: 0.9, GuardMs: 5, LeastMs: 4, Kinds: []string{"fill-drain", "fwd-bwd", "steady"}, ControlPct: 3,
			OpenUs: 52, LateUs: 5.65, AnnounceUs: 0.79, StartS: 1, InferencePct: 95, TrainingPct: 95, ProgramPct: 95, Plans: "best", BubbleScalePct: 100,
		},
		Device:   DeviceFile{MemoryGiB: 80, ReserveGiB: 1, TFLOPS: 200, HostLinkGBps: 50},
		Workload: WorkloadFile{Source: sourceSynthetic, Load: 0.9, LongestH: 24, Users: 100},
	}
}

// LoadFile reads and checks a scenario; the error names every mistake in it.
func LoadFile(path string) (*File, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the user names it, as the user
	if err != nil {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "scenario: %w", err)
	}
	return ParseFile(filepath.Base(path), filepath.Dir(path), data)
}

// ParseFile is LoadFile of text; paths in it are relative to dir.
func ParseFile(name, dir string, data []byte) (*File, error) {
	f := defaultFile()
	m, err := decodeStrict(name, data, &f)
	if err != nil {
		return nil, err
	}
	f.dir, f.from, f.plans = dir, m, &planCache{}
	f.check()
	if err := m.err(); err != nil {
		return nil, err
	}
	return &f, nil
}
