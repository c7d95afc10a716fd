package store

// Counts are how many fill jobs there are now, by what they are at: "held" by
// their users, "queued", or an assignment's state.
func (s *Store) Counts() map[string]int64 {
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	counts := map[string]int64{
		"held": s.index.userHeld, "queued": int64(len(s.index.jobs)) - s.index.userHeld, "reserved": 0, "released": 0, "attached": 0, "running": 0,
	}
	for id, a := range s.index.ofJob {
		counts[string(a.State)]++
		if j := s.index.jobs[id]; j != nil && j.UserHeld {
			counts["held"]--
		} else {
			counts["queued"]--
		}
	}
	return counts
}
