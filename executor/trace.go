package executor

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// trace writes readings-<id>.jsonl and opens-<id>.jsonl (docs/traces.md). The
// loop puts fixed records into a ring; a goroutine of its own writes them.
type trace struct {
	ring            [1 << 12]traceRecord
	put, taken      atomic.Uint64
	dropped         atomic.Uint64
	stop            chan struct{}
	done            sync.WaitGroup
	readings, opens *os.File
}

type traceRecord struct {
	a, b int64
	kind uint8 // 0: opening; 1: reading, shut; 2: reading, open
}

var _ recorder = (*trace)(nil)

func newTrace(order superviseOrder) (*trace, error) {
	t := &trace{stop: make(chan struct{})}
	var err [3]error
	t.readings, err[0] = openTrace(order.TraceDir, fmt.Sprintf("readings-%d.jsonl", order.ID))
	t.opens, err[1] = openTrace(order.TraceDir, fmt.Sprintf("opens-%d.jsonl", order.ID))
	if err := errors.Join(err[:]...); err != nil {
		return nil, err
	}
	others := ""
	if order.Others != "" {
		others = fmt.Sprintf(", \"others\": %q", order.Others)
	}
	_, err[2] = fmt.Fprintf(t.readings, "{\"assignment\": %d, \"job\": %d, \"device\": %q%s, \"mode\": %q}\n", order.ID, order.Job, order.Device, others, order.Mode)
	if err[2] != nil {
		return nil, fmt.Errorf("write trace: %w", err[2])
	}
	t.done.Go(t.drain)
	return t, nil
}

func openTrace(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) //nolint:gosec // for everybody to read
	if err == nil {
		err = f.Chmod(0o644) // the daemon's umask keeps everybody out
	}
	if err != nil {
		return nil, fmt.Errorf("open trace: %w", err)
	}
	return f, nil
}

func (t *trace) reading(atNs, cpuNs int64, open bool) {
	kind := uint8(1)
	if open {
		kind = 2
	}
	t.add(traceRecord{atNs, cpuNs, kind})
}

func (t *trace) opening(openNs, runNs int64) { t.add(traceRecord{openNs, runNs, 0}) }

func (t *trace) add(r traceRecord) {
	put := t.put.Load()
	if put-t.taken.Load() >= uint64(len(t.ring)) {
		t.dropped.Add(1)
		return
	}
	t.ring[put%uint64(len(t.ring))] = r
	t.put.Store(put + 1)
}

func (t *trace) drain() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for open := true; open; {
		select {
		case <-tick.C:
		case <-t.stop:
			open = false
		}
		t.write()
	}
}

func (t *trace) write() {
	readings, opens := bufio.NewWriter(t.readings), bufio.NewWriter(t.opens)
	for taken := t.taken.Load(); taken < t.put.Load(); taken++ {
		r := t.ring[taken%uint64(len(t.ring))]
		if r.kind == 0 {
			_, _ = fmt.Fprintf(opens, "{\"open_ns\": %d, \"run_ns\": %d}\n", r.a, r.b)
		} else {
			_, _ = fmt.Fprintf(readings, "{\"at_ns\": %d, \"cpu_ns\": %d, \"open\": %t}\n", r.a, r.b, r.kind == 2)
		}
		t.taken.Store(taken + 1)
	}
	// A trace that cannot be written must not stop the fill job's supervisor.
	_ = errors.Join(readings.Flush(), opens.Flush())
}

func (t *trace) close() {
	close(t.stop)
	t.done.Wait()
	_ = errors.Join(t.readings.Close(), t.opens.Close())
}
