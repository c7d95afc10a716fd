package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"pipefill"
)

// profileTechniques are the words of --technique, as engine/pipefill/profile_file.py
// reads them; several are joined by +.
var profileTechniques = []string{"plain", "checkpoint", "offload-params", "offload-activations", "offload-optimizer"}

// profileCommand runs a program whose loop over pipefill.fill or pipefill.infer
// measures itself when it finds these variables, and ends it.
func (p *program) profileCommand() *cli.Command {
	return command(&cli.Command{
		Name: "profile", Usage: "run a program of the fill SDK to measure its ops on this device, and write its fill profile",
		ArgsUsage: "[--] COMMAND [arguments]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "out", Value: "profile.json", Usage: "the fill profile's `FILE`"},
			&cli.StringFlag{Name: "batch-size", Usage: "batch sizes to measure, like 8,16,32; for inference only (default: the program's own)"},
			&cli.StringFlag{Name: "technique", Value: "plain", Usage: "techniques to measure, like plain,checkpoint: " + strings.Join(profileTechniques, ", ") + ", joined by +"},
			&cli.IntFlag{Name: "warm-up", Value: 3, Usage: "passes before it is measured"},
			&cli.IntFlag{Name: "repeats", Value: 30, Usage: "passes that are measured"},
			&cli.BoolFlag{Name: "json", Usage: "print the fill profile as well"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usage("profile: write the command that is to be measured, like: profile -- python3 script.py")
			}
			env, err := profileEnvironment(c)
			if err != nil {
				return err
			}
			return p.runProfile(c, env)
		},
	})
}

// profileEnvironment turns the flags into what pipefill.profiler reads.
func profileEnvironment(c *cli.Context) ([]string, error) {
	for word := range strings.SplitSeq(c.String("batch-size"), ",") {
		if n, err := strconv.Atoi(word); c.IsSet("batch-size") && (err != nil || n < 1) {
			return nil, usage("profile: --batch-size: %q is no whole number, 1 or more; write them like 8,16", word)
		}
	}
	for name := range strings.SplitSeq(c.String("technique"), ",") {
		for word := range strings.SplitSeq(name, "+") {
			if !slices.Contains(profileTechniques, word) {
				return nil, usage("profile: --technique: %q is none; valid are %s, several of them joined by +", word, strings.Join(profileTechniques, ", "))
			}
		}
	}
	for name, least := range map[string]int{"warm-up": 1, "repeats": 2} {
		if c.Int(name) < least {
			return nil, usage("profile: --%s: must be %d or more, not %d", name, least, c.Int(name))
		}
	}
	return []string{
		"PIPEFILL_PROFILE_BATCH_SIZES=" + c.String("batch-size"),
		"PIPEFILL_PROFILE_TECHNIQUES=" + c.String("technique"),
		"PIPEFILL_PROFILE_WARMUP=" + strconv.Itoa(c.Int("warm-up")),
		"PIPEFILL_PROFILE_REPEATS=" + strconv.Itoa(c.Int("repeats")),
	}, nil
}

// runProfile runs the command; an earlier profile stays until there is another.
func (p *program) runProfile(c *cli.Context, env []string) error {
	args := c.Args().Slice()
	path, err := p.env.LookPath(args[0])
	if err != nil {
		return pipefill.Errorf(pipefill.CodeNotFound, "profile: there is no program %s: %w", args[0], err)
	}
	out, fresh := c.String("out"), c.String("out")+".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("profile: %w", err)
	}
	cmd := exec.CommandContext(c.Context, path, args[1:]...) //nolint:gosec // the user's own command, as the user
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.env.Stdin, p.env.Stderr, p.env.Stderr
	cmd.Env = append(append(os.Environ(), env...), "PIPEFILL_PROFILE_OUT="+fresh)
	if err := cmd.Run(); err != nil {
		return pipefill.Errorf(pipefill.CodeConflict, "profile: %s failed: %w", args[0], err)
	}
	text, err := os.ReadFile(fresh) //nolint:gosec // the user's own file, as the user
	if errors.Is(err, fs.ErrNotExist) {
		return pipefill.Errorf(pipefill.CodeConflict, "profile: %s ended and measured nothing: it must loop over pipefill.fill, "+
			"pipefill.infer or pipefill.fill.train (docs/fill-sdk.md)", args[0])
	}
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if err := os.Rename(fresh, out); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if c.Bool("json") {
		_, err = p.env.Stdout.Write(text)
	} else {
		_, err = fmt.Fprintf(p.env.Stdout, "written to %s\n", out)
	}
	return err
}
