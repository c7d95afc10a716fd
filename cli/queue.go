package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
)

var queueColumns = []column[api.FillJob]{
	{"JOBID", true, func(j api.FillJob) string { return strconv.FormatInt(j.JobID, 10) }},
	{"PARTITION", false, func(j api.FillJob) string { return j.Partition }},
	{"NAME", false, func(j api.FillJob) string { return j.Name }},
	{"USER", false, func(j api.FillJob) string { return j.User }},
	{"STATE", false, func(j api.FillJob) string { return strings.ToUpper(j.State) }},
	{"DEVTIME", true, func(j api.FillJob) string { return elapsed(j.DeviceMs) }},
	{"LIMIT", true, func(j api.FillJob) string { return limit(j.LimitMs) }},
	{"TRIES", true, func(j api.FillJob) string { return strconv.Itoa(j.Attempts) }},
	{"NODE", false, func(j api.FillJob) string { return j.Node }},
	{"DEVICE", false, devicesOf},
	{"REASON", false, func(j api.FillJob) string { return j.Reason }},
}

// queueMore are columns that -o may name besides.
func (p *program) queueMore() []column[api.FillJob] {
	return []column[api.FillJob]{
		{"ACCOUNT", false, func(j api.FillJob) string { return j.Account }},
		{"DEVICES", true, func(j api.FillJob) string { return strconv.Itoa(max(j.Devices, 1)) }},
		{"EXPECT", true, func(j api.FillJob) string { return elapsed(j.ExpectMs) }},
		{"SOURCE", false, func(j api.FillJob) string { return j.ExpectFrom }},
		{"DEADLINE", false, func(j api.FillJob) string {
			if j.DeadlineMs == 0 {
				return "N/A"
			}
			return p.localTime(j.DeadlineMs)
		}},
	}
}

// devicesOf names the devices that a job has: one, or "cpu:0+cpu:1".
func devicesOf(j api.FillJob) string {
	if j.Others == "" {
		return string(j.Device)
	}
	return strings.ReplaceAll(string(j.Device)+" "+string(j.Others), " ", "+")
}

func (p *program) queueCommand() *cli.Command {
	return command(&cli.Command{
		Name: "queue", Usage: "list fill jobs, as squeue does; those that ended up to ten minutes ago too",
		Flags: outputFlags(
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "only this user's (operators)"},
			&cli.StringFlag{Name: "states", Aliases: []string{"t"}, Usage: "only these states, parted by commas"},
			&cli.StringFlag{Name: "format", Aliases: []string{"o"}, Usage: "these columns, parted by commas"},
		),
		Action: func(c *cli.Context) error {
			columns, err := pick(slices.Concat(queueColumns, p.queueMore()), c.String("format"))
			if err != nil {
				return err
			}
			if c.String("format") == "" {
				columns = queueColumns
			}
			if c.NArg() > 0 {
				return usage("queue: takes no argument, not %q", c.Args().First())
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				jobs, err := from.Jobs(ctx, api.JobFilter{User: c.String("user")})
				if err != nil {
					return err
				}
				return printRows(p.env.Stdout, c, inStates(jobs, c.String("states")), columns)
			})
		},
	})
}

func inStates(jobs []api.FillJob, list string) []api.FillJob {
	if list == "" || strings.EqualFold(list, "all") {
		return jobs
	}
	var out []api.FillJob
	for _, j := range jobs {
		for state := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(j.State, state) {
				out = append(out, j)
				break
			}
		}
	}
	return out
}

// submitCommand runs sbatch so that the job is held from the start, for sites
// without job_submit.lua.
func (p *program) submitCommand() *cli.Command {
	return command(&cli.Command{
		Name: "submit", Usage: "submit a batch script as a fill job: sbatch --hold into the fill partition",
		ArgsUsage: "[sbatch options] SCRIPT [arguments]", SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
				return cli.ShowSubcommandHelp(c)
			}
			if len(args) == 0 {
				return usage("submit: write a batch script, and sbatch's options before it")
			}
			full, err := sbatchArguments(args, p.env.Getenv("PIPEFILL_PARTITION"))
			if err != nil {
				return err
			}
			if full, err = p.uploadProfiles(c, full); err != nil {
				return err
			}
			sbatch, err := p.env.LookPath("sbatch")
			if err != nil {
				return pipefill.Errorf(pipefill.CodeUnavailable, "submit: sbatch is not on PATH: %w", err)
			}
			cmd := exec.CommandContext(c.Context, sbatch, full...) //nolint:gosec // the user's own arguments, as the user
			cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = p.env.Stdin, p.env.Stdout, p.env.Stderr, os.Environ()
			if err := cmd.Run(); err != nil {
				return pipefill.Errorf(pipefill.CodeConflict, "submit: sbatch refused the job: %w", err)
			}
			return nil
		},
	})
}

