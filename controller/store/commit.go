package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"pipefill"
)

// request is a change that waits for its transaction.
type request struct {
	doing  string
	change func(context.Context, *sql.Tx, *rows) error
	err    error
	done   chan struct{}
}

// mostInOne bounds the changes that share a transaction, and so how long one
// can take.
const mostInOne = 512

// write runs a change of rows that the index does not hold.
func (s *Store) write(doing string, change func(ctx context.Context, tx *sql.Tx) error) error {
	return s.change(doing, func(ctx context.Context, tx *sql.Tx, _ *rows) error { return change(ctx, tx) })
}

// change runs a change, alone or with others that wait in one transaction: what
// is dear is the disk, once a transaction. One that fails is undone and leaves
// the others. After it the index has the changed rows. It is handed a context that
// nobody ends: one caller that leaves would interrupt the transaction of all.
func (s *Store) change(doing string, change func(context.Context, *sql.Tx, *rows) error) error {
	r := &request{doing: doing, change: change, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-s.closing:
		return fmt.Errorf("%s: %w", doing, sql.ErrConnDone)
	}
	// What becomes of a change must be known: it is waited for.
	select {
	case <-r.done:
		return r.err
	case <-s.closed:
		return fmt.Errorf("%s: %w", doing, sql.ErrConnDone)
	}
}

// serve runs the changes, one transaction after the other.
func (s *Store) serve() {
	defer close(s.closed)
	for {
		select {
		case <-s.closing:
			return
		case first := <-s.requests:
			s.commit(s.gather(first))
		}
	}
}

func (s *Store) gather(first *request) []*request {
	group := []*request{first}
	for len(group) < mostInOne {
		select {
		case r := <-s.requests:
			group = append(group, r)
		default:
			return group
		}
	}
	return group
}

// commit runs a group. Its requests are answered after the index has what they
// changed.
func (s *Store) commit(group []*request) {
	ctx := context.Background()
	touched := &rows{jobs: map[int64]bool{}, assignments: map[int64]bool{}, used: map[int64]int64{}}
	jobs, assignments, err := s.transact(ctx, group, touched)
	var change Change
	if err == nil {
		change = s.index.put(jobs, assignments, touched.used)
	}
	for _, r := range group {
		switch {
		case err != nil && r.err == nil:
			r.err = err
		case r.err == nil && s.OnWrite != nil:
			r.err = s.OnWrite(r.doing, true)
		}
		if r.err != nil {
			r.err = fmt.Errorf("%s: %w", r.doing, r.err)
		}
	}
	if s.OnChange != nil && (len(change.Jobs) > 0 || len(change.Nodes) > 0) {
		s.OnChange(change)
	}
	for _, r := range group {
		close(r.done)
	}
}

func (s *Store) transact(ctx context.Context, group []*request, touched *rows) (jobs []FillJob, assignments []Assignment, err error) {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreDone(tx.Rollback()))
		}
	}()
	if err := s.owned(ctx, tx); err != nil {
		return nil, nil, err
	}
	for _, r := range group {
		if err := s.one(ctx, tx, r, touched); err != nil {
			return nil, nil, err
		}
	}
	if jobs, assignments, err = touched.read(ctx, tx); err != nil {
		return nil, nil, err
	}
	return jobs, assignments, tx.Commit()
}

// one runs a request within the transaction; its own failure is noted and
// undone, an error is that of the whole.
func (s *Store) one(ctx context.Context, tx *sql.Tx, r *request, touched *rows) error {
	if s.OnWrite != nil {
		if r.err = s.OnWrite(r.doing, false); r.err != nil {
			return nil //nolint:nilerr // the request's, and not the transaction's
		}
	}
	if _, err := tx.ExecContext(ctx, "SAVEPOINT request"); err != nil {
		return err
	}
	own := &rows{jobs: map[int64]bool{}, assignments: map[int64]bool{}, used: map[int64]int64{}}
	if r.err = r.change(ctx, tx, own); r.err == nil {
		touched.add(own)
		_, err := tx.ExecContext(ctx, "RELEASE request")
		return err
	}
	// An interrupt undoes the whole transaction: then there is nothing to go
	// back to, and this fails.
	if _, err := tx.ExecContext(ctx, "ROLLBACK TO request"); err != nil {
		return errors.Join(r.err, err)
	}
	_, err := tx.ExecContext(ctx, "RELEASE request")
	return err
}

func (r *rows) add(other *rows) {
	for id := range other.jobs {
		r.jobs[id] = true
	}
	for id := range other.assignments {
		r.assignments[id] = true
	}
	for id, ns := range other.used {
		r.used[id] += ns
	}
}

// owned refuses to write to a database that another controller has taken over.
func (s *Store) owned(ctx context.Context, tx *sql.Tx) error {
	mine := s.generation.Load()
	if mine == 0 {
		return nil
	}
	var now int64
	if err := tx.QueryRowContext(ctx, "SELECT generation FROM controller").Scan(&now); err != nil {
		return fmt.Errorf("whose database is it: %w", err)
	}
	if now != mine {
		return pipefill.Errorf(pipefill.CodeConflict, "another pipefillctld (generation %d, this one %d) has taken the database over", now, mine)
	}
	return nil
}

// Own makes this controller the database's owner: from then on no earlier
// generation can write to it, and no later one may have.
func (s *Store) Own(_ context.Context, generation int64) error {
	err := s.write("take the database over", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `INSERT INTO controller (one, generation) VALUES (1, ?1)
			ON CONFLICT (one) DO UPDATE SET generation = excluded.generation WHERE generation < excluded.generation`, generation)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return pipefill.Errorf(pipefill.CodeConflict, "the database has seen a later pipefillctld than generation %d", generation)
	})
	if err == nil {
		s.generation.Store(generation)
	}
	return err
}
