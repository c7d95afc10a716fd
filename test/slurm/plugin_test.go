//go:build slurm

package slurmtest

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pipefill/controller/slurm"
)

// TestPlugin meets main jobs with daemons that are absent, hang or lie: the job
// ends as it does without the plugin, and no node is taken out of service.
func TestPlugin(t *testing.T) {
	needBuilt(t, "spank_pipefill.so")
	c := newCluster(t, "--no-daemons")

	run := func(t *testing.T, name string, options ...string) string {
		t.Helper()
		return c.runWhole(t, name, options...)
	}
	plain := run(t, "plain")
	if plain != wholeJob {
		t.Fatalf("without --pipefill the job ends as %s", plain)
	}

	socket := c.dir + "/run/n0/attach.sock"
	says := func(text string) func(net.Conn) error {
		return func(conn net.Conn) error {
			_, err := conn.Write([]byte(text))
			return err
		}
	}
	for name, reply := range map[string]func(net.Conn) error{
		"silent":                     nil,
		"shutting the door":          func(net.Conn) error { return nil },
		"answering garbage":          says("\x00\xff=\n\n==\xfe" + strings.Repeat("x", 4000)),
		"answering too much":         says("ok\ndir=" + strings.Repeat("/x", 8000) + "\ndevices=\n"),
		"answering ok to everything": says("ok\n"),
		"answering with an error":    says("error\nmessage=%s%n%s%n\n"),
	} {
		t.Run("daemon "+name, func(t *testing.T) {
			asked := answer(t, socket, reply)
			if got := run(t, "hooked", "--pipefill"); got != plain {
				t.Errorf("the main job ends as %s, without --pipefill as %s", got, plain)
			}
			if asked.Load() == 0 {
				t.Error("the plugin asked nobody")
			}
			if got := run(t, "other"); got != plain {
				t.Errorf("a job without --pipefill ends as %s, before as %s", got, plain)
			}
			c.noneDrained(t)
		})
	}
	t.Run("daemon hanging in accept", func(t *testing.T) {
		l := listen(t, socket) // the kernel takes connections, up to the backlog
		defer func() { _ = l.Close() }()
		for _, options := range [][]string{{"--pipefill"}, nil} {
			if got := run(t, "hooked", options...); got != plain {
				t.Errorf("with %q a job ends as %s, before as %s", options, got, plain)
			}
		}
		c.noneDrained(t)
	})
	t.Run("daemon absent", func(t *testing.T) {
		if got := run(t, "hooked", "--pipefill"); got != plain {
			t.Errorf("the main job ends as %s, without --pipefill as %s", got, plain)
		}
		c.noneDrained(t)
	})
	t.Run("socket that is a file", func(t *testing.T) {
		if err := os.WriteFile(socket, []byte("ok\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := run(t, "hooked", "--pipefill"); got != plain {
			t.Errorf("the main job ends as %s, without --pipefill as %s", got, plain)
		}
		c.noneDrained(t)
	})
}

// TestOptions gives sbatch, srun and salloc mistaken values of --pipefill.
func TestOptions(t *testing.T) {
	needBuilt(t, "spank_pipefill.so")
	c := newCluster(t, "--no-daemons")
	queued := func() string { return c.must(t, "root", "squeue", "-h", "-o", "%i") }

	commands := map[string]string{
		"sbatch": "sbatch -p main %s --wrap true", "srun": "srun -p main -N1 -n1 %s true", "salloc": "salloc -p main -N1 %s true",
	}
	for name, command := range commands {
		for value, says := range map[string][]string{
			"bugdet=1%":       {`unknown key "bugdet"; valid keys:`, "budget=1%", "reserve=", "share=", "allow=", "off", "fill", "mem=", "profile=", "deadline=", "mode="},
			"budget=99%":      {"budget=99%: write per cent above 0% and up to 20%"},
			"budget=1%,":      {"empty key"},
			"fill,budget=1%":  {"a job is one of the two"},
			"fill,mode=smart": {"mode=signal, mode=chunked or mode=launch"},
		} {
			t.Run(name+" refuses "+value, func(t *testing.T) {
				out, err := c.as(t, "pf_train", strings.Fields(fmt.Sprintf(command, "--pipefill="+value))...)
				if err == nil {
					t.Errorf("it was taken: %s", out)
				}
				for _, words := range says {
					if !strings.Contains(out, words) {
						t.Errorf("%q is not said: %s", words, out)
					}
				}
				if q := queued(); q != "" {
					t.Errorf("queued: %s", q)
				}
			})
		}
		t.Run(name+" takes a good value", func(t *testing.T) {
			out, err := c.as(t, "pf_train", strings.Fields(fmt.Sprintf(command, "--pipefill=budget=2%,allow=user:pf_ann"))...)
			if err != nil || strings.Contains(out, "pipefill") {
				t.Errorf("%v: %s", err, out)
			}
			await(t, "the queue to be empty", func() bool { return queued() == "" })
		})
		// Slurm minds no return code where the variable is read: the user is told.
		t.Run(name+" goes without a mistaken variable", func(t *testing.T) {
			variable := map[string]string{"sbatch": "SBATCH", "srun": "SLURM", "salloc": "SALLOC"}[name] + "_PIPEFILL"
			out, err := c.as(t, "pf_train", append([]string{"env", variable + "=bugdet=1%"}, strings.Fields(fmt.Sprintf(command, ""))...)...)
			if err != nil || !strings.Contains(out, variable+`: `) || !strings.Contains(out, `unknown key "bugdet"`) || !strings.Contains(out, "submitted without it") {
				t.Errorf("%v: %s", err, out)
			}
			await(t, "the queue to be empty", func() bool { return queued() == "" })
		})
	}
}

// wholeJob is how the job of runWhole ends.
const wholeJob = `FAILED 5 0 ["batch\n" "rank 0\n" "srun 3\n"]`

// runWhole runs a job of two steps, the batch script's and srun's, on n0, and
// returns its state, exit code, signal and output in one line.
func (c *cluster) runWhole(t *testing.T, name string, options ...string) string {
	t.Helper()
	const script = "echo batch; srun sh -c 'echo rank $SLURM_PROCID; exit 3'; echo srun $?; exit 5"
	out := c.output(t, name)
	id := c.sbatch(t, "pf_train", script, append([]string{"-p", "main", "-N1", "-w", "n0", "-o", out}, options...)...)
	j := c.awaitJob(t, id, "to end", slurm.Job.Ended)
	var kept []string
	for line := range strings.Lines(c.read(t, out)) {
		if !strings.HasPrefix(line, "srun: error") { // names job and host
			kept = append(kept, line)
		}
	}
	return fmt.Sprintf("%s %d %d %q", j.State, j.ExitCode, j.Signal, kept)
}

// answer serves socket until the test ends: it takes each connection, reads a
// request and answers; a nil reply never does. It counts the requests.
func answer(t *testing.T, socket string, reply func(net.Conn) error) *atomic.Int64 {
	t.Helper()
	l := listen(t, socket)
	var asked atomic.Int64
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			// The plugin may have given up already: then there is nobody to answer.
			if n, err := conn.Read(make([]byte, 8192)); err == nil && n > 0 {
				asked.Add(1)
				if reply != nil {
					_ = reply(conn)
				}
			}
			if reply != nil {
				_ = conn.Close()
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		served.Wait()
	})
	return &asked
}

func listen(t *testing.T, socket string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
