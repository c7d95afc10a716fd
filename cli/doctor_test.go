package cli_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/cli"
)

// goodSlurm has nothing that doctor would mend.
const goodSlurm = `PreemptType=preempt/none # comment
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=2000
JobSubmitPlugins=lua
RequeueExitHold=199
ProctrackType=proctrack/cgroup
AuthAltTypes=auth/jwt
GresTypes=gpu
NodeName=n[0-1] CPUs=1
PartitionName=main Nodes=ALL Default=YES \
  OverSubscribe=FORCE:1
PartitionName=pipefill Nodes=ALL OverSubscribe=FORCE:4 PriorityTier=0 MaxTime=7-0 TRESBillingWeights="CPU=0.0,Mem=0.0"
`

// clinic is a site in a folder, all of it good until a test breaks something.
type clinic struct {
	t    *testing.T
	dir  string
	fake *fake
	now  time.Time
	disk func() (kind, free int64, err error)
	what string // Slurm's version
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	c := &clinic{
		t: t, dir: t.TempDir(), fake: newFake(t), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), what: "22.05.8",
		disk: func() (int64, int64, error) { return 0xef53, 1 << 40, nil },
	}
	c.fake.answers["/v1/slots"] = []api.Slot{}
	c.ping(func(*api.Status) {})
	c.write("slurm.conf", goodSlurm, 0o644)
	c.write("cgroup.conf", "CgroupPlugin=cgroup/v1\nConstrainDevices=yes\n", 0o644)
	c.write("job_submit.lua", "-- pipefill's part\n", 0o644)
	c.plugin(0x160508)
	c.write("plugstack.conf", "# ours\noptional "+c.path("spank_pipefill.so")+" run_dir=/run/x\n", 0o644)
	c.token(c.now.Add(time.Hour).Unix())
	c.write("pipefillctld.yaml", "cluster: c\nslurmrestd: unix:/run/x\nmax_time_min: 60\nstate_dir: "+c.dir+"\njwt_token_file: "+c.path("token")+"\n", 0o644)
	c.write("pipefilld.yaml", "node: n0\ncluster: c\ncontroller: unix:/run/x\ndevices: [{device: \"cpu:0\"}]\nrecording: 1MiB\n", 0o644)
	return c
}

func (c *clinic) path(name string) string { return filepath.Join(c.dir, name) }

func (c *clinic) write(name, text string, mode os.FileMode) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Chmod(c.path(name), mode); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clinic) replace(name, from, to string) {
	c.t.Helper()
	text, err := os.ReadFile(c.path(name))
	if err != nil || !strings.Contains(string(text), from) {
		c.t.Fatalf("%s has no %q: %v", name, from, err)
	}
	c.write(name, strings.Replace(string(text), from, to, 1), 0o644)
}

func (c *clinic) remove(name string) {
	c.t.Helper()
	if err := os.Remove(c.path(name)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clinic) ping(change func(*api.Status)) {
	s := api.Status{Version: pipefill.Version(), Cluster: "c", NowMs: c.now.UnixMilli()}
	change(&s)
	c.fake.answers["/v1/ping"] = s
}

// slots are devices of a main job that began so long ago, all shut.
func (c *clinic) slots(why string, ago time.Duration, count int) {
	var all []api.Slot
	for i := range count {
		all = append(all, api.Slot{Node: fmt.Sprintf("n%d", i), Main: api.MainDevice{
			Job: pipefill.JobKey{JobID: 3}, Device: "cpu:0", StartedMs: c.now.Add(-ago).UnixMilli(), Reason: why,
		}})
	}
	c.fake.answers["/v1/slots"] = all
}

func (c *clinic) token(expires int64) {
	c.t.Helper()
	payload := fmt.Sprintf(`{"sun":"slurm","exp":%d}`, expires)
	if expires == 0 {
		payload = `{"sun":"slurm"}`
	}
	c.write("token", "eyJhbGciOiJIUzI1NiJ9."+base64.RawURLEncoding.EncodeToString([]byte(payload))+".c2ln", 0o600)
}

// plugin builds a library with a plugin's version, as SPANK_PLUGIN does.
func (c *clinic) plugin(version uint32) {
	c.t.Helper()
	source := fmt.Sprintf("const unsigned int plugin_version = %d;", version)
	if version == 0 {
		source = "int nothing;"
	}
	cmd := exec.CommandContext(c.t.Context(), "gcc", "-shared", "-o", c.path("spank_pipefill.so"), "-x", "c", "-")
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("gcc: %v: %s", err, out)
	}
}

