//go:build slurm

package slurmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pipefill/controller/slurm"
)

// sacct reads fields of a job's records, steps too, newest attempt last.
func (c *cluster) sacct(t *testing.T, id int64, fields string, options ...string) [][]string {
	t.Helper()
	args := append([]string{"sacct", "-n", "-P", "-j", strconv.FormatInt(id, 10), "-o", fields}, options...)
	var rows [][]string
	for line := range strings.Lines(c.must(t, "root", args...)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "|"))
	}
	return rows
}

// TestAccounting has Slurm's own accounting, slurmdbd on MariaDB, beside ours:
// what a fill job is in it, and where it says that it ran.
func TestAccounting(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld", "pipefill-cli")
	for _, program := range []string{"slurmdbd", "mariadbd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("packaging/setup installs it: %v", err)
		}
	}
	c := newCluster(t, "--slurmdbd", "--ctld=job_comment: admin_comment")
	main := c.trainer(t, 100000, generous)
	c.awaitJob(t, main, "to run", slurm.Job.Running)
	out := c.output(t, "fill")
	enough := filepath.Join(c.dir, "lib", "enough")
	script := "echo begun; until [ -e " + enough + " ]; do :; done; " + busy(2000)
	fill := c.sbatch(t, "pf_ann", script, "-p", "pipefill", "--mem=100", "--comment=hers", "-o", out, "--open-mode=append")
	await(t, "the fill job to begin", func() bool { return strings.Contains(c.read(t, out), "begun") })

	t.Run("a running job says where", func(t *testing.T) {
		want := fmt.Sprintf("ran=%s/cpu:", c.job(t, fill).Nodes)
		await(t, "the comment of the running job", func() bool {
			j := c.job(t, fill)
			return strings.Contains(j.AdminComment, want) && strings.Contains(j.AdminComment, fmt.Sprintf("beside:%d", main)) && j.Comment == "hers"
		})
	})
	// One attempt is sent back; the next completes.
	c.must(t, "root", "scontrol", "requeuehold", fmt.Sprint(fill))
	if err := os.WriteFile(enough, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	j := c.awaitJob(t, fill, "to end", slurm.Job.Ended)
	if j.State != "COMPLETED" || j.Restarts != 1 {
		t.Fatalf("%+v", j)
	}

	t.Run("sacct has every attempt, its time and its CPU time", func(t *testing.T) {
		var rows [][]string
		await(t, "both attempts in sacct", func() bool {
			rows = c.sacct(t, fill, "JobIDRaw,State,ElapsedRaw,CPUTimeRAW,User,Partition,NodeList,AllocTRES", "-D", "-X")
			return len(rows) == 2 && rows[1][1] == "COMPLETED"
		})
		for i, state := range []string{"REQUEUED", "COMPLETED"} {
			r := rows[i]
			if r[0] != fmt.Sprint(fill) || r[1] != state || r[4] != "pf_ann" || r[5] != "pipefill" || r[6] == "" {
				t.Errorf("attempt %d: %v", i, r)
			}
			if elapsed, err := strconv.Atoi(r[2]); err != nil || elapsed < 1 || elapsed > 120 {
				t.Errorf("attempt %d: elapsed %q", i, r[2])
			}
			// The shipped partition bills nothing for waiting.
			if !strings.Contains(r[7], "billing=0") && strings.Contains(r[7], "billing=") {
				t.Errorf("attempt %d is billed: %s", i, r[7])
			}
		}
		elapsed, err := strconv.Atoi(rows[1][2])
		if took := (j.EndMs - j.StartMs) / 1000; err != nil || int64(elapsed) != took {
			t.Errorf("elapsed %s, slurmrestd says %d s", rows[1][2], took)
		}
		var steps [][]string
		await(t, "the batch step's CPU time", func() bool {
			steps = c.sacct(t, fill, "JobID,State,TotalCPU,ExitCode")
			return len(steps) == 2
		})
		cpu, err := parseCPU(steps[1][2])
		charged := time.Duration(c.charged(t, fill).CPUNs)
		if err != nil || steps[1][1] != "COMPLETED" || steps[1][3] != "0:0" || cpu < 20*time.Millisecond || cpu > charged+time.Second {
			t.Errorf("steps %v: %s, %v; our ledger has %s of both attempts", steps, cpu, err, charged)
		}
	})

	t.Run("sacct says where and how it ran, and the user's comment is left alone", func(t *testing.T) {
		var row []string
		await(t, "the administrator's comment in sacct", func() bool {
			row = c.sacct(t, fill, "Comment,AdminComment", "-X")[0]
			return strings.Contains(row[1], ",completed")
		})
		if row[0] != "hers" || !strings.Contains(row[1], "/cpu:") || !strings.Contains(row[1], ",used:") {
			t.Errorf("%q", row)
		}
	})

	t.Run("the shipped recipe", func(t *testing.T) {
		recipe := c.must(t, "root", repository(t)+"/packaging/sacct/pipefill-sacct", "-S", "now-1hour")
		if !strings.Contains(recipe, fmt.Sprint(fill)) || !strings.Contains(recipe, "completed") {
			t.Errorf("%s", recipe)
		}
	})
}

// parseCPU reads sacct's [DD-[HH:]]MM:SS.mmm.
func parseCPU(text string) (time.Duration, error) {
	var hours, minutes int
	var seconds float64
	if strings.Count(text, ":") == 2 {
		_, err := fmt.Sscanf(text, "%d:%d:%g", &hours, &minutes, &seconds)
		return time.Duration((float64(hours*3600+minutes*60) + seconds) * 1e9), err
	}
	_, err := fmt.Sscanf(text, "%d:%g", &minutes, &seconds)
	return time.Duration((float64(minutes*60) + seconds) * 1e9), err
}