// sbatchArguments adds hold and partition, and refuses what cannot be a fill
// job with what to do instead.
func sbatchArguments(args []string, partition string) ([]string, error) {
	if partition == "" {
		partition = "pipefill"
	}
	out := []string{"--hold", "--partition=" + partition}
	places, _ := optionsBefore(args)
	for _, i := range places {
		arg := args[i]
		name, _, _ := strings.Cut(arg, "=")
		switch {
		case arg == ":":
			return nil, usage("submit: a heterogeneous job cannot be a fill job; submit single jobs")
		case strings.HasPrefix(name, "--gpus") || strings.HasPrefix(arg, "-G") || name == "--gres" && i+1 < len(args) && strings.HasPrefix(args[i+1], "gpu") || strings.HasPrefix(arg, "--gres=gpu"):
			return nil, usage("submit: %s: the main job holds the GPUs; submit without, the job is given one while a bubble lasts", arg)
		case name == "--partition" || strings.HasPrefix(arg, "-p"):
			return nil, usage("submit: %s: fill jobs go to partition %s (PIPEFILL_PARTITION names another)", arg, partition)
		}
	}
	return append(out, args...), nil
}

// sbatchFlags are sbatch's options without a value of their own behind them.
var sbatchFlags = strings.Fields(`--contiguous --exclusive --get-user-env --help --hold --ignore-pbs --nice --no-bell --no-kill
	--no-requeue --overcommit --oversubscribe --parsable --pipefill --propagate --quiet --reboot --requeue --share --spread-job --test-only
	--usage --use-min-nodes --verbose --version --wait -H -h -k -O -Q -s -v -V -W`)

// optionsBefore are the places of sbatch's own options among its arguments,
// without values that stand apart: up to the script, what follows is its own.
func optionsBefore(args []string) (places []int, script int) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		long := strings.HasPrefix(arg, "--")
		switch {
		case arg == "--":
			return places, min(i+1, len(args))
		case arg != ":" && !strings.HasPrefix(arg, "-"):
			return places, i
		}
		places = append(places, i)
		whole := long && strings.Contains(arg, "=") || !long && len(arg) > 2 || arg == ":"
		if !whole && !slices.Contains(sbatchFlags, arg) {
			i++ // its value
		}
	}
	return places, len(args)
}

// uploadProfiles sends the fill profiles that --pipefill names, and names them by
// their digests instead: the controller opens no file of a user's.
func (p *program) uploadProfiles(c *cli.Context, args []string) ([]string, error) {
	out := slices.Clone(args)
	places, _ := optionsBefore(args)
	for _, i := range places {
		options, found := strings.CutPrefix(out[i], "--pipefill=")
		if !found {
			continue
		}
		pairs := strings.Split(options, ",")
		for k, pair := range pairs {
			path, found := strings.CutPrefix(pair, "profile=")
			if !found {
				continue
			}
			digest, err := p.uploadProfile(c, path)
			if err != nil {
				return nil, err
			}
			pairs[k] = "profile=" + digest
		}
		out[i] = "--pipefill=" + strings.Join(pairs, ",")
	}
	return out, nil
}

func (p *program) uploadProfile(c *cli.Context, path string) (digest string, err error) {
	// A mistake in it is told with its line.
	if _, err := readFile(path, plan.DecodeProfile); err != nil {
		return "", err
	}
	text, err := os.ReadFile(path) //nolint:gosec // the user's own file, as the user
	if err != nil {
		return "", fmt.Errorf("submit: %w", err)
	}
	err = p.ask(c, func(ctx context.Context, from controller) error {
		kept, err := from.KeepProfile(ctx, text)
		digest = kept.Digest
		return err
	})
	return digest, err
}
