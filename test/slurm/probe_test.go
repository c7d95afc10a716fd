//go:build slurm

package slurmtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipefill/controller/slurm"
)

// TestProbe loads spank/tests/probe_plugin.c into Slurm's daemons: the plugin's
// hooks over a Slurm of which every call fails, and hooks that fail themselves.
func TestProbe(t *testing.T) {
	needBuilt(t, "tests/probe_plugin.so")
	c := newCluster(t, "--no-daemons", "--no-plugin")
	plain := c.runWhole(t, "plain")
	if plain != wholeJob {
		t.Fatalf("without a plugin the job ends as %s", plain)
	}
	want := []string{
		"exit.sbatch", "exit.srun", "exit.step", "init.sbatch", "init.slurmd", "init.srun", "init.step", "init_post_opt.sbatch",
		"init_post_opt.srun", "init_post_opt.step", "job_epilog.script", "task_exit.step", "task_init.step", "task_post_fork.step",
	}

	// Stricter than as it is installed: with required, Slurm minds what is returned.
	t.Run("every call to Slurm fails", func(t *testing.T) {
		for _, options := range [][]string{{"--pipefill"}, nil} {
			returned := c.probe(t, "required")
			if got := c.runWhole(t, "probed", options...); got != plain {
				t.Errorf("with %q the job ends as %s, without the plugin as %s", options, got, plain)
			}
			returned(t, want, "0")
		}
		c.noneDrained(t)
	})
	t.Run("every hook fails", func(t *testing.T) {
		for _, options := range [][]string{{"--pipefill"}, nil} {
			returned := c.probe(t, "optional", "fail=all")
			if got := c.runWhole(t, "probed", options...); got != plain {
				t.Errorf("with %q the job ends as %s, without the plugin as %s", options, got, plain)
			}
			returned(t, want, "-1")
		}
		c.noneDrained(t)
	})
	// What the two above hold off: it is last, for it takes the node away.
	t.Run("a required plugin whose hook fails drains the node", func(t *testing.T) {
		c.probe(t, "required", "fail=init_post_opt.step")
		id := c.sbatch(t, "pf_train", "true", "-p", "main", "-N1", "-w", "n0", "--no-requeue")
		c.awaitJob(t, id, "to end", slurm.Job.Ended)
		await(t, "n0 to be drained", func() bool {
			return strings.Contains(c.must(t, "root", "sinfo", "-h", "-n", "n0", "-p", "main", "-o", "%T"), "drain")
		})
	})
}

// probe makes the probe the cluster's plugin and returns a check of which hooks
// have run since, and of what they all returned.
func (c *cluster) probe(t *testing.T, how string, args ...string) func(t *testing.T, hooks []string, value string) {
	t.Helper()
	library, err := filepath.Abs("../../build/tests/probe_plugin.so")
	if err != nil {
		t.Fatal(err)
	}
	// Slurm takes a plugin only from where root alone may write.
	mine := filepath.Join(c.dir, "lib", "probe_plugin.so")
	c.must(t, "root", "install", "-m", "644", library, mine)
	dir, err := os.MkdirTemp(c.dir, "probe") //nolint:usetesting // others could not enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // steps write as the job's user too
		t.Fatal(err)
	}
	line := strings.Join(append([]string{how, mine, "run_dir=" + c.dir + "/run/%n", "probe=" + dir}, args...), " ") + "\n"
	if err := os.WriteFile(filepath.Join(c.dir, "etc", "plugstack.conf"), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	// slurmd hands its prolog's and epilog's part to a slurmstepd only if it found
	// a plugin when it started.
	c.script(t, "stop", "slurmd.n0")
	c.script(t, "start", "slurmd.n0")
	return func(t *testing.T, hooks []string, value string) {
		t.Helper()
		var ran []string
		read := func() {
			ran = nil
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range files {
				name := filepath.Base(path)
				name = name[:strings.LastIndex(name, ".")]
				if got := c.read(t, path); got != value {
					t.Errorf("%s returned %q, not %s", name, got, value)
				}
				ran = append(ran, name)
			}
			slices.Sort(ran)
			ran = slices.Compact(ran)
		}
		// The epilog may follow what scontrol calls the job's end.
		poll(func() bool { read(); return slices.Equal(ran, hooks) })
		if !slices.Equal(ran, hooks) {
			t.Errorf("hooks that ran: %q, want %q", ran, hooks)
		}
	}
}
