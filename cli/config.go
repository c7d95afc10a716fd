package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	ctl "pipefill/controller"
	"pipefill/executor"
)

func (p *program) configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "work with configuration files", OnUsageError: usageError,
		Action: func(*cli.Context) error { return usage("config: write config check FILE...") },
		Subcommands: []*cli.Command{command(&cli.Command{
			Name: "check", Usage: "check pipefilld.yaml and pipefillctld.yaml files: every mistake, with its rule", ArgsUsage: "FILE...",
			Action: func(c *cli.Context) error {
				if c.NArg() == 0 {
					return usage("config check: write the files, pipefilld.yaml or pipefillctld.yaml")
				}
				var first error
				for _, path := range c.Args().Slice() {
					err := checkConfig(path)
					if err == nil {
						_, _ = fmt.Fprintf(p.env.Stdout, "%s: good\n", path)
						continue
					}
					if first != nil {
						_, _ = fmt.Fprintln(p.env.Stderr, "pipefill-cli: "+first.Error())
					}
					first = err
				}
				return first
			},
		})},
	}
}

// checkConfig tells by the file's name whose it is.
func checkConfig(path string) error {
	name := filepath.Base(path)
	switch {
	case strings.HasPrefix(name, "pipefillctld"):
		_, err := ctl.LoadConfig(path)
		return err
	case strings.HasPrefix(name, "pipefilld"):
		return executor.CheckConfig(path)
	}
	return usage("config check: %s: the name must begin with pipefilld or pipefillctld, to tell whose it is", path)
}
