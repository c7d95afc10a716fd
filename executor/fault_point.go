//go:build faultpoint

package executor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"pipefill/test/faultpoint"
)

// faultyDisk is a disk whose daemon may be killed before or after any write
// (test/slurm/crash_test.go).
type faultyDisk struct{ disk }

func newDisk() storage { return faultyDisk{} }

// labelOf names what is written: an assignment by the state it comes to.
func labelOf(path string, data []byte) string {
	name := filepath.Base(path)
	var r fillRecord
	if strings.HasPrefix(name, "assignment-") && json.Unmarshal(data, &r) == nil {
		if r.Stopping != "" && !r.ended() {
			return "stopping"
		}
		return string(r.Assignment.State)
	}
	word, _, _ := strings.Cut(name, "-")
	return word
}

func (r fillRecord) ended() bool { return (&fillJob{rec: r}).ended() }

func (d faultyDisk) replace(path string, data []byte) error {
	return faultpoint.Around(labelOf(path, data), func() error { return d.disk.replace(path, data) })
}

func (d faultyDisk) put(path string, data []byte) error {
	return faultpoint.Around(labelOf(path, data), func() error { return d.disk.put(path, data) })
}

func (d faultyDisk) add(f *os.File, data []byte) error {
	return faultpoint.Around("charge", func() error { return d.disk.add(f, data) })
}

func (d faultyDisk) remove(path string) error {
	return faultpoint.Around("forget "+labelOf(path, nil), func() error { return d.disk.remove(path) })
}
