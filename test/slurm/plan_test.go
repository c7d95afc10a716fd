//go:build slurm

package slurmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pipefill/controller/slurm"
)

// follows matches what planned.py prints while it follows a plan.
var follows = regexp.MustCompile(`pid (\d+) batch (\d+) plan (\d+) size (\d+)`)

// TestPlan takes a fill job's plan from the controller, through the node daemon,
// to the program, and another one when its bubbles change.
func TestPlan(t *testing.T) {
	needBuilt(t, "libpipefill.so", "spank_pipefill.so", "pipefilld", "pipefillctld", "pipefill-cli")
	c := newCluster(t)
	lib := filepath.Join(c.dir, "lib")
	if err := os.CopyFS(filepath.Join(lib, "pipefill"), os.DirFS("../../engine/pipefill")); err != nil {
		t.Fatal(err)
	}
	c.must(t, "root", "install", "-m", "755", repository(t)+"/test/slurm/testdata/planned.py", repository(t)+"/build/pipefill-cli", lib)
	main := c.trainer(t, 100000, generous)
	profile := filepath.Join(c.dir, "ann", "profile.json")
	c.must(t, "root", "install", "-d", "-m", "755", "-o", "pf_ann", filepath.Dir(profile))
	program := fmt.Sprintf("/usr/bin/python3 %s/planned.py %s", lib, lib)
	c.must(t, "pf_ann", append([]string{lib + "/pipefill-cli", "profile", "--batch-size", "2,4,8", "--repeats", "5", "--out", profile, "--"}, strings.Fields(program)...)...)

	out := c.output(t, "planned")
	script := filepath.Join(lib, "planned.sh")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nPIPEFILL_LIBRARY=%s/libpipefill.so exec %s\n", lib, program), 0o755); err != nil {
		t.Fatal(err)
	}
	said := c.must(t, "pf_ann", lib+"/pipefill-cli", "submit", "-o", out, "--pipefill=fill,mode=chunked,profile="+profile, script)
	m := submitted.FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("submit said %q", said)
	}
	plans := func() (all [][]string) { return follows.FindAllStringSubmatch(c.read(t, out), -1) }
	await(t, "the fill job to follow a plan", func() bool { return len(plans()) > 0 })
	first := plans()[0]
	if first[4] != "2" && first[4] != "4" && first[4] != "8" {
		t.Errorf("its passes have %s samples", first[4])
	}

	// The bubbles get longer by half: ten times what is left alone.
	c.must(t, "pf_train", "scancel", "--signal=USR1", fmt.Sprint(main))
	await(t, "another plan", func() bool { all := plans(); return all[len(all)-1][3] != first[3] })
	all := plans()
	if last := all[len(all)-1]; last[1] != first[1] || last[2] <= first[2] && len(last[2]) <= len(first[2]) {
		t.Errorf("process %s was at batch %s, then %s at %s: it lost its position", first[1], first[2], last[1], last[2])
	}
	if text := c.read(t, out); strings.Contains(text, "Warning") || strings.Contains(text, "came twice") {
		t.Error(text)
	}
	if !c.job(t, main).Running() {
		t.Error("the main job has ended")
	}
	var id int64
	if _, err := fmt.Sscan(m[1], &id); err != nil {
		t.Fatal(err)
	}
	if err := c.client.Cancel(t.Context(), id); err != nil {
		t.Error(err)
	}
	c.awaitJob(t, id, "to end", slurm.Job.Ended)
}
