package plan

import (
	"math"
	"slices"
	"sort"

	"pipefill"
)

// maxPasses bounds the passes of one chunk, so that counting them cannot
// overflow.
const maxPasses = math.MaxInt32

// way is one configuration on the bubbles of one cycle, prepared for stepping
// through it.
type way struct {
	config  *Config
	index   int // of the config in its profile
	bubbles []pipefill.Bubble
	ops     int
	passNs  int64
	peak    int64   // largest PeakBytes
	sums    []int64 // of op times from op 0 on, over two passes
	budget  []int64 // by bubble: for ops; negative: none
	room    []int64 // by bubble: for an op's peak
	peaks   []int64 // of ops, over two passes; nil: every bubble has room for all
	tops    []int64 // the largest of each block of them
}

// newWay looks at a configuration once, without making tables.
func newWay(config *Config, index int, bubbles []pipefill.Bubble) *way {
	w := &way{config: config, index: index, bubbles: bubbles, ops: len(config.Ops)}
	for i := range config.Ops {
		w.passNs += config.Ops[i].TimeNs
		w.peak = max(w.peak, config.Ops[i].PeakBytes)
	}
	w.budget = make([]int64, len(bubbles))
	w.room = make([]int64, len(bubbles))
	for j, b := range bubbles {
		w.budget[j] = b.DurationNs - config.SwapInNs - config.SwapOutNs
		w.room[j] = b.FreeBytes - config.ResidentBytes
	}
	return w
}

// bound is more samples a cycle than any plan of this configuration has: every
// bubble that it can use is filled to the last nanosecond.
func (w *way) bound() float64 {
	sum := 0.0
	for j := range w.bubbles {
		if w.budget[j] > 0 && w.room[j] >= 0 {
			sum += float64(w.budget[j])
		}
	}
	// Rounding must not make it less than it is.
	return float64(w.config.BatchSize) * sum / float64(w.passNs) * (1 + 1e-12)
}

// prepare makes the tables that step needs.
func (w *way) prepare() {
	if w.sums != nil {
		return
	}
	n := w.ops
	w.sums = make([]int64, 2*n+1)
	for i := range w.config.Ops {
		w.sums[i+1] = w.sums[i] + w.config.Ops[i].TimeNs
	}
	for i := range n {
		w.sums[n+i+1] = w.sums[i+1] + w.passNs
	}
	if len(w.room) == 0 || slices.Min(w.room) >= w.peak {
		return
	}
	w.peaks = make([]int64, 2*n)
	w.tops = make([]int64, (2*n+block-1)/block)
	for i := range w.config.Ops {
		w.peaks[i] = w.config.Ops[i].PeakBytes
	}
	copy(w.peaks[n:], w.peaks)
	for i := range w.peaks {
		w.tops[i/block] = max(w.tops[i/block], w.peaks[i])
	}
}

// block is how many ops are looked over at once for one that needs too much.
const block = 32

// roomy counts the ops from first on, at most count, that need no more than room.
func (w *way) roomy(first, count int, room int64) int {
	for i := first; i < first+count; i++ {
		switch {
		case w.tops[i/block] <= room:
			i += block - i%block - 1
		case w.peaks[i] > room:
			return i - first
		}
	}
	return count
}

// step is how far a chunk that begins with op first gets in bubble j: whole
// passes and ops beyond them.
func (w *way) step(first, j int) (passes int64, ops int) {
	return w.within(first, j, w.budget[j])
}

// within is step with budget nanoseconds for ops.
func (w *way) within(first, j int, budget int64) (passes int64, ops int) {
	if budget < 0 || w.room[j] < 0 {
		return 0, 0
	}
	if w.room[j] < w.peak {
		return 0, w.roomy(first, w.reach(first, w.ops, w.sums[first]+budget), w.room[j])
	}
	if budget >= w.passNs {
		if passes = budget / w.passNs; passes > maxPasses {
			return maxPasses, 0
		}
		budget -= passes * w.passNs
	}
	return passes, w.reach(first, w.ops, w.sums[first]+budget)
}

// reach counts the ops from first on, at most limit, whose sum stays within
// target: by doubling steps, since a bubble holds few ops of many.
func (w *way) reach(first, limit int, target int64) int {
	lo, step := 0, 1
	for lo+step <= limit && w.sums[first+lo+step] <= target {
		lo += step
		step *= 2
	}
	span := min(step, limit-lo+1) // lo fits, lo+span does not
	if span <= 1 {
		return lo
	}
	return lo + sort.Search(span-1, func(k int) bool { return w.sums[first+lo+k+1] > target })
}

// timeNs is what a chunk takes, swapping included.
func (w *way) timeNs(first int, passes int64, ops int) int64 {
	return w.config.SwapInNs + w.config.SwapOutNs + passes*w.passNs + w.sums[first+ops] - w.sums[first]
}

// peakBytes is what a chunk needs at most.
func (w *way) peakBytes(first int, passes int64, ops int) int64 {
	if passes > 0 {
		return w.config.ResidentBytes + w.peak
	}
	var most int64
	for i := first; i < first+ops; i++ {
		most = max(most, w.config.Ops[i%w.ops].PeakBytes)
	}
	return w.config.ResidentBytes + most
}

// chunk is a chunk of this way as a plan has it.
func (w *way) chunk(job string, cycle, j, first int, passes int64, ops int) Chunk {
	return Chunk{
		Cycle: cycle, Bubble: w.bubbles[j].Index, Job: job, Config: w.index, FirstOp: first, OpCount: int(passes)*w.ops + ops,
		TimeNs: w.timeNs(first, passes, ops), PeakBytes: w.peakBytes(first, passes, ops),
	}
}
