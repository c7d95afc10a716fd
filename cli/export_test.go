package cli

import (
	"flag"
	"io"

	"github.com/urfave/cli/v2"

	"pipefill/executor/try"
)

// Commands are the names of all commands, parents with a blank before theirs.
func Commands() (names []string) {
	p := &program{}
	for _, c := range p.app().Commands {
		if len(c.Subcommands) == 0 {
			names = append(names, c.Name)
		}
		for _, sub := range c.Subcommands {
			names = append(names, c.Name+" "+sub.Name)
		}
	}
	return names
}

// PrintTry is how try prints a result; a run of its own needs root and a daemon
// (test/try).
func PrintTry(out io.Writer, r try.Result, dir string, asJSON bool) error {
	flags := flag.NewFlagSet("try", flag.ContinueOnError)
	flags.Bool("json", asJSON, "")
	p := &program{env: Env{Stdout: out}}
	return p.printTry(cli.NewContext(p.app(), flags, nil), r, dir)
}
