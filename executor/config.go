package executor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"pipefill"
	"pipefill/metrics"
)

// config is pipefilld.yaml.
type config struct {
	Node       string         `yaml:"node"`
	Cluster    string         `yaml:"cluster"`
	RunDir     string         `yaml:"run_dir"`
	StateDir   string         `yaml:"state_dir"`
	Controller string         `yaml:"controller"` // unix:/path or http://host:port
	Devices    []configDevice `yaml:"devices"`
	GuardMs    float64        `yaml:"guard_ms"`
	Share      float64        `yaml:"share"`
	MinMs      float64        `yaml:"min_ms"`
	FloorMs    float64        `yaml:"floor_ms"`
	Budget     string         `yaml:"budget"`
	FillSched  fillSched      `yaml:"fill_sched"`     // idle or normal
	LaunchLib  string         `yaml:"launch_library"` // libpipefill_launch.so for fill jobs of mode launch; "" lets none in
	MoveState  string         `yaml:"move_state"`     // off, or plan: state of main jobs leaves GPUs where a fill job's plan gains by it
	Control    string         `yaml:"control"`        // iterations withheld for comparison: a percentage, or auto
	Metrics    string         `yaml:"metrics"`        // IP:PORT for Prometheus; "" for none
	LogLevel   string         `yaml:"log_level"`
	TraceDir   string         `yaml:"trace_dir"` // docs/traces.md; "" writes none
	Recording  string         `yaml:"recording"` // for pipefill-cli trace: off, or memory for each device of a main job

	budget  float64
	control func(iteration uint64) uint32 // chance of a control iteration, in ppm
	level   slog.Level

	recording int64  // bytes, 0: off
	path      string // of the file
	groups    string // the folder of the fill jobs' groups
}

type configDevice struct {
	Device pipefill.DeviceID `yaml:"device"`
}

// defaultConfig is what a file may leave out. The guard is ten times what a
// stop takes on a busy virtual machine.
func defaultConfig() config {
	return config{
		RunDir: "/run/pipefill", StateDir: "/var/lib/pipefill", GuardMs: 5, Share: 0.9, MinMs: 4, FloorMs: 0, Budget: "1%",
		FillSched: schedIdle, MoveState: "off", Control: "auto", LogLevel: "info", Recording: "off",
	}
}

// loadConfig reads and checks a file; the error names every mistake in it.
func loadConfig(path string) (config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return config{}, pipefill.Errorf(pipefill.CodeInvalid, "configuration: %w", err)
	}
	c, err := parseConfig(filepath.Base(path), data)
	if err != nil {
		return config{}, err
	}
	c.path = path
	return c, nil
}

var yamlUnknown = regexp.MustCompile(`^line (\d+): field (.*) not found in type .*$`)

func parseConfig(name string, data []byte) (config, error) {
	c := defaultConfig()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		var typed *yaml.TypeError
		if !errors.As(err, &typed) {
			return c, pipefill.Errorf(pipefill.CodeInvalid, "%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		var all []error
		for _, e := range typed.Errors {
			if m := yamlUnknown.FindStringSubmatch(e); m != nil {
				e = fmt.Sprintf("line %s: unknown key %s", m[1], m[2])
			}
			all = append(all, fmt.Errorf("%s: %s", name, e))
		}
		return c, invalid(all)
	}
	var all []error
	for _, err := range c.check() {
		all = append(all, fmt.Errorf("%s: %w", name, err))
	}
	return c, invalid(all)
}

// invalid joins mistakes into one error, nil where there are none.
func invalid(mistakes []error) error {
	err := errors.Join(mistakes...)
	if err == nil {
		return nil
	}
	return &pipefill.Error{Code: pipefill.CodeInvalid, Message: err.Error(), Err: err}
}

// A node's or a cluster's name becomes the name of a group and of files.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// longestSocketPath is sun_path's 108 bytes less "/attach.sock" and the zero.
const longestSocketPath = 107 - len("/attach.sock")

// longestPreload is what the plugin has room for (export_fill in spank/remote.c).
const longestPreload = 255

func (c *config) check() []error {
	var all []error
	wrong := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if !nodeName.MatchString(c.Node) {
		wrong("node: %q: write the node's name in Slurm", c.Node)
	}
	if !nodeName.MatchString(c.Cluster) {
		wrong("cluster: %q: write ClusterName of slurm.conf", c.Cluster)
	}
	// Two clusters may have a node of one name on one machine, as in tests.
	c.groups = "pipefill_" + c.Cluster + "_" + c.Node
	if !filepath.IsAbs(c.RunDir) || len(c.RunDir) > longestSocketPath {
		wrong("run_dir: %q: write an absolute path of at most %d bytes, for the sockets in it", c.RunDir, longestSocketPath)
	}
	if !filepath.IsAbs(c.StateDir) {
		wrong("state_dir: %q: write an absolute path", c.StateDir)
	}
	if path, unix := strings.CutPrefix(c.Controller, "unix:"); unix && !filepath.IsAbs(path) || !unix && !strings.HasPrefix(c.Controller, "http://") {
		wrong("controller: %q: write unix:/absolute/path or http://host:port", c.Controller)
	}
	if len(c.Devices) == 0 {
		wrong("devices: none: name at least one, as cpu:0-3")
	}
	all = append(all, c.checkDevices()...)
	c.checkFilling(wrong)
	if err := metrics.CheckAddress(c.Metrics); err != nil {
		wrong("metrics: %w", err)
	}
	if err := c.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		wrong("log_level: %q: write debug, info, warn or error", c.LogLevel)
	}
	if c.LaunchLib != "" && (!filepath.IsAbs(c.LaunchLib) || len(c.LaunchLib) > longestPreload || strings.ContainsAny(c.LaunchLib, " :\n")) {
		wrong("launch_library: %q: write the absolute path of libpipefill_launch.so, at most %d characters without blank or colon, for LD_PRELOAD",
			c.LaunchLib, longestPreload)
	}
	if c.TraceDir != "" && !filepath.IsAbs(c.TraceDir) {
		wrong("trace_dir: %q: write an absolute path", c.TraceDir)
	}
	var err error
	if c.recording, err = parseRecording(c.Recording); err != nil {
		all = append(all, err)
	}
	return all
}

