package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"pipefill"
)

// maxLevels bounds the numbers in a score.
const maxLevels = 4

// Policy is a compiled score(job, slot): one number, or up to four in brackets
// of which each decides where those before it are equal. The highest wins. It is
// immutable and safe for concurrent use.
type Policy struct {
	Name   string
	Text   string // what it is for: the comment it begins with
	File   string // where it is from; "" for those shipped
	Source string

	levels    []node
	registers int
	uses      uses
	names     []string // attributes that it looks at
	levelUses []uses
	program   *vm.Program // the same by expr's own machine: for tests
}

// uses is what a policy looks at, found when it is compiled.
type uses struct {
	steady                         bool // the order of the jobs of one slot does not change with time
	falls                          bool // it does, but no job's number rises
	timed                          bool // a job's time on the slot matters
	shares                         bool
	running                        bool
	ends                           bool
	worth                          bool // what slots are worth
	remains                        bool // when the main job ends
	share, free, cycle, kind, node bool // of the slot
}

// Compile reads one policy. others are the policies that it may name, as
// variables. The error tells file, line, column, and the names there are.
func Compile(name, path, source string, others func(name string) (string, bool)) (*Policy, error) {
	c := &includer{others: others, within: []string{name}}
	program, err := expr.Compile(source, options(expr.Patch(c))...)
	shown := path
	if shown == "" {
		shown = name + Suffix
	}
	if at, ok := errors.AsType[*file.Error](c.err); ok {
		return nil, mistake(shown, at.Bind(file.NewSource(source)))
	}
	if err != nil {
		return nil, mistake(shown, err)
	}
	p := &Policy{Name: name, Text: comment(source), File: path, Source: source, program: program}
	b := builder{source: source, variables: map[string]*variable{}}
	tree := program.Node()
	p.levels, err = b.levels(tree)
	if err != nil {
		return nil, mistake(shown, err)
	}
	p.registers, p.uses, p.levelUses = b.deepest+1, b.uses, b.levelUses
	p.names = b.names
	p.uses.steady = true
	for l, level := range p.levels {
		u := &p.levelUses[l]
		u.steady = level.pace() != freely
		u.falls = !u.steady && trendOf(level) == falls
		p.uses.steady, p.uses.falls = p.uses.steady && u.steady, p.uses.falls || u.falls
	}
	if err := p.try(); err != nil {
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s: %w", shown, err)
	}
	return p, nil
}

// Describe tells in a line what a policy looks at.
func (p *Policy) Describe() string {
	used := slices.Compact(slices.Sorted(slices.Values(p.names)))
	text := fmt.Sprintf("%d level", len(p.levels))
	if len(p.levels) > 1 {
		text += "s"
	}
	if len(used) > 0 {
		text += " of " + strings.Join(used, ", ")
	}
	if !p.uses.steady {
		text += "; the order of jobs moves with time"
	}
	return text
}

func (p *Policy) looksAt(name string) bool { return slices.Contains(p.names, name) }

// mistake turns the compiler's complaint into one with file, line, column and
// the valid names.
func mistake(path string, err error) error {
	at, ok := errors.AsType[*file.Error](err)
	if !ok {
		return pipefill.Errorf(pipefill.CodeInvalid, "%s: %w", path, err)
	}
	message := at.Message
	for of, prefix := range map[string]string{"schedule.JobAttributes": "job", "schedule.SlotAttributes": "slot"} {
		if name, ok := strings.CutPrefix(message, "type "+of+" has no field "); ok {
			message = "there is no " + prefix + "." + name
		}
	}
	if hint := valid(message); hint != "" {
		message += ": " + hint
	}
	return pipefill.Errorf(pipefill.CodeInvalid, "%s: line %d, column %d: %s%s", path, at.Line, at.Column+1, message, at.Snippet)
}

// valid lists the names that could have been meant.
func valid(message string) string {
	switch {
	case strings.HasPrefix(message, "unknown name"):
		var names []string
		for _, f := range functions {
			names = append(names, f.form)
		}
		return "write job.NAME, slot.NAME, the name of another policy, or one of " + strings.Join(names, ", ")
	case strings.HasPrefix(message, "there is no job."):
		return "of a job there are " + names("job.")
	case strings.HasPrefix(message, "there is no slot."):
		return "of a slot there are " + names("slot.")
	}
	return ""
}

func names(prefix string) string {
	var out []string
	for _, a := range Attributes {
		if name, ok := strings.CutPrefix(a.Name, prefix); ok {
			out = append(out, name)
		}
	}
	return strings.Join(out, ", ")
}

// comment returns the lines of // that a source begins with.
func comment(source string) string {
	var out []string
	for line := range strings.Lines(source) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "//")
		if !ok {
			break
		}
		out = append(out, strings.TrimSpace(text))
	}
	return strings.Join(out, " ")
}

func parse(source string) (ast.Node, error) {
	config := conf.CreateNew()
	for _, option := range options() {
		option(config)
	}
	for name := range config.Disabled {
		delete(config.Builtins, name)
	}
	tree, err := parser.ParseWithConfig(source, config)
	if err != nil {
		return nil, err
	}
	return tree.Node, nil
}

// includer puts the expressions of other policies in place of their names.
type includer struct {
	others func(string) (string, bool)
	within []string // policies that are being read, outermost first
	err    error
}

// Visit is called for every node, children first.
func (c *includer) Visit(n *ast.Node) {
	if c.err != nil || c.others == nil {
		return
	}
	complain := func(format string, args ...any) {
		c.err = &file.Error{Location: (*n).Location(), Message: fmt.Sprintf(format, args...)}
	}
	if let, ok := (*n).(*ast.VariableDeclaratorNode); ok {
		if _, taken := c.others(let.Name); taken {
			complain("let %s: that is the name of a policy; choose another", let.Name)
		}
		return
	}
	id, ok := (*n).(*ast.IdentifierNode)
	if !ok {
		return
	}
	source, ok := c.others(id.Value)
	if !ok {
		return
	}
	if slices.Contains(c.within, id.Value) {
		complain("policies name each other in a circle: %s -> %s", strings.Join(c.within, " -> "), id.Value)
		return
	}
	tree, err := parse(source)
	if err != nil {
		complain("policy %s: %s", id.Value, err)
		return
	}
	if manyLevels(tree) {
		complain("policy %s has several levels in brackets and is no number", id.Value)
		return
	}
	inner := &includer{others: c.others, within: append(slices.Clone(c.within), id.Value)}
	ast.Walk(&tree, inner)
	if inner.err != nil {
		complain("policy %s: %s", id.Value, inner.err)
		return
	}
	ast.Patch(n, tree)
}
