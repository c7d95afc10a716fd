package executor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pipefill"
	"pipefill/api"
)

// process names one process for as long as the machine is up: a number alone
// may be reused.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, of /proc/PID/stat
	Boot  string `json:"boot"`
}

// inode names a memfd, so that a page found in another process is known to be
// the one that was made here.
type inode struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// mainRecord is a main job as it stands on disk, one file each.
type mainRecord struct {
	Job       pipefill.JobKey  `json:"job"`
	UID       uint32           `json:"uid"`
	Options   string           `json:"options"`
	StartedMs int64            `json:"started_ms"`
	Steps     []string         `json:"steps"`
	Devices   []mainPageRecord `json:"devices"`
	Seed      uint64           `json:"seed"`
}

// mainPageRecord is one device of a main job.
type mainPageRecord struct {
	Device   pipefill.DeviceID `json:"device"`
	Main     inode             `json:"main"`
	Control  inode             `json:"control"`
	Openers  []process         `json:"openers"`            // who may hold the pages mapped
	Disabled string            `json:"disabled,omitempty"` // why the governor turned filling off

	HighBytes int64 `json:"high_bytes,omitempty"` // the most that its processes have held of a GPU's memory
}

// fillRecord is an assignment as it stands on disk, one file each.
type fillRecord struct {
	Assignment pipefill.Assignment `json:"assignment"`
	Steps      []string            `json:"steps"`
	AttachedMs int64               `json:"attached_ms,omitempty"`
	ChargedMs  int64               `json:"charged_ms,omitempty"`
	EndedMs    int64               `json:"ended_ms,omitempty"`
	ExitCode   int                 `json:"exit_code,omitempty"`
	Supervisor process             `json:"supervisor"`
	Fill       inode               `json:"fill"`
	Stopping   pipefill.Outcome    `json:"stopping,omitempty"` // being ended by us, as this
	Move       *api.PlanMove       `json:"move,omitempty"`     // that its plan counts on
}

// nodeRecord is what the node knows besides.
type nodeRecord struct {
	OrdersSeen int64    `json:"orders_seen"`
	Partitions []string `json:"partitions"`
}

// state is the folder of records. Each change is on disk before it is acted on.
type state struct {
	dir   string
	store storage
}

func (s state) fillPath(id int64) string {
	return filepath.Join(s.dir, fmt.Sprintf("assignment-%d.json", id))
}

func (s state) mainPath(job pipefill.JobKey) string {
	return filepath.Join(s.dir, fmt.Sprintf("main-%d-%d.json", job.JobID, job.Restarts))
}

func (s state) nodePath() string { return filepath.Join(s.dir, "node.json") }

func write(path string, v any, replace func(path string, data []byte) error) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return replace(path, append(data, '\n'))
}

func (s state) saveFill(r fillRecord) error {
	return write(s.fillPath(r.Assignment.ID), r, s.store.replace)
}
func (s state) saveNode(r nodeRecord) error { return write(s.nodePath(), r, s.store.replace) }

// saveMain waits for no disk, and so makes no main job wait for one: its record
// is of no use to a machine that has started again.
func (s state) saveMain(r mainRecord) error { return write(s.mainPath(r.Job), r, s.store.put) }

func (s state) dropFill(id int64) error            { return s.store.remove(s.fillPath(id)) }
func (s state) dropMain(job pipefill.JobKey) error { return s.store.remove(s.mainPath(job)) }

// load reads every record. A record that cannot be read is reported and left
// where it is for a person to look at; the others still count.
func (s state) load() (mains []mainRecord, fills []fillRecord, node nodeRecord, faults []string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, node, []string{fmt.Sprintf("read state: %v", err)}
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		var err error
		switch {
		case strings.HasPrefix(e.Name(), ".new-"):
			err = s.store.remove(path) // a write that did not get to its rename
		case strings.HasPrefix(e.Name(), "assignment-"):
			var r fillRecord
			if err = readRecord(path, &r); err == nil {
				fills = append(fills, r)
			}
		case strings.HasPrefix(e.Name(), "main-"):
			var r mainRecord
			if err = readRecord(path, &r); errors.Is(err, io.EOF) {
				err = s.store.remove(path) // the machine went down before it was on disk
			} else if err == nil {
				mains = append(mains, r)
			}
		case e.Name() == "node.json":
			err = readRecord(path, &node)
		}
		if err != nil {
			faults = append(faults, fmt.Sprintf("state record left alone: %v", err))
		}
	}
	return mains, fills, node, faults
}

func readRecord(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	if len(data) == 0 {
		return fmt.Errorf("read record %s: empty: %w", path, io.EOF)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read record %s: %w", path, err)
	}
	return nil
}

// alive tells whether p is still the process it was.
func (p process) alive() bool {
	if p.Pid <= 0 {
		return false
	}
	now, err := readProcess(p.Pid)
	return err == nil && now == p
}

// readProcess names the process that has number pid now.
func readProcess(pid int) (process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	// The name, in brackets, may hold anything, brackets included.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	// Field 22 of the line; the first after the name is field 3.
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return process{}, fmt.Errorf("read process %d: %w", pid, fs.ErrNotExist)
	}
	var start uint64
	if _, err := fmt.Sscan(fields[19], &start); err != nil {
		return process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return process{Pid: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}
