package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/executor/device"
	"pipefill/executor/try"
)

func (p *program) tryCommand() *cli.Command {
	return command(&cli.Command{
		Name: "try", Usage: "run a main job and fill jobs on this machine, without Slurm, and report; root only",
		Description: "Main and fill commands are the shell's. The main job's program announces its bubbles, by an engine that pipefill hooks or by\n" +
			"its own calls. pipefilld runs as on a node, for as long as the main job does; fill jobs that wait then are not run.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "main", Usage: "the main job's `COMMAND`"},
			&cli.StringSliceFlag{Name: "fill", Usage: "a fill job's `COMMAND`; again for more"},
			&cli.StringSliceFlag{Name: "device", Usage: "`DEVICE` of a rank, in their order: gpu:UUID or cpu:CORES (default: every GPU, else every core)"},
			&cli.StringFlag{Name: "mode", Value: string(pipefill.ModeSignal), Usage: "of the fill jobs: signal, chunked or launch"},
			&cli.StringFlag{Name: "profile", Usage: "the fill jobs' fill profile (`FILE`): they follow its plan; with --mode chunked"},
			&cli.StringFlag{Name: "options", Usage: "`OPTIONS` of the main job, those of sbatch"},
			&cli.StringSliceFlag{Name: "set", Usage: "a line of pipefilld.yaml, as guard_ms=0 (`KEY=VALUE`)"},
			&cli.StringFlag{Name: "user", Usage: "run the commands as `USER` (default: who called sudo, else root)"},
			&cli.DurationFlag{Name: "limit", Usage: "tell the main job to end after `DURATION`"},
			&cli.IntFlag{Name: "alone", Usage: "run each completed fill job `N` times alone afterwards, for the useful share"},
			&cli.StringFlag{Name: "dir", Usage: "new or empty `FOLDER` for sockets, traces and the fill jobs' output (default: one in the temporary folder)"},
			&cli.BoolFlag{Name: "no-hooks", Usage: "hook no engine"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
		},
		Action: func(c *cli.Context) error {
			cfg, err := p.tryConfig(c)
			if err != nil {
				return err
			}
			result, err := try.Run(c.Context, cfg)
			if result.MainExit != 0 {
				err = errors.Join(pipefill.Errorf(pipefill.CodeInternal, "try: the main job ended with exit status %d: see what it printed above", result.MainExit), err)
			}
			if len(result.Fills) == 0 {
				return err
			}
			return errors.Join(p.printTry(c, result, cfg.Dir), err)
		},
	})
}

// tryConfig checks a command line.
func (p *program) tryConfig(c *cli.Context) (try.Config, error) {
	cfg := try.Config{
		Main: c.String("main"), Fills: c.StringSlice("fill"), Mode: pipefill.Mode(c.String("mode")), Options: c.String("options"),
		Limit: c.Duration("limit"), Alone: c.Int("alone"), Environ: os.Environ(), Stdout: p.env.Stderr, Stderr: p.env.Stderr, Now: p.env.Now,
		Say: func(format string, args ...any) { _, _ = fmt.Fprintf(p.env.Stderr, "pipefill: "+format+"\n", args...) },
	}
	switch {
	case c.NArg() > 0:
		return cfg, usage("try: takes no argument, not %q: quote the commands: --main \"python3 train.py\"", c.Args().First())
	case strings.TrimSpace(cfg.Main) == "":
		return cfg, usage("try: write the main job's command: --main COMMAND")
	case len(cfg.Fills) == 0:
		return cfg, usage("try: write at least one fill job's command: --fill COMMAND")
	case slices.ContainsFunc(cfg.Fills, func(f string) bool { return strings.TrimSpace(f) == "" }):
		return cfg, usage("try: --fill: a command is empty")
	case !slices.Contains(pipefill.Modes, cfg.Mode):
		return cfg, usage("try: --mode %q: write signal, chunked or launch", cfg.Mode)
	case strings.ContainsAny(cfg.Options, "\n\x00"):
		return cfg, usage("try: --options: write them on one line")
	case cfg.Alone < 0 || cfg.Limit < 0:
		return cfg, usage("try: --alone and --limit: write 0 or more")
	}
	var err error
	if path := c.String("profile"); path != "" {
		if cfg.Mode != pipefill.ModeChunked {
			return cfg, usage("try: --profile: only chunked fill jobs follow a plan: write --mode chunked")
		}
		profile, err := readFile(path, plan.DecodeProfile)
		if err != nil {
			return cfg, err
		}
		cfg.Profile = &profile
	}
	if cfg.Lines, err = tryLines(c.StringSlice("set")); err != nil {
		return cfg, err
	}
	if cfg.Devices, err = tryDevices(c.StringSlice("device"), cfg.Mode); err != nil {
		return cfg, err
	}
	if os.Geteuid() != 0 {
		return cfg, pipefill.Errorf(pipefill.CodeDenied, "try: only root may stop and continue programs by their group: sudo pipefill-cli try ...")
	}
	if cfg.User, err = tryUser(c.String("user"), p.env.Getenv("SUDO_USER")); err != nil {
		return cfg, err
	}
	if err := p.tryParts(c, &cfg); err != nil {
		return cfg, err
	}
	cfg.Dir, err = tryDir(c.String("dir"))
	return cfg, err
}

// tryLines makes lines of YAML of KEY=VALUE; pipefilld checks them. What the
// command sets itself is not for --set.
func tryLines(settings []string) ([]string, error) {
	var lines []string
	for _, s := range settings {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" || value == "" || strings.ContainsAny(s, "\n\x00") {
			return nil, usage("try: --set %q: write KEY=VALUE, as guard_ms=0", s)
		}
		if slices.Contains([]string{"node", "cluster", "run_dir", "state_dir", "controller", "trace_dir", "devices"}, key) {
			return nil, usage("try: --set %q: %s is set by try itself", s, key)
		}
		lines = append(lines, key+": "+value)
	}
	return lines, nil
}

