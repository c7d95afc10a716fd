//go:build install

package install

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// background runs a program until the test ends, with its output in dir/NAME.log.
func background(t *testing.T, dir, name string, env []string, program string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // killed: its status says nothing
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s: %s", name, text)
		}
		_ = log.Close()
	})
}

// await polls until done says nil.
func await(t *testing.T, what string, done func() error) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for limit := time.Now().Add(20 * time.Second); ; <-ticker.C {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: not within 20 s: %v", what, err)
		}
	}
}

// freePort is a TCP port that nobody has now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// startMunge starts a munged of the test's own and returns its socket.
func startMunge(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key := make([]byte, 1024)
	_, _ = rand.Read(key) // never fails
	if err := os.WriteFile(filepath.Join(dir, "key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	background(t, dir, "munged", nil, "munged", "--foreground", "--force", "--socket="+socket, "--key-file="+dir+"/key",
		"--pid-file="+dir+"/pid", "--seed-file="+dir+"/seed", "--log-file="+dir+"/munged.own.log", "--num-threads=2")
	await(t, "munged", func() error { _, err := os.Stat(socket); return err })
	return socket
}

// The two daemons as a site has them, on different hosts: the node signs what it sends with munge, and a command line
// elsewhere asks the same way.
func TestDaemons_TalkOverTCP(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: node daemons run as root")
	}
	dir, munge, address := t.TempDir(), startMunge(t), freePort(t)
	script(t, "install", "DESTDIR=", "prefix="+dir, "sysconfdir="+dir+"/etc", "pythondir="+dir+"/python")
	configs := map[string]string{
		"pipefillctld.yaml": "cluster: c1\nslurmrestd: unix:%[1]s/none.sock\njwt_token_file: %[1]s/none.jwt\nlisten: %[2]s\nsocket: %[1]s/ctl.sock\n" +
			"state_dir: %[1]s/ctl\nmunge_socket: %[3]s\nnode_lost_s: 5\npartitions: [spare]\n",
		"pipefilld.yaml": "node: n1\ncluster: c1\ncontroller: http://%[2]s\ndevices: [{device: \"cpu:0\"}]\nrun_dir: %[1]s/run\nstate_dir: %[1]s/node\n",
	}
	for name, text := range configs {
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, text, dir, address, munge), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	background(t, dir, "pipefillctld", nil, dir+"/sbin/pipefillctld", "--config", dir+"/pipefillctld.yaml")
	background(t, dir, "pipefilld", []string{"MUNGE_SOCKET=" + munge}, dir+"/sbin/pipefilld", "--config", dir+"/pipefilld.yaml")
	await(t, "the controller's orders at the node", func() error {
		text, err := os.ReadFile(filepath.Join(dir, "node/node.json"))
		if err == nil && !strings.Contains(string(text), `"spare"`) {
			err = fmt.Errorf("its record has no partition of the controller's: %s", text)
		}
		return err
	})
	ask := func(env ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), dir+"/bin/pipefill-cli", "--controller", "http://"+address, "slots", "--noheader")
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := ask("MUNGE_SOCKET=" + munge); err != nil || out != "" {
		t.Errorf("slots over TCP: %v: %q", err, out)
	}
	out, err := ask("MUNGE_SOCKET=" + dir + "/none")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 5 || !strings.Contains(out, "munge") {
		t.Errorf("slots without munge: %v: %q, want exit status 5", err, out)
	}
}