func (c *clinic) doctor(more ...string) (status int, out string) {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	args := []string{"pipefill-cli", "--controller", c.fake.endpoint, "doctor", "--slurm-conf", c.path("slurm.conf"), "--config", c.path("pipefillctld.yaml"), "--node-config", c.path("pipefilld.yaml")}
	args = append(args, more...)
	status = cli.Run(c.t.Context(), args, cli.Env{
		Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
		Now:          func() time.Time { return c.now },
		Statfs:       func(string) (int64, int64, error) { return c.disk() },
		SlurmVersion: func(context.Context, string) (string, error) { return c.what, nil },
	})
	return status, stdout.String() + stderr.String()
}

// findings are the lines of a state, without those of munge, which a machine of
// tests may not run.
func findings(out, state string) (all []string) {
	for line := range strings.Lines(out) {
		if strings.Contains(line, " "+state+" ") && !strings.HasPrefix(line, "munge") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

func TestDoctor_AGoodSite(t *testing.T) {
	status, out := newClinic(t).doctor()
	if status != 0 || len(findings(out, "BAD")) > 0 || len(findings(out, "WARN")) > 0 {
		t.Errorf("status %d\n%s", status, out)
	}
}

// What is shut because it is just starting, or was asked to be, is no mistake.
func TestDoctor_SlotsThatMayBeShut(t *testing.T) {
	c := newClinic(t)
	c.slots("its program has not opened the device", time.Minute, 1)
	off, ok := c.fake.answers["/v1/slots"].([]api.Slot)
	if !ok {
		t.Fatal("no slots")
	}
	off = append(off, off[0])
	off[1].Main.StartedMs, off[1].Main.Options, off[1].Main.Reason = 0, "budget=1%,off", "turned off by its owner (--pipefill=off)"
	c.fake.answers["/v1/slots"] = off
	if status, out := c.doctor(); status != 0 || len(findings(out, "WARN")) > 0 || !strings.Contains(out, "2 devices of running main jobs") {
		t.Errorf("status %d\n%s", status, out)
	}
}

// Each mistake is found, and nothing else is blamed.
func TestDoctor_EachMistake(t *testing.T) {
	slurm := func(from, to string) func(*clinic) {
		return func(c *clinic) { c.replace("slurm.conf", from, to) }
	}
	for name, tc := range map[string]struct {
		provoke func(*clinic)
		state   string
		says    string
	}{
		"preemption":                         {slurm("preempt/none", "preempt/partition_prio"), "BAD", "set preempt/none"},
		"memory is no resource":              {slurm("CR_CPU_Memory", "CR_CPU"), "WARN", "set CR_CPU_Memory"},
		"a job takes all memory":             {slurm("DefMemPerCPU=2000\n", ""), "WARN", "leaves none to fill jobs"},
		"no lua":                             {slurm("JobSubmitPlugins=lua", ""), "WARN", "install job_submit.lua"},
		"no script for lua":                  {func(c *clinic) { c.remove("job_submit.lua") }, "BAD", "take over pipefill's part"},
		"a script without pipefill's part":   {func(c *clinic) { c.write("job_submit.lua", "-- ours", 0o644) }, "BAD", "fill jobs are not held"},
		"no RequeueExitHold":                 {slurm("RequeueExitHold=199\n", ""), "WARN", "add 199"},
		"processes escape":                   {slurm("proctrack/cgroup", "proctrack/linuxproc"), "WARN", "set proctrack/cgroup"},
		"no tokens":                          {slurm("AuthAltTypes=auth/jwt\n", ""), "BAD", "set auth/jwt"},
		"no fill partition":                  {slurm("PartitionName=pipefill", "PartitionName=spare"), "BAD", "slurm.conf has none"},
		"a fill partition that cannot share": {slurm("OverSubscribe=FORCE:4 ", ""), "BAD", "set OverSubscribe=FORCE:4"},
		"a main partition that cannot share": {slurm("OverSubscribe=FORCE:1", ""), "WARN", "set OverSubscribe=FORCE:1"},
		"fill jobs before main jobs":         {slurm("PriorityTier=0", "PriorityTier=5"), "WARN", "set PriorityTier=0"},
		"waiting is billed":                  {slurm(` TRESBillingWeights="CPU=0.0,Mem=0.0"`, ""), "WARN", "set TRESBillingWeights"},
		"a fill partition that is down":      {slurm("PriorityTier=0", "PriorityTier=0 State=DOWN"), "BAD", "set State=UP"},
		"the fill partition is the default":  {slurm("PriorityTier=0", "PriorityTier=0 Default=YES"), "WARN", "become fill jobs"},
		"no limit of waiting":                {slurm("MaxTime=7-0 ", ""), "WARN", "waits for ever"},
		"no slurm.conf":                      {func(c *clinic) { c.remove("slurm.conf") }, "BAD", "--slurm-conf"},
		"Slurm on cgroup v2":                 {func(c *clinic) { c.replace("cgroup.conf", "cgroup/v1", "cgroup/v2") }, "BAD", "set cgroup/v1"},
		"Slurm finds its cgroups itself":     {func(c *clinic) { c.replace("cgroup.conf", "CgroupPlugin=cgroup/v1\n", "") }, "WARN", "set cgroup/v1"},
		"GPUs are anybody's":                 {func(c *clinic) { c.replace("cgroup.conf", "ConstrainDevices=yes", "") }, "BAD", "set ConstrainDevices=yes"},
		"no cgroup.conf":                     {func(c *clinic) { c.remove("cgroup.conf") }, "WARN", "were not looked at"},
		"no plugstack.conf":                  {func(c *clinic) { c.remove("plugstack.conf") }, "BAD", "with the line: optional spank_pipefill.so"},
		"no line for the plugin":             {func(c *clinic) { c.write("plugstack.conf", "optional other.so\n", 0o644) }, "BAD", "no line for spank_pipefill.so"},
		"a required plugin":                  {func(c *clinic) { c.replace("plugstack.conf", "optional", "required") }, "BAD", "write optional"},
		"a plugin that others can write":     {func(c *clinic) { _ = os.Chmod(c.path("spank_pipefill.so"), 0o777) }, "BAD", "chmod go-w"},
		"no plugin":                          {func(c *clinic) { c.remove("spank_pipefill.so") }, "BAD", "install it, on this host too"},
		"a plugin for another Slurm":         {func(c *clinic) { c.plugin(0x180b05) }, "BAD", "is built for Slurm 24.11, and this is 22.05.8"},
		"a library that is no plugin":        {func(c *clinic) { c.plugin(0) }, "BAD", "no plugin of Slurm's"},
		"an expired token":                   {func(c *clinic) { c.token(c.now.Unix() - 1) }, "BAD", "renew it by cron"},
		"a token about to expire":            {func(c *clinic) { c.token(c.now.Unix() + 60) }, "WARN", "see that cron renews it"},
		"a token for ever":                   {func(c *clinic) { c.token(0) }, "WARN", "never expires"},
		"a token that others can read":       {func(c *clinic) { _ = os.Chmod(c.path("token"), 0o644) }, "BAD", "make it 0600"},
		"no token":                           {func(c *clinic) { c.remove("token") }, "BAD", "write one there"},
		"a queue on NFS":                     {func(c *clinic) { c.disk = func() (int64, int64, error) { return 0x6969, 1 << 40, nil } }, "BAD", "put it on a local disk"},
		"a full disk":                        {func(c *clinic) { c.disk = func() (int64, int64, error) { return 0xef53, 1 << 20, nil } }, "BAD", "1.0MiB left"},
		"no folder for the queue":            {func(c *clinic) { c.disk = func() (int64, int64, error) { return 0, 0, fs.ErrNotExist } }, "BAD", "make it"},
		"a mistake in pipefillctld.yaml":     {func(c *clinic) { c.replace("pipefillctld.yaml", "max_time_min: 60", "max_time_min: 60\npoll_ms: 1") }, "BAD", "poll_ms: 1: write 100 to 60000"},
		"MaxTime not told to the controller": {func(c *clinic) { c.replace("pipefillctld.yaml", "max_time_min: 60\n", "") }, "WARN", "write MaxTime"},
		"a mistake in pipefilld.yaml":        {func(c *clinic) { c.replace("pipefilld.yaml", "1MiB", "lots") }, "BAD", "write off, or the memory"},
		"raw traces of a node":               {func(c *clinic) { c.replace("pipefilld.yaml", "recording: 1MiB", "trace_dir: /tmp") }, "WARN", "grow without bound"},
		"clocks apart":                       {func(c *clinic) { c.ping(func(s *api.Status) { s.NowMs -= 90_000 }) }, "BAD", "differ by 1m30s"},
		"another release here":               {func(c *clinic) { c.ping(func(s *api.Status) { s.Version = "0.0.9" }) }, "WARN", "install the same release here"},
		"a GPU whose memory nothing fences": {func(c *clinic) {
			c.fake.answers["/v1/slots"] = []api.Slot{
				{Node: "n1", Main: api.MainDevice{Device: "gpu:GPU-1", Fence: "audit", Enabled: true}},
				{Node: "n0", Main: api.MainDevice{Device: "gpu:GPU-1", Fence: "driver", Enabled: true}},
				{Node: "n2", Main: api.MainDevice{Device: "cpu:0", Enabled: true}},
			}
		}, "WARN", "on n1 the driver takes no limits"},
		"no memory left to fill jobs": {func(c *clinic) {
			c.slots("the main job has held 80896 MiB of the GPU's 81920 MiB, and its reserve= is 2048 MiB: no memory is left to fill jobs", time.Hour, 6)
		}, "WARN", "n0 cpu:0 of job 3, n1 cpu:0 of job 3, n2 cpu:0 of job 3, n3 cpu:0 of job 3 and 2 more: shut: the main job has held"},
		"a main job that announces nothing": {
			func(c *clinic) {
				c.slots("its program has not opened the device: it is to import an engine", time.Hour, 1)
			},
			"WARN", "n0 cpu:0 of job 3: shut: its program has not opened the device",
		},
		"a GPU that is too hot": {func(c *clinic) {
			c.ping(func(s *api.Status) {
				s.Faults = []string{"node n1: device gpu:GPU-a: the hardware slows it down, it is too hot: look at fans"}
			})
		}, "BAD", "it is too hot: look at fans"},
		"a GPU in exclusive compute mode": {func(c *clinic) {
			c.ping(func(s *api.Status) {
				s.Faults = []string{"node n1: device gpu:GPU-a: its compute mode lets one process use it: nvidia-smi -c DEFAULT"}
			})
		}, "BAD", "nvidia-smi -c DEFAULT"},
		"a node that can grant no device": {func(c *clinic) {
			c.ping(func(s *api.Status) {
				s.Faults = []string{"node n1: fill jobs cannot be let onto GPUs: mount cgroup v1's devices controller"}
			})
		}, "BAD", "mount cgroup v1's devices controller"},
		"a node of another release": {func(c *clinic) {
			c.ping(func(s *api.Status) {
				s.Faults = []string{"node n1: runs pipefilld 0.0.9, this is pipefillctld 0.1.0: install the same release"}
			})
		}, "BAD", "install the same release"},
		"a node's fault": {func(c *clinic) { c.ping(func(s *api.Status) { s.Faults = []string{"node n1: does not report"} }) }, "BAD", "node n1: does not report"},
		"a controller that is away": {func(c *clinic) {
			c.fake.fail = &api.Failure{Code: pipefill.CodeUnavailable, Message: "database is away"}
		}, "BAD", "database is away"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClinic(t)
			tc.provoke(c)
			status, out := c.doctor()
			found := findings(out, tc.state)
			if len(found) != 1 || !strings.Contains(found[0], tc.says) {
				t.Errorf("want one %s with %q, got %q\n%s", tc.state, tc.says, found, out)
			}
			other := map[string]string{"BAD": "WARN", "WARN": "BAD"}[tc.state]
			if more := findings(out, other); len(more) > 0 {
				t.Errorf("and nothing else, got %q", more)
			}
			if want := map[string]int{"BAD": 4, "WARN": 0}[tc.state]; status != want {
				t.Errorf("status %d, want %d", status, want)
			}
		})
	}
}

func TestDoctor_SlurmsToolsAreAway(t *testing.T) {
	c := newClinic(t)
	var out bytes.Buffer
	cli.Run(t.Context(), []string{"pipefill-cli", "--controller", c.fake.endpoint, "doctor", "--slurm-conf", c.path("slurm.conf"), "--config", c.path("none.yaml"), "--node-config", c.path("none.yaml")}, cli.Env{
		Getenv: func(string) string { return "" }, Stdout: &out, Stderr: &out, Now: func() time.Time { return c.now },
		SlurmVersion: func(context.Context, string) (string, error) { return "", errors.New("no scontrol here") },
	})
	if !strings.Contains(out.String(), "not compared with Slurm: no scontrol here") || strings.Contains(out.String(), "state_dir") {
		t.Error(out.String())
	}
}

// Without munge a controller over TCP is not reached at all; over its socket,
// other hosts are refused.
func TestDoctor_MungeIsAway(t *testing.T) {
	c := newClinic(t)
	for endpoint, want := range map[string]string{"http://127.0.0.1:1": "BAD", c.fake.endpoint: "WARN"} {
		var out bytes.Buffer
		cli.Run(t.Context(), []string{"pipefill-cli", "--controller", endpoint, "doctor", "--slurm-conf", c.path("slurm.conf"), "--config", c.path("none.yaml"), "--node-config", c.path("none.yaml")}, cli.Env{
			Getenv: func(name string) string { return map[string]string{"MUNGE_SOCKET": c.path("no-socket")}[name] }, Stdout: &out, Stderr: &out, Now: func() time.Time { return c.now },
			SlurmVersion: func(context.Context, string) (string, error) { return c.what, nil },
		})
		found := ""
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "munge") {
				found += line
			}
		}
		if !strings.Contains(found, want) || strings.Count(found, "\n") != 1 {
			t.Errorf("%s: %q in\n%s", endpoint, found, out.String())
		}
	}
}