func tryDevices(names []string, mode pipefill.Mode) ([]pipefill.DeviceID, error) {
	var ids []pipefill.DeviceID
	for _, name := range names {
		ids = append(ids, pipefill.DeviceID(name))
	}
	if len(ids) == 0 {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			return nil, fmt.Errorf("list cores: %w", err)
		}
		var cores []int
		for core := range pipefill.MaxCore {
			if set.IsSet(core) {
				cores = append(cores, core)
			}
		}
		ids = device.Here(cores)
	}
	for _, id := range ids {
		if err := id.Validate(); err != nil {
			return nil, usage("try: --device: %w", err)
		}
		if no := mode.Obstacle(id, true); no != "" {
			return nil, usage("try: --device %s: %s: write another --mode", id, no)
		}
	}
	return ids, nil
}

// tryUser finds whom the commands run as.
func tryUser(name, sudo string) (try.User, error) {
	if name == "" {
		name = sudo
	}
	if name == "" {
		name = "root"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return try.User{}, pipefill.Errorf(pipefill.CodeNotFound, "try: there is no user %q here: write another --user: %w", name, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return try.User{}, fmt.Errorf("list groups of %s: %w", name, err)
	}
	out := try.User{Name: name}
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return try.User{}, fmt.Errorf("read user %s: %w", name, err)
		}
		out.Groups = append(out.Groups, uint32(id))
	}
	out.UID, out.GID, out.Groups = out.Groups[0], out.Groups[1], out.Groups[2:]
	return out, nil
}

// launchLibrary is what mode launch preloads.
const launchLibrary = "libpipefill_launch.so"

// tryParts finds pipefilld and what jobs load, beside this program: in the
// build folder of a tree, or below the prefix it is installed in.
func (p *program) tryParts(c *cli.Context, cfg *try.Config) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	here := filepath.Dir(self)
	if cfg.Daemon = firstOf(filepath.Join(here, "pipefilld"), filepath.Join(here, "../sbin/pipefilld")); cfg.Daemon == "" {
		if cfg.Daemon, err = p.env.LookPath("pipefilld"); err != nil {
			return pipefill.Errorf(pipefill.CodeNotFound, "try: pipefilld is neither beside %s nor in PATH: install it", self)
		}
	}
	if library := firstOf(filepath.Join(here, "libpipefill.so")); library != "" && p.env.Getenv("PIPEFILL_LIBRARY") == "" {
		cfg.Environ = append(cfg.Environ, "PIPEFILL_LIBRARY="+library)
	}
	if cfg.Mode == pipefill.ModeLaunch {
		library := firstOf(filepath.Join(here, launchLibrary), filepath.Join(here, "../lib*", launchLibrary), filepath.Join(here, "../lib*/*", launchLibrary))
		if library == "" {
			return pipefill.Errorf(pipefill.CodeNotFound, "try: %s is neither beside %s nor in its prefix: install it", launchLibrary, self)
		}
		cfg.Lines = append(cfg.Lines, "launch_library: "+library)
	}
	if !c.Bool("no-hooks") {
		cfg.Python = firstOf(filepath.Join(here, "../engine/pipefill/site"), filepath.Join(here, "../lib/python3*/dist-packages/pipefill/site"),
			filepath.Join(here, "../lib*/python3*/site-packages/pipefill/site"))
	}
	return nil
}

// firstOf is the first path that is there, of patterns; "" if none is.
func firstOf(patterns ...string) string {
	for _, pattern := range patterns {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// tryDir makes the run's folder.
func tryDir(path string) (string, error) {
	if path == "" {
		dir, err := os.MkdirTemp("", "pipefill-try-")
		if err != nil {
			return "", fmt.Errorf("make folder: %w", err)
		}
		return dir, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find folder: %w", err)
	}
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // entered by the jobs' user
		return "", pipefill.Errorf(pipefill.CodeInvalid, "try: --dir: %w", err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 {
		return "", usage("try: --dir %s: write a new or empty folder", path)
	}
	return path, nil
}

var tryColumns = []column[try.Fill]{
	{"JOBID", true, func(f try.Fill) string { return strconv.FormatInt(f.Job, 10) }},
	{"DEVICE", false, func(f try.Fill) string { return orNone(string(f.Device)) }},
	{"STATE", false, func(f try.Fill) string { return strings.ToUpper(f.State) }},
	{"DEVICETIME", true, func(f try.Fill) string { return fmt.Sprintf("%.2f s", float64(f.DeviceNs)/1e9) }},
	{"CPUTIME", true, func(f try.Fill) string { return fmt.Sprintf("%.2f s", float64(f.CPUNs)/1e9) }},
	{"COMMAND", false, func(f try.Fill) string { return f.Command }},
	{"REASON", false, func(f try.Fill) string { return f.Reason }},
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func (p *program) printTry(c *cli.Context, r try.Result, dir string) error {
	if c.Bool("json") {
		encoder := json.NewEncoder(p.env.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	if err := printRows(p.env.Stdout, c, r.Fills, tryColumns); err != nil {
		return err
	}
	if r.Main.Iterations > 0 {
		if _, err := fmt.Fprintln(p.env.Stdout); err != nil {
			return err
		}
		if err := r.WriteText(p.env.Stdout); err != nil {
			return err
		}
	}
	how := "waiting: by the ranks' own traces"
	if r.Announced {
		how = "waiting: as announced; what a program does not announce is not counted"
	}
	_, err := fmt.Fprintf(p.env.Stdout, "%s\nthe fill jobs' output, the traces and pipefilld's log are in %s\n", how, dir)
	return err
}
