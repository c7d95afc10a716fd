package cli

import (
	"fmt"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"pipefill/api"
)

// Shells are those that Completion writes a file for.
var Shells = []string{"bash", "zsh", "fish"}

// Completion is a shell's completion file. It is made once and asks nothing
// while somebody types: the library's own way would run the command where a
// line has --, and cancel a job.
func Completion(shell string) string {
	var all []completed
	for _, c := range (&program{}).app().VisibleCommands() {
		all = append(all, completedOf(c))
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	switch shell {
	case "bash":
		return bashCompletion(all)
	case "zsh":
		return zshCompletion(all)
	}
	return fishCompletion(all)
}

// completed is what can follow a command.
type completed struct {
	name, text string
	flags      []string // with their dashes
	words      []string
}

func completedOf(c *cli.Command) completed {
	out := completed{name: c.Name, text: c.Usage, words: map[string][]string{
		"report": append(append([]string{}, api.ReportKinds...), "start=", "end=", "format="), "drain": api.DrainKinds, "resume": api.DrainKinds,
		"audit": {"start=", "end="},
	}[c.Name]}
	for _, f := range c.VisibleFlags() {
		for _, name := range f.Names() {
			if len(name) > 1 {
				out.flags = append(out.flags, "--"+name)
			}
		}
	}
	out.flags = append(out.flags, "--help")
	for _, sub := range c.VisibleCommands() {
		if sub.Name != "help" {
			out.words = append(out.words, sub.Name)
		}
	}
	sort.Strings(out.flags)
	return out
}

func names(all []completed) string {
	var out []string
	for _, c := range all {
		out = append(out, c.name)
	}
	return strings.Join(out, " ")
}

const completionHead = "# Made by `go test ./cli -run Completion -update`.\n"

func bashCompletion(all []completed) string {
	var out strings.Builder
	out.WriteString("# bash completion for pipefill-cli\n" + completionHead + `_pipefill_cli() {
	local cur="${COMP_WORDS[COMP_CWORD]}" command="" words="" flags="" i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case "${COMP_WORDS[i]}" in
		--controller) ((i++)) ;;
		-*) ;;
		*)
			command="${COMP_WORDS[i]}"
			break
			;;
		esac
	done
	case "$command" in
`)
	fmt.Fprintf(&out, "\t\"\") words=%q flags=\"--controller --help --version\" ;;\n", names(all))
	for _, c := range all {
		fmt.Fprintf(&out, "\t%s) words=%q flags=%q ;;\n", c.name, strings.Join(c.words, " "), strings.Join(c.flags, " "))
	}
	out.WriteString(`	esac
	case "$cur" in
	-*) mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur") ;;
	*) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
	esac
	[[ ${COMPREPLY[0]:-} != *= ]] || compopt -o nospace 2>/dev/null || true
}
complete -o default -F _pipefill_cli pipefill-cli
`)
	return out.String()
}

// quoted is a text within single quotes, for zsh and fish.
func quoted(s string) string {
	return "'" + strings.NewReplacer("'", "’", ":", " ", "[", "(", "]", ")", `\`, "").Replace(s) + "'"
}

func zshCompletion(all []completed) string {
	var out strings.Builder
	out.WriteString("#compdef pipefill-cli\n" + completionHead + "local -a commands choices flags\ncommands=(\n")
	for _, c := range all {
		fmt.Fprintf(&out, "\t%s\n", quoted(c.name+"\x00"+c.text))
	}
	out.WriteString(")\nif ((CURRENT == 2)); then\n\t_describe command commands\n\treturn\nfi\ncase $words[2] in\n")
	for _, c := range all {
		fmt.Fprintf(&out, "%s) choices=(%s) flags=(%s) ;;\n", c.name, strings.Join(c.words, " "), strings.Join(c.flags, " "))
	}
	out.WriteString("esac\nif [[ $PREFIX == -* ]]; then\n\tcompadd -- $flags\nelse\n\tcompadd -- $choices\n\t_files\nfi\n")
	return strings.ReplaceAll(out.String(), "\x00", ":")
}

func fishCompletion(all []completed) string {
	var out strings.Builder
	out.WriteString("# fish completion for pipefill-cli\n" + completionHead)
	out.WriteString("complete -c pipefill-cli -n __fish_use_subcommand -l controller -x -d 'pipefillctld'\ncomplete -c pipefill-cli -n __fish_use_subcommand -l version\n")
	for _, c := range all {
		fmt.Fprintf(&out, "complete -c pipefill-cli -n __fish_use_subcommand -a %s -d %s\n", c.name, quoted(c.text))
		for _, flag := range c.flags {
			fmt.Fprintf(&out, "complete -c pipefill-cli -n '__fish_seen_subcommand_from %s' -l %s\n", c.name, strings.TrimPrefix(flag, "--"))
		}
		if len(c.words) > 0 {
			fmt.Fprintf(&out, "complete -c pipefill-cli -n '__fish_seen_subcommand_from %s' -a '%s'\n", c.name, strings.Join(c.words, " "))
		}
	}
	return out.String()
}
