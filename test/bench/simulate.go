package main

import (
	"context"
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sys/unix"

	"pipefill/simulator"
)

const (
	simulateSlowestS = 10
	simulateMostGiB  = 2
	simulateJobs     = 150_000
)

// week is the paper's cluster at a scale for seven days, with a queue that is
// never empty.
func week(gpus int) string {
	return fmt.Sprintf(`
version: 1
name: bench
seeds: 1
days: 7
main_jobs:
  - {name: llm, gpus: %d, tensor_parallel: 8, schedule: gpipe, stages: 16, micro_batches: 8, forward_ms: 50, backward_ms: 100, reduce_ms: 400, optimizer_ms: 50, tflops: 25.6, free_gib: 4.5}
filling: {share: 0.68, guard_ms: 0, control_pct: 0, inference_pct: 73.6, training_pct: 43, plans: single}
device: {memory_gib: 16, fill_tflops: 17.68, host_link_gbps: 12}
workload: {load: 1.2, backlog: %d, longest_h: 12}
`, gpus, 4*gpus)
}

// simulate measures the largest cluster, and smaller ones for the curve.
func (b *bench) simulate(ctx context.Context) error {
	var sizes []float64
	var costs []float64
	for _, gpus := range []int{1024, 2048, 4096, 8192} {
		file, err := simulator.ParseFile("bench.yaml", "", []byte(week(gpus)))
		if err != nil {
			return err
		}
		begin := b.now()
		r, err := file.Run(ctx, func(float64) {})
		if err != nil {
			return err
		}
		seconds := b.now().Sub(begin).Seconds()
		f := r.Points[0].Figures
		jobs, queue := f["submitted"].Mean, f["queue_least"].Mean
		name := fmt.Sprintf("simulate %d GPUs, a week", gpus)
		took := row{Name: name, Unit: "s", Value: seconds, N: int(jobs)}
		rows := []row{
			{Name: name + ": fill jobs", Unit: "jobs", Value: jobs, N: 1},
			{Name: name + ": shortest queue", Unit: "jobs", Value: queue, N: 1},
		}
		if gpus == 8192 {
			took.aim(simulateSlowestS, seconds <= simulateSlowestS)
			rows[0].aim(simulateJobs, f["started"].Mean >= simulateJobs)
			rows[1].aim(1, queue >= 1)
			memory := row{Name: "simulate: most memory of the process", Unit: "GiB", Value: mostGiB(), N: 1}
			memory.aim(simulateMostGiB, memory.Value <= simulateMostGiB)
			rows = append(rows, memory)
		}
		n := jobs + float64(gpus)
		sizes, costs = append(sizes, n), append(costs, seconds)
		// Time over n log n: flat where the cost grows so, falling where it grows less.
		rows = append(rows, row{Name: name + ": per n log2 n", Unit: "ns", Value: 1e9 * seconds / (n * math.Log2(n)), N: int(n)})
		if err := b.add(append([]row{took}, rows...)...); err != nil {
			return err
		}
		runtime.GC()
	}
	last := len(sizes) - 1
	growth := math.Log(costs[last]/costs[0]) / math.Log(sizes[last]*math.Log2(sizes[last])/(sizes[0]*math.Log2(sizes[0])))
	r := row{Name: "simulate: exponent of the cost over n log n, devices and jobs", Unit: "1", Value: growth, N: len(sizes)}
	const most = 1.1 // a tenth for what a small machine does besides
	r.aim(most, growth <= most)
	return b.add(r)
}

// mostGiB is the most memory that this process has had.
func mostGiB() float64 {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return math.NaN()
	}
	return float64(usage.Maxrss) / (1 << 20)
}
