// Package cluster is a private Slurm cluster with pipefill on this host, for
// the demo, the bench and the tests against real Slurm. The script beside it,
// cluster, does the starting and stopping; this is its Go end.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pipefill/api"
	"pipefill/controller/slurm"
)

// The users that the cluster has.
const (
	Trainer = "pf_train"
	Ann     = "pf_ann"
	Bob     = "pf_bob"
)

// Cluster is one that has been started.
type Cluster struct {
	Dir    string // logs in Dir/log, traces in Dir/trace, each readable by every user
	Env    []string
	Slurm  *slurm.Client
	script string
}

// Up starts a cluster in a new directory of its own. root is the tree's, and
// switches are those of `cluster up`.
func Up(ctx context.Context, root string, log *slog.Logger, switches ...string) (_ *Cluster, err error) {
	dir, err := os.MkdirTemp("", "pf") // short: socket paths lie below it
	if err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	c := &Cluster{Dir: dir, script: filepath.Join(root, "test/cluster/cluster")}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	if _, err := c.run(ctx, append(append([]string{"up"}, switches...), dir)...); err != nil {
		return nil, err
	}
	lines, err := c.run(ctx, "env", dir)
	if err == nil {
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C"}
		for line := range strings.Lines(lines) {
			c.Env = append(c.Env, strings.TrimPrefix(strings.TrimSpace(line), "export "))
		}
		c.Slurm, err = slurm.New(slurm.Config{
			Endpoint: "unix:" + dir + "/rest/slurmrestd.sock", TokenFile: dir + "/etc/root.jwt", SlurmConf: dir + "/etc/slurm.conf",
		}, log)
	}
	if err != nil {
		_, down := c.run(context.WithoutCancel(ctx), "down", dir)
		return nil, errors.Join(err, down)
	}
	return c, nil
}

// Down ends everything, also where ctx of Up is over, and removes the directory.
func (c *Cluster) Down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := c.run(ctx, "down", c.Dir); err != nil {
		return err
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return fmt.Errorf("remove cluster: %w", err)
	}
	return nil
}

// Start and Stop are for single daemons by name, as pipefilld.n0.
func (c *Cluster) Start(ctx context.Context, names ...string) error {
	_, err := c.run(ctx, append([]string{"start", c.Dir}, names...)...)
	return err
}

// Stop ends daemons.
func (c *Cluster) Stop(ctx context.Context, names ...string) error {
	_, err := c.run(ctx, append([]string{"stop", c.Dir}, names...)...)
	return err
}

func (c *Cluster) run(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.script, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cluster %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// As runs a command as a user and returns what it wrote, stdout and stderr
// together.
func (c *Cluster) As(ctx context.Context, name string, args ...string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", fmt.Errorf("run as %s: %w", name, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return "", fmt.Errorf("run as %s: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = "/tmp", c.Env
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

var submitted = regexp.MustCompile(`Submitted batch job (\d+)`)

// Submit is sbatch with a script's text; it returns the job's number.
func (c *Cluster) Submit(ctx context.Context, name, script string, options ...string) (int64, error) {
	out, err := c.As(ctx, name, append(append([]string{"sbatch", "--output=/dev/null"}, options...), "--wrap", script)...)
	if err != nil {
		return 0, err
	}
	m := submitted.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("sbatch said %q", out)
	}
	id, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("sbatch said %q: %w", out, err)
	}
	return id, nil
}

// Controller is the client that pipefill-cli uses, as root.
func (c *Cluster) Controller() (*api.Client, error) {
	return api.NewClient("unix:"+c.Dir+"/run/pipefillctld.sock", nil)
}

// CopyIn puts files where every user's jobs can read them, below Dir/lib, and
// returns that folder. A folder among them is copied with what is in it.
func (c *Cluster) CopyIn(paths ...string) (string, error) {
	lib := filepath.Join(c.Dir, "lib")
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("copy into cluster: %w", err)
		}
		to := filepath.Join(lib, filepath.Base(path))
		if info.IsDir() {
			err = os.CopyFS(to, os.DirFS(path))
		} else {
			err = copyFile(to, path)
		}
		if err != nil {
			return "", fmt.Errorf("copy into cluster: %w", err)
		}
	}
	return lib, nil
}

func copyFile(to, from string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// Folder makes a folder below Dir that every user's jobs may write into.
func (c *Cluster) Folder(name string) (string, error) {
	dir := filepath.Join(c.Dir, name)
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, os.ModeSticky|0o777)
	}
	if err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	return dir, nil
}
