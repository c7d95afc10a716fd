package cli

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"pipefill"
	ctl "pipefill/controller"
	"pipefill/controller/slurm"
	"pipefill/executor"
	"pipefill/munge"
)

// tokenSoon is when a token is about to expire: cron renews it long before.
const tokenSoon = 10 * time.Minute

// checkHost looks at this host: what only one host of a site has is left out on
// the others.
func (p *program) checkHost(c *cli.Context) []finding {
	out := append([]finding{p.checkMunge(c.String("controller"))}, checkNodeConfig(c.String("node-config"))...)
	path := c.String("config")
	text, err := os.ReadFile(path) //nolint:gosec // the caller names it
	if errors.Is(err, fs.ErrNotExist) {
		return out // not the controller's host
	}
	if err != nil {
		return append(out, finding{"pipefillctld.yaml", "warn", fmt.Sprintf("cannot be read: %v: ask as root on the controller's host", err)})
	}
	cfg, err := ctl.LoadConfig(path)
	if err != nil {
		return append(out, finding{"pipefillctld.yaml", "bad", strings.ReplaceAll(err.Error(), "\n", "; ")})
	}
	out = append(out, finding{"pipefillctld.yaml", "good", path})
	if !bytes.Contains(text, []byte("max_time_min")) {
		out = append(out, finding{"pipefillctld.yaml", "warn", fmt.Sprintf("max_time_min is not set, so %d: write MaxTime of the fill partition", cfg.MaxTimeMin)})
	}
	return append(out, p.checkToken(cfg.JWTTokenFile), p.checkDisk(cfg.StateDir))
}

// checkNodeConfig looks at pipefilld.yaml, where this is a node: mistakes in it,
// and what is for a while and easily forgotten.
func checkNodeConfig(path string) []finding {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil // no node
	}
	node, err := executor.CheckConfig(path)
	if errors.Is(err, fs.ErrPermission) {
		return []finding{{"pipefilld.yaml", "warn", fmt.Sprintf("cannot be read: %v: ask as root", err)}}
	}
	if err != nil {
		return []finding{{"pipefilld.yaml", "bad", strings.ReplaceAll(err.Error(), "\n", "; ")}}
	}
	out := []finding{{"pipefilld.yaml", "good", path}}
	if node.TraceDir != "" {
		out = append(out, finding{"pipefilld.yaml", "warn", fmt.Sprintf("trace_dir: %s: raw traces grow without bound; they are for measuring, and recording: is for timelines", node.TraceDir)})
	}
	if node.RecordingBytes > 0 {
		// A second of it is kept of a main job that has ended.
		most := 2 * int64(node.Devices) * node.RecordingBytes
		out = append(out, finding{"pipefilld.yaml", "good", fmt.Sprintf("recording: timelines take at most %s of pipefilld's memory on this node", size(most))})
	}
	return out
}

// checkMunge signs and reads a word: the daemon answers, and agrees with itself.
func (p *program) checkMunge(controller string) finding {
	m := munge.New(p.env.Getenv("MUNGE_SOCKET"))
	credential, err := m.Sign([]byte("doctor"))
	if err == nil {
		_, _, _, err = m.Verify(credential)
	}
	switch {
	case err == nil:
		return finding{"munge", "good", "signs and reads"}
	case strings.HasPrefix(controller, "unix:"):
		return finding{"munge", "warn", fmt.Sprintf("%v: nodes and command lines of other hosts are refused without it", err)}
	}
	return finding{"munge", "bad", fmt.Sprintf("%v: start munged, with the site's key", err)}
}

func (p *program) checkToken(path string) finding {
	until, err := slurm.TokenExpiry(path)
	now := p.env.Now()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return finding{"token", "warn", fmt.Sprintf("%v: ask as root or SlurmUser", err)}
	case err != nil:
		return finding{"token", "bad", err.Error()}
	case until.IsZero():
		return finding{"token", "warn", path + " never expires: who steals it keeps it; write one of an hour by cron: scontrol token lifespan=3600"}
	case !now.Before(until):
		return finding{"token", "bad", fmt.Sprintf("%s expired at %s: renew it by cron: scontrol token lifespan=3600", path, until.Format(time.RFC3339))}
	case until.Sub(now) < tokenSoon:
		return finding{"token", "warn", fmt.Sprintf("%s expires at %s: see that cron renews it", path, until.Format(time.RFC3339))}
	}
	return finding{"token", "good", fmt.Sprintf("%s, until %s", path, until.Format(time.RFC3339))}
}

