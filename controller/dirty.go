package controller

import "sync"

// numbers is a set of job numbers that several goroutines add to.
type numbers struct {
	mu  sync.Mutex
	set map[int64]struct{}
}

func (n *numbers) add(ids ...int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.set == nil {
		n.set = map[int64]struct{}{}
	}
	for _, id := range ids {
		n.set[id] = struct{}{}
	}
}

// take empties the set.
func (n *numbers) take() map[int64]struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	set := n.set
	n.set = nil
	return set
}
