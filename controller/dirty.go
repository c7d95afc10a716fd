package controller

import "sync"

// set is a set that several goroutines add to.
type set[T comparable] struct {
	mu sync.Mutex
	in map[T]struct{}
}

func (s *set[T]) add(some ...T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		s.in = map[T]struct{}{}
	}
	for _, x := range some {
		s.in[x] = struct{}{}
	}
}

// take empties the set.
func (s *set[T]) take() map[T]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.in
	s.in = nil
	return in
}
