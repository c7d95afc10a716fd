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
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/metrics"
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
	PolicyDir    string   `yaml:"policy_dir"`
	MaxWaitH     int64    `yaml:"max_wait_h"`
	Limits       []string `yaml:"limits"`
	Shares       []string `yaml:"shares"`
	HalfLifeH    int64    `yaml:"half_life_h"`
	PollMs       int64    `yaml:"poll_ms"`
	NodeLostS    int64    `yaml:"node_lost_s"`
	MaxTimeMin   int64    `yaml:"max_time_min"`
	Metrics      string   `yaml:"metrics"` // IP:PORT for Prometheus; "" for none
	LogLevel     string   `yaml:"log_level"`

	// The accounting.
	TimeZone        string  `yaml:"time_zone"` // IANA's name; "": the host's
	KeepRawDays     int64   `yaml:"keep_raw_days"`
	KeepHourlyDays  int64   `yaml:"keep_hourly_days"`
	KeepDailyDays   int64   `yaml:"keep_daily_days"` // 0: for ever
	JobComment      string  `yaml:"job_comment"`     // "", comment or admin_comment
	DeviceHourPrice float64 `yaml:"device_hour_price"`
	Currency        string  `yaml:"currency"`

	standby  bool         // of the command line
	policies schedule.Set // read before; nil: they are read
	level    slog.Level
}

// defaultConfig is what a file may leave out.
func defaultConfig() Config {
	return Config{
		StateDir: "/var/lib/pipefill", Socket: "/run/pipefill/pipefillctld.sock", SlurmConf: "/etc/slurm/slurm.conf",
		Partitions: []string{"pipefill"}, Policy: schedule.FIFO, MaxWaitH: 168, HalfLifeH: 168, PollMs: 1000, NodeLostS: 60, MaxTimeMin: 1440, LogLevel: "info",
		KeepRawDays: 35, KeepHourlyDays: 35, KeepDailyDays: 0, DeviceHourPrice: 0,
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

func parseConfig(name string, data []byte) (Config, error) {
	c := defaultConfig()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	err := decoder.Decode(&c)
	var mistakes []string
	switch typed, ok := errors.AsType[*yaml.TypeError](err); {
	case ok:
		for _, e := range typed.Errors {
			mistakes = append(mistakes, yamlMistake(e, data))
		}
	case err != nil && !errors.Is(err, io.EOF):
		return c, pipefill.Errorf(pipefill.CodeInvalid, "%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	case err == nil && !errors.Is(decoder.Decode(new(any)), io.EOF):
		mistakes = []string{"more than one document: write one, without a line of ---"}
	default:
		mistakes = c.check(keyLines(data))
	}
	if len(mistakes) == 0 {
		return c, nil
	}
	for i := range mistakes {
		mistakes[i] = name + ": " + mistakes[i]
	}
	return c, pipefill.Errorf(pipefill.CodeInvalid, "%s", strings.Join(mistakes, "\n"))
}

// keyLines tells on which line each key stands.
func keyLines(data []byte) map[string]int {
	lines := map[string]int{}
	var document yaml.Node
	if yaml.Unmarshal(data, &document) != nil || len(document.Content) == 0 {
		return lines
	}
	// Keys and values take turns.
	for i, n := range document.Content[0].Content {
		if i%2 == 0 {
			lines[n.Value] = n.Line
		}
	}
	return lines
}

var (
	yamlUnknown = regexp.MustCompile(`^line (\d+): field (.*) not found in type .*$`)
	yamlTwice   = regexp.MustCompile(`^line (\d+): mapping key "(.*)" already defined at line (\d+)$`)
	yamlType    = regexp.MustCompile("(?s)^line (\\d+): cannot unmarshal !!\\w+ (?:`(.*)` )?into (.*)$")
)

// yamlMistake turns a decoder's complaint into one that an administrator
// understands.
func yamlMistake(e string, data []byte) string {
	if m := yamlUnknown.FindStringSubmatch(e); m != nil {
		return fmt.Sprintf("line %s: unknown key %s: see pipefillctld(8) for the keys", m[1], m[2])
	}
	if m := yamlTwice.FindStringSubmatch(e); m != nil {
		return fmt.Sprintf("line %s: %s: stands on line %s too: write it once", m[1], m[2], m[3])
	}
	m := yamlType.FindStringSubmatch(e)
	if m == nil {
		return e
	}
	what := map[string]string{"int64": "write a whole number", "string": "write one text", "[]string": "write a list, as [a, b]", "float64": "write a number"}[m[3]]
	if what == "" {
		return "line " + m[1] + ": write lines of key: value"
	}
	// A value may begin a line below its key.
	key, at := "", 0
	line, _ := strconv.Atoi(m[1]) // digits, by the pattern
	for k, n := range keyLines(data) {
		if n <= line && n > at {
			key, at = k, n
		}
	}
	if m[2] != "" {
		what = fmt.Sprintf("%q: %s", m[2], what)
	}
	return fmt.Sprintf("line %s: %s: %s", m[1], key, what)
}

var partitionName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// longestSocket is sun_path's 108 bytes less the closing zero.
const longestSocket = 107

// check returns every rule that a value breaks, after the line of its key.
func (c *Config) check(lines map[string]int) []string {
	var wrong []string
	rule := func(holds bool, format string, args ...any) {
		if holds {
			return
		}
		key, _, _ := strings.Cut(format, ":")
		at := ""
		if line := lines[key]; line > 0 {
			at = fmt.Sprintf("line %d: ", line)
		}
		wrong = append(wrong, at+fmt.Sprintf(format, args...))
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
	c.checkPolicy(rule)
	rule(c.PollMs >= 100 && c.PollMs <= 60_000, "poll_ms: %d: write 100 to 60000", c.PollMs)
	rule(c.NodeLostS >= 5 && c.NodeLostS <= 3600, "node_lost_s: %d: write 5 to 3600", c.NodeLostS)
	rule(c.MaxTimeMin >= 0, "max_time_min: %d: write MaxTime of the fill partition in minutes, 0 for none", c.MaxTimeMin)
	rule(metrics.CheckAddress(c.Metrics) == nil, "metrics: %q: write IP:PORT, as 127.0.0.1:9470, or \"\" for none", c.Metrics)
	c.checkAccounting(rule)
	rule(c.level.UnmarshalText([]byte(c.LogLevel)) == nil, "log_level: %q: write debug, info, warn or error", c.LogLevel)
	return wrong
}

// checkPolicy reads the policies, and checks what decides on the order.
func (c *Config) checkPolicy(rule func(holds bool, format string, args ...any)) {
	policies, err := schedule.Set{}, error(nil)
	absolute := c.PolicyDir == "" || filepath.IsAbs(c.PolicyDir)
	rule(absolute, "policy_dir: %q: write an absolute path, or \"\" for the shipped policies alone", c.PolicyDir)
	if absolute {
		policies, err = schedule.Load(c.PolicyDir)
		rule(err == nil, "policy_dir: %v", err)
	}
	if err == nil && absolute {
		rule(policies[c.Policy] != nil, "policy: %q: write one of %s", c.Policy, strings.Join(policies.Names(), ", "))
	}
	rule(c.MaxWaitH >= 0, "max_wait_h: %d: write hours, 0 for no bound", c.MaxWaitH)
	_, err = readLimits(c.Limits)
	rule(err == nil, "limits: %v", err)
	_, err = readShares(c.Shares)
	rule(err == nil, "shares: %v", err)
	rule(c.HalfLifeH >= 1 && c.HalfLifeH <= 8760, "half_life_h: %d: write 1 to 8760 hours", c.HalfLifeH)
}
