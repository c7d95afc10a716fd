package executor

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"pipefill"
)

// peer is who is at the other end of gate.sock, by the kernel's word.
type peer struct {
	process process
	uid     uint32
	job     int64 // its Slurm job, 0: none
	fill    int64 // the assignment whose group of ours it is in, 0: none
}

// Slurm's groups: v1 "/slurm[_NODE]/uid_U/job_N/step_S/task_T", v2
// "/system.slice/[NODE_]slurmstepd.scope/job_N/step_S/...". Only these: a user
// may be given a subtree of other places (systemd's user.slice) to make
// folders with any name in.
var (
	slurmV1 = regexp.MustCompile(`^/slurm(?:_[A-Za-z0-9._-]+)?/uid_(\d+)/job_(\d+)(?:/|$)`)
	slurmV2 = regexp.MustCompile(`^/system\.slice/(?:[A-Za-z0-9._-]+_)?slurmstepd\.scope/job_(\d+)(?:/|$)`)
)

// jobPrefix leads the name of the group of a main job that no Slurm started
// (verb main with pid=), in the node's own folder, where only root makes groups.
const jobPrefix = "job_"

// parsePeer reads /proc/PID/cgroup of a process of uid. ours is the name of
// the node's folder of groups.
func parsePeer(cgroup, ours string, uid uint32) (job, fill int64, err error) {
	for line := range strings.Lines(cgroup) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var id string
		if parts[0] == "0" {
			if rest, ok := strings.CutPrefix(parts[2], "/"+ours+"/assignment_"); ok {
				if fill, err = strconv.ParseInt(rest, 10, 64); err != nil {
					return 0, 0, fmt.Errorf("read cgroup: %w", err)
				}
			}
			if m := slurmV2.FindStringSubmatch(parts[2]); m != nil {
				id = m[1]
			} else if rest, ok := strings.CutPrefix(parts[2], "/"+ours+"/"+jobPrefix); ok {
				id = rest
			}
		} else if m := slurmV1.FindStringSubmatch(parts[2]); m != nil && !strings.HasPrefix(parts[1], "name=") {
			if m[1] != strconv.FormatUint(uint64(uid), 10) {
				return 0, 0, pipefill.Errorf(pipefill.CodeDenied, "process of user %d in a Slurm group of user %s", uid, m[1])
			}
			id = m[2]
		}
		if id == "" {
			continue
		}
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil || job != 0 && job != n {
			return 0, 0, pipefill.Errorf(pipefill.CodeDenied, "process in groups of jobs %d and %s", job, id)
		}
		job = n
	}
	return job, fill, nil
}

// readPeer looks a process up by the number and user that SO_PEERCRED gave. A
// number may be another process by now; whoever it is must then be the same
// user's, so nothing is handed to a stranger.
func readPeer(pid int, uid uint32, ours string) (peer, error) {
	before, err := readProcess(pid)
	if err != nil {
		return peer{}, err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return peer{}, fmt.Errorf("read cgroup: %w", err)
	}
	job, fill, err := parsePeer(string(data), ours, uid)
	if err != nil {
		return peer{}, err
	}
	if !before.alive() {
		return peer{}, pipefill.Errorf(pipefill.CodeDenied, "the asking process has ended")
	}
	return peer{process: before, uid: uid, job: job, fill: fill}, nil
}

// jobsHere lists the jobs that have a process on this machine, and of each its
// users' processes that are in no fill job's group.
func jobsHere(ours string) (map[int64][]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	jobs := map[int64][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		if err != nil {
			continue // it ended meanwhile
		}
		found, gated := jobsOf(string(data), ours)
		for job := range found {
			stray := jobs[job]
			// slurmstepd is root's, and stays where Slurm finds it.
			if info, err := e.Info(); !gated && err == nil && !ownedByRoot(info) {
				stray = append(stray, pid)
			}
			jobs[job] = stray
		}
	}
	return jobs, nil
}

// jobsOf reads /proc/PID/cgroup: the jobs it names, and whether the process is
// in a fill job's group.
func jobsOf(cgroup, ours string) (jobs map[int64]bool, gated bool) {
	jobs = map[int64]bool{}
	for line := range strings.Lines(cgroup) {
		_, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		_, path, _ = strings.Cut(path, ":")
		id := ""
		if m := slurmV1.FindStringSubmatch(path); m != nil {
			id = m[2]
		} else if m := slurmV2.FindStringSubmatch(path); m != nil {
			id = m[1]
		} else if rest, ok := strings.CutPrefix(path, "/"+ours+"/"+jobPrefix); ok {
			id = rest
		}
		gated = gated || strings.HasPrefix(line, "0::/"+ours+"/assignment_")
		if n, err := strconv.ParseInt(id, 10, 64); err == nil {
			jobs[n] = true
		}
	}
	return jobs, gated
}

func ownedByRoot(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Uid == 0
}
