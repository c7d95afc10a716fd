package executor

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"

	"pipefill"
)

// The ledger is a file of lines "CRC32C JSON": a head, then records. A line is
// on disk before anything is sent, and a line that was not written whole was
// never sent, so a torn tail is dropped and its numbers are used again. A
// damaged line before the tail may have been sent: then the file gets a new
// name, so that no number is ever used twice for different things.

// used is what an assignment has used since it attached; it only grows.
type used struct {
	DeviceNs  int64 `json:"device_ns"`
	CPUNs     int64 `json:"cpu_ns"`
	OverrunNs int64 `json:"overrun_ns"`
	Openings  int64 `json:"openings"`
}

// ledgerLine is one line: a head (Ledger and Next set), a sum carried over a
// compaction (Sum), or a record with the sum it leads to.
type ledgerLine struct {
	Ledger string          `json:"ledger,omitempty"`
	Next   int64           `json:"next,omitempty"`
	ID     int64           `json:"id,omitempty"`
	Sum    *used           `json:"sum,omitempty"`
	Record *pipefill.Usage `json:"record,omitempty"`
}

// ledger is the node's usage that the controller has not counted yet, and what
// every live assignment has used so far. Not safe for concurrent use.
type ledger struct {
	store   storage
	path    string
	file    *os.File
	size    int64 // of the whole lines on disk
	name    string
	next    int64
	pending []pipefill.Usage
	sums    map[int64]used
	acked   int // lines in the file that compaction would drop
	damage  string
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openLedger reads the ledger at path, or makes one.
func openLedger(path string, store storage) (*ledger, error) {
	l := &ledger{store: store, path: path, sums: map[int64]used{}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	whole, torn := l.read(data)
	if l.name == "" || l.damage != "" {
		l.name, l.next = rand.Text(), 1
		return l, l.compact()
	}
	if torn || whole != int64(len(data)) {
		return l, l.compact()
	}
	l.size = whole
	l.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return l, nil
}

// read takes in every whole line, and says how long they are together.
func (l *ledger) read(data []byte) (whole int64, torn bool) {
	bad := 0
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		if !ended {
			return whole, true
		}
		if !l.take(line) {
			bad++
		}
		whole += int64(len(line)) + 1
		data = rest
	}
	if bad > 0 {
		l.damage = fmt.Sprintf("usage ledger %s: %d damaged lines were dropped: their usage is lost; check the disk", l.path, bad)
	}
	return whole, false
}

func (l *ledger) take(line []byte) bool {
	sum, body, ok := bytes.Cut(line, []byte{' '})
	if !ok || hex.EncodeToString(checksum(body)) != string(sum) {
		return false
	}
	var v ledgerLine
	if json.Unmarshal(body, &v) != nil {
		return false
	}
	if v.Ledger != "" {
		l.name, l.next = v.Ledger, v.Next
	}
	if v.Sum != nil {
		l.sums[v.ID] = *v.Sum
	}
	if v.Record != nil {
		l.pending = append(l.pending, *v.Record)
		if v.Record.Ledger == l.name {
			l.next = max(l.next, v.Record.Seq+1)
		}
	}
	return true
}

func checksum(body []byte) []byte {
	c := crc32.Checksum(body, castagnoli)
	return []byte{byte(c >> 24), byte(c >> 16), byte(c >> 8), byte(c)}
}

func encodeLine(v ledgerLine) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		return nil // numbers and strings always encode
	}
	return append([]byte(hex.EncodeToString(checksum(body))+" "), append(body, '\n')...)
}

// charge brings an assignment's usage up to total, as of toMs. Nothing is
// written where nothing was used since.
func (l *ledger) charge(id int64, total used, fromMs, toMs int64) error {
	before := l.sums[id]
	total = used{
		max(total.DeviceNs, before.DeviceNs), max(total.CPUNs, before.CPUNs),
		max(total.OverrunNs, before.OverrunNs), max(total.Openings, before.Openings),
	}
	if total == before {
		return nil
	}
	rec := pipefill.Usage{
		Ledger: l.name, Seq: l.next, AssignmentID: id, FromMs: fromMs, ToMs: toMs,
		DeviceNs: total.DeviceNs - before.DeviceNs, CPUNs: total.CPUNs - before.CPUNs,
		OverrunNs: total.OverrunNs - before.OverrunNs, Openings: total.Openings - before.Openings,
	}
	if err := l.write(encodeLine(ledgerLine{ID: id, Sum: &total, Record: &rec})); err != nil {
		return err
	}
	l.next++
	l.pending = append(l.pending, rec)
	l.sums[id] = total
	return nil
}

// probe tells whether the ledger can be written.
func (l *ledger) probe() error {
	return l.write(encodeLine(ledgerLine{Ledger: l.name, Next: l.next}))
}

func (l *ledger) write(line []byte) error {
	if l.file == nil {
		if err := l.compact(); err != nil {
			return err
		}
	}
	if err := l.store.add(l.file, line); err != nil {
		// Whatever part of it got out must not stand before the next line.
		if terr := l.file.Truncate(l.size); terr != nil {
			_ = l.file.Close()
			l.file = nil // the next write starts with a fresh file
		}
		return err
	}
	l.size += int64(len(line))
	return nil
}

// unsent returns the records that the controller has not acknowledged, at most
// limit of them, oldest first.
func (l *ledger) unsent(limit int) []pipefill.Usage {
	return slices.Clone(l.pending[:min(limit, len(l.pending))])
}

// acknowledge drops what the controller has counted: per ledger up to a seq.
func (l *ledger) acknowledge(upTo map[string]int64) error {
	before := len(l.pending)
	l.pending = slices.DeleteFunc(l.pending, func(u pipefill.Usage) bool { return u.Seq <= upTo[u.Ledger] })
	l.acked += before - len(l.pending)
	// 1,000 lines are about 200 kB: one rewrite per that many keeps the file
	// small and costs nothing per record.
	if l.acked < 1000 && l.size < 1<<20 {
		return nil
	}
	if l.acked == 0 {
		return nil // all of it still unsent: rewriting would not help
	}
	return l.compact()
}

// forget drops an ended assignment's sum; its records stay until acknowledged.
func (l *ledger) forget(id int64) { delete(l.sums, id) }

// compact writes the ledger anew: head, sums, unsent records.
func (l *ledger) compact() error {
	out := encodeLine(ledgerLine{Ledger: l.name, Next: l.next})
	ids := make([]int64, 0, len(l.sums))
	for id := range l.sums {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for i := range l.pending {
		out = append(out, encodeLine(ledgerLine{Record: &l.pending[i]})...)
	}
	for _, id := range ids {
		sum := l.sums[id]
		out = append(out, encodeLine(ledgerLine{ID: id, Sum: &sum})...)
	}
	if err := l.store.replace(l.path, out); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.size, l.acked = f, int64(len(out)), 0
	return nil
}

func (l *ledger) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}
