package cli

import (
	"encoding/json"
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
			Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON"}},
			Action: func(c *cli.Context) error {
				if c.NArg() == 0 {
					return usage("config check: write the files, pipefilld.yaml or pipefillctld.yaml")
				}
				if c.Bool("json") {
					return p.checkConfigsJSON(c.Args().Slice())
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

// checkedConfig is a file and what is wrong in it.
type checkedConfig struct {
	File     string   `json:"file"`
	Mistakes []string `json:"mistakes"`
}

func (p *program) checkConfigsJSON(paths []string) error {
	checked := []checkedConfig{}
	bad := 0
	for _, path := range paths {
		c := checkedConfig{path, []string{}}
		if err := checkConfig(path); err != nil {
			c.Mistakes = strings.Split(err.Error(), "\n")
			bad++
		}
		checked = append(checked, c)
	}
	encoder := json.NewEncoder(p.env.Stdout)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(checked); err != nil || bad == 0 {
		return err
	}
	return usage("config check: %d of %d files have mistakes", bad, len(paths))
}

// checkConfig tells by the file's name whose it is.
func checkConfig(path string) error {
	name := filepath.Base(path)
	switch {
	case strings.HasPrefix(name, "pipefillctld"):
		_, err := ctl.LoadConfig(path)
		return err
	case strings.HasPrefix(name, "pipefilld"):
		_, err := executor.CheckConfig(path)
		return err
	}
	return usage("config check: %s: the name must begin with pipefilld or pipefillctld, to tell whose it is", path)
}