// checkFilling checks how much of a bubble is offered, and to what.
func (c *config) checkFilling(wrong func(format string, args ...any)) {
	if !(c.GuardMs >= 0 && c.GuardMs <= 1000) {
		wrong("guard_ms: %v: write 0 to 1000", c.GuardMs)
	}
	if !(c.Share > 0 && c.Share <= 2) {
		wrong("share: %v: write more than 0 and at most 2", c.Share)
	}
	if !(c.MinMs >= 0 && c.MinMs <= 60000) {
		wrong("min_ms: %v: write 0 to 60000", c.MinMs)
	}
	if !(c.FloorMs >= 0 && c.FloorMs <= 1000) {
		wrong("floor_ms: %v: write 0 to 1000", c.FloorMs)
	}
	if c.FloorMs > 0 && c.FillSched != schedIdle {
		wrong("floor_ms: %v: write 0 with fill_sched: %s; only an idle fill job gives way by itself", c.FloorMs, c.FillSched)
	}
	var err error
	if c.budget, err = parseShare(c.Budget); err != nil || c.budget <= 0 {
		wrong("budget: %q: write a percentage over 0, as 1%%", c.Budget)
	}
	if c.control = controlPpm; c.Control != "auto" {
		share, err := parseShare(c.Control)
		if err != nil || share > 0.9 {
			wrong("control: %q: write auto, or the percentage of iterations to withhold, at most 90%%", c.Control)
		}
		c.control = func(uint64) uint32 { return uint32(share * 1e6) }
	}
	if c.MoveState != moveOff && c.MoveState != movePlan {
		wrong("move_state: %q: write off, or plan to let state of main jobs leave GPUs where a plan gains by it", c.MoveState)
	}
	if c.FillSched != schedIdle && c.FillSched != schedNormal {
		wrong("fill_sched: %q: write idle or normal", c.FillSched)
	}
}

// checkDevices refuses a core or a GPU that two devices would share.
func (c *config) checkDevices() []error {
	var all []error
	owner := map[string]pipefill.DeviceID{}
	for _, d := range c.Devices {
		if err := d.Device.Validate(); err != nil {
			all = append(all, fmt.Errorf("devices: %w", err))
			continue
		}
		parts := []string{string(d.Device)}
		if cores, err := d.Device.Cores(); err == nil {
			parts = parts[:0]
			for _, core := range cores {
				parts = append(parts, "core "+strconv.Itoa(core))
			}
		}
		for _, part := range parts {
			if other, taken := owner[part]; taken {
				all = append(all, fmt.Errorf("devices: %s: %s is already %s's: name it once", d.Device, part, other))
				break
			}
			owner[part] = d.Device
		}
	}
	return all
}

// ids lists the configured devices.
func (c *config) ids() []pipefill.DeviceID {
	var ids []pipefill.DeviceID
	for _, d := range c.Devices {
		ids = append(ids, d.Device)
	}
	return ids
}

// parseShare reads "1%" as 0.01, at most 100%.
func parseShare(text string) (float64, error) {
	number, ok := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(v >= 0 && v <= 100) {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "%q is not a percentage from 0%% to 100%%", text)
	}
	return v / 100, nil
}

// mainOptions is what a trainer said with --pipefill; the plugin has checked
// the text, and what is wrong all the same is ignored in favour of the site's.
type mainOptions struct {
	budget  float64
	share   float64
	reserve int64 // bytes of device memory that are never offered
	off     bool
	stay    bool // its state stays on the device
	cache   bool // and its cached blocks may leave too
}

func (c *config) mainOptions(text string) mainOptions {
	o := mainOptions{budget: c.budget, share: c.Share}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "off":
			o.off = true
		case "move":
			o.stay, o.cache = value == "off", value == "cache"
		case "budget":
			if v, err := parseShare(value); err == nil && v > 0 {
				o.budget = v
			}
		case "reserve":
			if v, err := pipefill.ParseSize(value); err == nil {
				o.reserve = v
			}
		case "share":
			if v, err := strconv.ParseFloat(value, 64); err == nil && v > 0 && v <= 1 {
				o.share = min(v, c.Share)
			}
		}
	}
	return o
}

// fillMode reads mode= of a fill job's options; "" where there is none.
func fillMode(text string) pipefill.Mode {
	for part := range strings.SplitSeq(text, ",") {
		if v, ok := strings.CutPrefix(part, "mode="); ok {
			if m := pipefill.Mode(v); slices.Contains(pipefill.Modes, m) {
				return m
			}
		}
	}
	return ""
}
