package schedule

// jobHeap is jobs of which the first by some order is on top. What is gone is found
// out when it comes up.
type jobHeap struct {
	jobs []int32
	less func(a, b int32) bool
}

func (h *jobHeap) push(i int32) {
	h.jobs = append(h.jobs, i)
	for k := len(h.jobs) - 1; k > 0 && h.less(h.jobs[k], h.jobs[(k-1)/2]); k = (k - 1) / 2 {
		h.jobs[k], h.jobs[(k-1)/2] = h.jobs[(k-1)/2], h.jobs[k]
	}
}

// pop drops the first.
func (h *jobHeap) pop() {
	last := len(h.jobs) - 1
	h.jobs[0] = h.jobs[last]
	h.jobs = h.jobs[:last]
	for k := 0; ; {
		least := 2*k + 1
		if least >= len(h.jobs) {
			return
		}
		if least+1 < len(h.jobs) && h.less(h.jobs[least+1], h.jobs[least]) {
			least++
		}
		if !h.less(h.jobs[least], h.jobs[k]) {
			return
		}
		h.jobs[k], h.jobs[least] = h.jobs[least], h.jobs[k]
		k = least
	}
}

// longestOf is the longest work that waits of a profile, in seconds; 0: none.
func (s *Scheduler) longestOf(profile int) float64 {
	h := &s.longest[profile]
	for len(h.jobs) > 0 && s.gone[h.jobs[0]] {
		h.pop()
	}
	if len(h.jobs) == 0 {
		return 0
	}
	return s.ownWorkS[h.jobs[0]]
}
