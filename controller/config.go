package controller

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
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"pipefill"
	"pipefill/controller/schedule"
)

// Config is pipefillctld.yaml.
type Config struct {
	Cluster      string   `yaml:"cluster"`
	StateDir     string   `yaml:"state_dir"`
	Socket       string   `yaml:"socket"`
	Listen       string   `yaml:"listen"`
	Slurmrestd   string   `yaml:"slurmrestd"`
	JWTTokenFile string   `yaml:"jwt_token_file"`
	SlurmConf    string   `yaml:"slurm_conf"`
	MungeSocket  string   `yaml:"munge_socket"`
	Partitions   []string `yaml:"partitions"`
	Operators    []string `yaml:"operators"`
	Policy       string   `yaml:"policy"`
	PollMs       int64    `yaml:"poll_ms"`
	NodeLostS    int64    `yaml:"node_lost_s"`
	MaxTimeMin   int64    `yaml:"max_time_min"`
	LogLevel     string   `yaml:"log_level"`

	level slog.Level
}

// defaultConfig is what a file may leave out.
func defaultConfig() Config {
	return Config{
		StateDir: "/var/lib/pipefill", Socket: "/run/pipefill/pipefillctld.sock", SlurmConf: "/etc/slurm/slurm.conf",
		Partitions: []string{"pipefill"}, Policy: string(schedule.FIFO), PollMs: 1000, NodeLostS: 60, MaxTimeMin: 1440, LogLevel: "info",
	}
}

// Poll is how often Slurm is asked.
func (c Config) Poll() time.Duration { return time.Duration(c.PollMs) * time.Millisecond }

// LoadConfig reads and checks a file; the error names every mistake in it.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the administrator names it
	if err != nil {
		return Config{}, pipefill.Errorf(pipefill.CodeInvalid, "configuration: %w", err)
	}
	return parseConfig(filepath.Base(path), data)
}

var yamlUnknown = regexp.MustCompile(`^line (\d+): field (.*) not found in type .*$`)

func parseConfig(name string, data []byte) (Config, error) {
	c := defaultConfig()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	var mistakes []string
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		typed, ok := errors.AsType[*yaml.TypeError](err)
		if !ok {
			return c, pipefill.Errorf(pipefill.CodeInvalid, "%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		for _, e := range typed.Errors {
			if m := yamlUnknown.FindStringSubmatch(e); m != nil {
				e = fmt.Sprintf("line %s: unknown key %s: see pipefillctld(8) for the keys", m[1], m[2])
			}
			mistakes = append(mistakes, e)
		}
	} else {
		mistakes = c.check()
	}
	if len(mistakes) == 0 {
		return c, nil
	}
	for i := range mistakes {
		mistakes[i] = name + ": " + mistakes[i]
	}
	return c, pipefill.Errorf(pipefill.CodeInvalid, "%s", strings.Join(mistakes, "\n"))
}

var partitionName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// longestSocket is sun_path's 108 bytes less the closing zero.
const longestSocket = 107

// check returns every rule that a value breaks.
func (c *Config) check() []string {
	var wrong []string
	rule := func(holds bool, format string, args ...any) {
		if !holds {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	rule(c.Cluster != "" && !strings.ContainsAny(c.Cluster, "\n\x00/"), "cluster: %q: write ClusterName of slurm.conf", c.Cluster)
	rule(filepath.IsAbs(c.StateDir), "state_dir: %q: write an absolute path", c.StateDir)
	rule(filepath.IsAbs(c.Socket) && len(c.Socket) <= longestSocket,
		"socket: %q: write an absolute path of at most %d bytes", c.Socket, longestSocket)
	rule(c.Listen == "" || strings.Contains(c.Listen, ":"), "listen: %q: write host:port, or \"\" for the socket alone", c.Listen)
	path, unix := strings.CutPrefix(c.Slurmrestd, "unix:")
	rule(unix && filepath.IsAbs(path) || !unix && strings.HasPrefix(c.Slurmrestd, "http"),
		"slurmrestd: %q: write unix:/absolute/path or http://host:port", c.Slurmrestd)
	rule(filepath.IsAbs(c.JWTTokenFile), "jwt_token_file: %q: write an absolute path", c.JWTTokenFile)
	rule(filepath.IsAbs(c.SlurmConf), "slurm_conf: %q: write an absolute path", c.SlurmConf)
	rule(c.MungeSocket == "" || filepath.IsAbs(c.MungeSocket), "munge_socket: %q: write an absolute path", c.MungeSocket)
	rule(len(c.Partitions) > 0, "partitions: none: name at least one fill partition")
	for _, p := range c.Partitions {
		rule(partitionName.MatchString(p), "partitions: %q: write a partition's name", p)
	}
	for _, o := range c.Operators {
		rule(o != "", "operators: an empty name: write user names")
	}
	rule(slices.Contains(schedule.Policies, schedule.Policy(c.Policy)), "policy: %q: write fifo or sjf", c.Policy)
	rule(c.PollMs >= 100 && c.PollMs <= 60_000, "poll_ms: %d: write 100 to 60000", c.PollMs)
	rule(c.NodeLostS >= 5 && c.NodeLostS <= 3600, "node_lost_s: %d: write 5 to 3600", c.NodeLostS)
	rule(c.MaxTimeMin >= 0, "max_time_min: %d: write MaxTime of the fill partition in minutes, 0 for none", c.MaxTimeMin)
	rule(c.level.UnmarshalText([]byte(c.LogLevel)) == nil, "log_level: %q: write debug, info, warn or error", c.LogLevel)
	return wrong
}