// remote are file systems whose locks or syncs SQLite cannot rely on (statfs(2),
// and the headers of Lustre, Spectrum Scale and BeeGFS).
var remote = map[int64]string{
	unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", unix.SMB2_SUPER_MAGIC: "SMB", unix.CIFS_SUPER_MAGIC: "SMB", 0x0bd00bd0: "Lustre",
	0x47504653: "Spectrum Scale", 0x19830326: "BeeGFS", unix.CEPH_SUPER_MAGIC: "Ceph", unix.V9FS_MAGIC: "9P", unix.FUSE_SUPER_MAGIC: "FUSE",
	unix.AFS_SUPER_MAGIC: "AFS",
}

// freeLeast is what the queue's database and its log may come to need at once.
const freeLeast = 256 << 20

func (p *program) checkDisk(dir string) finding {
	kind, free, err := p.env.Statfs(dir)
	switch {
	case err != nil:
		return finding{"state_dir", "bad", fmt.Sprintf("%s: %v: make it, for pipefillctld's user alone", dir, err)}
	case remote[kind] != "":
		return finding{"state_dir", "bad", fmt.Sprintf("%s is on %s, where SQLite's locks do not hold and the queue breaks: put it on a local disk", dir, remote[kind])}
	case free < freeLeast:
		return finding{"state_dir", "bad", fmt.Sprintf("%s has %s left: free some, or the queue cannot be written", dir, size(max(1, free)))}
	}
	return finding{"state_dir", "good", dir}
}

// statfs is a folder's file system and the bytes that are free there.
func statfs(dir string) (kind, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return st.Type, int64(min(st.Bavail, 1<<40)) * st.Bsize, nil
}

// slurmVersion asks Slurm's own programs, "22.05.8": the daemons answer without a
// working slurm.conf, and are not on every host.
func slurmVersion(ctx context.Context, conf string) (string, error) {
	var errs []error
	for _, program := range []string{"slurmd", "slurmctld", "scontrol"} {
		cmd := exec.CommandContext(ctx, program, "-V") //nolint:gosec // one of three names
		cmd.Env = append(os.Environ(), "SLURM_CONF="+conf)
		out, err := cmd.Output()
		if fields := strings.Fields(string(out)); err == nil && len(fields) > 1 {
			return fields[1], nil
		}
		errs = append(errs, fmt.Errorf("%s -V: %w", program, err))
	}
	return "", errors.Join(errs...)
}

// checkPluginVersion compares the Slurm that the plugin was built with, which
// stands in its symbol plugin_version, with the one that is here: Slurm loads
// no plugin of another release.
func checkPluginVersion(path, version string) finding {
	built, err := pluginVersion(path)
	if err != nil {
		return finding{"plugin", "bad", fmt.Sprintf("%s: %v: build and install it anew", path, err)}
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return finding{"plugin", "warn", fmt.Sprintf("Slurm's version %q is not understood: %v", version, err)}
	}
	if built>>16 != major || built>>8&0xff != minor {
		return finding{"plugin", "bad", fmt.Sprintf("%s is built for Slurm %d.%02d, and this is %s, which does not load it: build it here, and again at each upgrade",
			path, built>>16, built>>8&0xff, version)}
	}
	return finding{"plugin", "good", "built for Slurm " + version}
}

func pluginVersion(path string) (uint32, error) {
	file, err := elf.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read plugin: %w", err)
	}
	defer func() { _ = file.Close() }()
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read plugin: %w", err)
	}
	for _, s := range symbols {
		if s.Name != "plugin_version" || int(s.Section) >= len(file.Sections) {
			continue
		}
		section := file.Sections[s.Section]
		var word [4]byte
		if s.Value < section.Addr || s.Value-section.Addr > section.Size {
			return 0, fmt.Errorf("read plugin: plugin_version is not in its section: %w", fs.ErrInvalid)
		}
		at := int64(s.Value - section.Addr) //nolint:gosec // within the section
		if _, err := section.ReadAt(word[:], at); err != nil {
			return 0, fmt.Errorf("read plugin: %w", err)
		}
		return binary.NativeEndian.Uint32(word[:]), nil
	}
	return 0, pipefill.Errorf(pipefill.CodeInvalid, "it is no plugin of Slurm's: it has no plugin_version")
}
