package store

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"pipefill"
)

// A node's usage waits for that of others: most of what it costs to count are
// the transaction, and the rows of users, accounts and main jobs that records of
// many nodes add to.
const (
	countWithin   = time.Second
	countTogether = 4096 // records, which are not waited with
)

// Counting is a node's usage on its way into the database.
type Counting struct {
	node    string
	records []pipefill.Usage
	err     error
	done    chan struct{}
}

// Done is closed when what becomes of it is known.
func (c *Counting) Done() <-chan struct{} { return c.done }

// Result is up to which number each ledger is counted, for good, or why they are
// not. It is to be asked after Done.
func (c *Counting) Result() (map[string]int64, error) {
	ack := map[string]int64{}
	if c.err != nil {
		return ack, c.err
	}
	for _, u := range c.records {
		ack[u.Ledger] = max(ack[u.Ledger], u.Seq)
	}
	return ack, nil
}

// countings are those that wait for others.
type countings struct {
	mu      sync.Mutex
	waiting []*Counting
	records int
}

// CountUsage counts a node's ledger records, as TakeUsage: within a second,
// together with those of other nodes, or now.
func (s *Store) CountUsage(node string, records []pipefill.Usage, now bool) *Counting {
	c := &Counting{node: node, records: records, done: make(chan struct{})}
	if len(records) == 0 {
		close(c.done)
		return c
	}
	w := &s.countings
	w.mu.Lock()
	w.waiting = append(w.waiting, c)
	w.records += len(records)
	now = now || w.records >= countTogether
	if !now && len(w.waiting) == 1 {
		time.AfterFunc(countWithin, s.countWaiting)
	}
	w.mu.Unlock()
	if now {
		s.countWaiting()
	}
	return c
}

// countWaiting counts all that waits in one transaction; where it fails each
// node's by itself, so that nobody's fails for another's.
func (s *Store) countWaiting() {
	w := &s.countings
	w.mu.Lock()
	group := w.waiting
	w.waiting, w.records = nil, 0
	w.mu.Unlock()
	if len(group) == 0 {
		return // somebody could not wait
	}
	err := s.count(group)
	for _, c := range group {
		if c.err = err; err != nil && len(group) > 1 {
			c.err = s.count([]*Counting{c})
		}
		close(c.done)
	}
}

func (s *Store) count(group []*Counting) error {
	return s.change("take usage", func(ctx context.Context, tx *sql.Tx, touched *rows) error {
		sums, owners := newRollup(s.Zone), map[int64]*owner{}
		for _, c := range group {
			if err := s.takeUsage(ctx, tx, touched, sums, owners, c.node, c.records); err != nil {
				return err
			}
		}
		return sums.save(ctx, tx)
	})
}
