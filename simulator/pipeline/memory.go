package pipeline

// peak is the most chunks in flight over an iteration.
func (r *runner) peak(stage int) int {
	var sofar progress
	most := 0
	for _, op := range r.orders[stage] {
		sofar.add(op, r.m.Schedule)
		most = max(most, sofar.held)
	}
	return most
}

// freeBytes is what a device has left with so many chunks in flight; never below
// 0, and 0 where the device's size is not known.
func (m Model) freeBytes(inFlight int) int64 {
	if m.Memory.DeviceBytes == 0 {
		return 0
	}
	used := m.Memory.ReserveBytes + m.Memory.stateBytes(m.Stages)
	used += int64(float64(inFlight) * float64(m.Memory.ActivationBytes) / float64(m.Chunks))
	return max(0, m.Memory.DeviceBytes-used)
}

// stateBytes is a device's share of weights, gradients and optimizer state.
func (m Memory) stateBytes(stages int) int64 {
	share := m.Parameters / float64(stages*max(1, m.TensorParallel))
	optimizer := m.OptimizerBytes
	if m.ShardOptimizer {
		optimizer /= float64(max(1, m.DataParallel))
	}
	return int64(share * (m.WeightBytes + optimizer))
}
