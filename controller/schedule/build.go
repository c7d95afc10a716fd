package schedule

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
)

// builder turns a checked tree into nodes.
type builder struct {
	source    string
	variables map[string]*variable
	deepest   int // register in use
	uses      uses
	levelUses []uses
	names     []string
}

type variable struct {
	number node
	text   *textNode
}

type textNode struct {
	trait

	get func(c *context, i int) string
}

// stop is how the builder gives up, from however deep.
type stop struct{ err *file.Error }

func (b *builder) stop(n ast.Node, format string, args ...any) {
	panic(stop{&file.Error{Location: n.Location(), Message: fmt.Sprintf(format, args...)}})
}

// levels builds the numbers of a score.
func (b *builder) levels(tree ast.Node) (levels []node, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, ok := r.(stop)
			if !ok {
				panic(r)
			}
			err = s.err.Bind(file.NewSource(b.source))
		}
	}()
	for _, n := range b.split(tree) {
		before := b.uses
		b.uses.shares, b.uses.running, b.uses.ends = false, false, false
		levels = append(levels, b.number(n, 0))
		b.levelUses = append(b.levelUses, b.uses)
		b.uses.shares, b.uses.running, b.uses.ends = b.uses.shares || before.shares, b.uses.running || before.running, b.uses.ends || before.ends
	}
	return levels, nil
}

// split parts let x = y; [a, b] into let x = y; a and let x = y; b.
func (b *builder) split(tree ast.Node) []ast.Node {
	switch n := tree.(type) {
	case *ast.VariableDeclaratorNode:
		var out []ast.Node
		for _, level := range b.split(n.Expr) {
			declared := *n
			declared.Expr = level
			out = append(out, &declared)
		}
		return out
	case *ast.ArrayNode:
		if len(n.Nodes) == 0 || len(n.Nodes) > maxLevels {
			b.stop(tree, "a score has 1 to %d levels in brackets, this one has %d", maxLevels, len(n.Nodes))
		}
		for _, level := range n.Nodes {
			b.mustScore(level)
		}
		return n.Nodes
	}
	b.mustScore(tree)
	return []ast.Node{tree}
}

func (b *builder) mustScore(n ast.Node) {
	if kindOf(n) != reflect.Float64 {
		b.stop(n, "a score is a number, this is a %s: write CONDITION ? NUMBER : NUMBER", kindOf(n))
	}
}

// manyLevels tells whether a policy's result is an array.
func manyLevels(tree ast.Node) bool {
	for {
		switch n := tree.(type) {
		case *ast.VariableDeclaratorNode:
			tree = n.Expr
		case *ast.ArrayNode:
			return true
		default:
			return false
		}
	}
}

// kindOf is Float64 for every number. The checker does not know the type of
// CONDITION ? 1 : 0.5, which is a number all the same, nor of what it is part of.
func kindOf(n ast.Node) reflect.Kind {
	kind := n.Type().Kind()
	switch kind {
	case reflect.Int, reflect.Int64, reflect.Float64:
		return reflect.Float64
	case reflect.Interface:
	default:
		return kind
	}
	switch n := n.(type) {
	case *ast.ConditionalNode:
		if yes := kindOf(n.Exp1); yes == kindOf(n.Exp2) {
			return yes
		}
	case *ast.VariableDeclaratorNode:
		return kindOf(n.Expr)
	case *ast.UnaryNode:
		return kindOf(n.Node)
	case *ast.BinaryNode:
		if left := kindOf(n.Left); left == reflect.Interface || left == kindOf(n.Right) {
			return left
		}
	case *ast.IdentifierNode:
		return reflect.Float64 // a variable: the builder knows
	}
	return kind
}

func (b *builder) take(register, count int) int {
	b.deepest = max(b.deepest, register+count-1)
	return register
}

// number builds a number or bool; registers from free on are not in use.
func (b *builder) number(tree ast.Node, free int) node {
	switch n := tree.(type) {
	case *ast.IntegerNode:
		return &constant{trait{still, true}, float64(n.Value)}
	case *ast.FloatNode:
		return &constant{trait{still, true}, n.Value}
	case *ast.BoolNode:
		return &constant{trait{still, true}, flag(n.Value)}
	case *ast.MemberNode:
		a := b.attribute(n)
		if !a.numeric() {
			b.stop(n, "%s is a text and no number", a.Name)
		}
		return &attributeNode{traitOf(a), a}
	case *ast.IdentifierNode:
		if v := b.variables[n.Value]; v != nil && v.number != nil {
			return v.number
		}
	case *ast.UnaryNode:
		x := b.number(n.Node, free)
		if n.Operator == "+" {
			return x
		}
		not := n.Operator == "!" || n.Operator == "not"
		t := trait{x.pace(), x.scalar()}
		if not {
			t = joined(x)
		}
		return &unary{t, x, not}
	case *ast.BinaryNode:
		return b.binary(n, free)
	case *ast.ConditionalNode:
		r := b.take(free, 2)
		cond, yes, no := b.number(n.Cond, free+2), b.number(n.Exp1, free+2), b.number(n.Exp2, free+2)
		return &choice{joined(cond, yes, no), cond, yes, no, r}
	case *ast.CallNode:
		return b.call(n, free)
	case *ast.VariableDeclaratorNode:
		return b.let(n, free)
	}
	b.stop(tree, "a policy cannot use this: write numbers, job.NAME, slot.NAME, let, + - * / **, comparisons, and, or, not, in, ? : and functions")
	return nil
}

func (b *builder) call(n *ast.CallNode, free int) node {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok {
		b.stop(n, "this is no function")
	}
	f, ok := functionNamed(callee.Value)
	if !ok || len(n.Arguments) < f.least || len(n.Arguments) > f.most {
		b.stop(n, "%s: write %s", callee.Value, f.form)
	}
	if f.most == 0 {
		return &constant{trait{still, true}, f.do()}
	}
	c := &call{do: f.do, rising: f.rising, register: b.take(free, len(n.Arguments))}
	for i, a := range n.Arguments {
		if kindOf(a) != reflect.Float64 {
			b.stop(a, "%s takes numbers", f.name)
		}
		c.args = append(c.args, b.number(a, free+i+1+len(n.Arguments)))
	}
	c.trait = joined(c.args...)
	if len(c.args) == 2 {
		c.pairs = pairwise[f.name]
	}
	return c
}

// pairwise are the functions of two arguments that policies call often.
var pairwise = map[string]func(out, right []float64){
	"min": func(out, right []float64) {
		for i, y := range right {
			out[i] = min(out[i], y)
		}
	},
	"max": func(out, right []float64) {
		for i, y := range right {
			out[i] = max(out[i], y)
		}
	},
}

func (b *builder) let(n *ast.VariableDeclaratorNode, free int) node {
	if n.Value.Type().Kind() == reflect.String {
		b.variables[n.Name] = &variable{text: b.text(n.Value)}
		return b.number(n.Expr, free)
	}
	if !mentions(n.Expr, n.Name) {
		// Of a level that does not ask for it, it is only looked at for mistakes.
		uses := b.uses
		b.number(n.Value, free+1)
		b.uses = uses
		return b.number(n.Expr, free)
	}
	l := &let{register: b.take(free, 1)}
	l.value = b.number(n.Value, free+1)
	b.variables[n.Name] = &variable{number: &recall{trait{l.value.pace(), false}, l.register, trendOf(l.value)}}
	l.body = b.number(n.Expr, free+1)
	delete(b.variables, n.Name)
	l.trait = trait{l.body.pace(), false}
	return l
}

// mentions tells whether an expression asks for a variable.
func mentions(tree ast.Node, name string) bool {
	m := mention{name: name}
	ast.Walk(&tree, &m)
	return m.found
}

type mention struct {
	name  string
	found bool
}

// Visit is called for every node.
func (m *mention) Visit(n *ast.Node) {
	if id, ok := (*n).(*ast.IdentifierNode); ok && id.Value == m.name {
		m.found = true
	}
}

func traitOf(a Attribute) trait { return trait{a.pace, strings.HasPrefix(a.Name, "slot.")} }

// joined is the trait of what may jump where its operands pass a value.
func joined(nodes ...node) trait {
	t := trait{still, true}
	for _, n := range nodes {
		t.s = t.s && n.scalar()
		if n.pace() != still {
			t.p = freely
		}
	}
	if t.s && t.p == freely {
		t.p = evenly // alike for all jobs, however it moves
	}
	return t
}

// binary builds an operator of two operands.
func (b *builder) binary(n *ast.BinaryNode, free int) node {
	if isText(n.Left) || isText(n.Right) || n.Operator == "in" {
		return b.membership(n, free)
	}
	op := map[string]string{"and": "&&", "or": "||"}[n.Operator]
	if op == "" {
		op = n.Operator
	}
	do := operations[op]
	if do == nil {
		b.stop(n, "a policy cannot use the operator %s", n.Operator)
	}
	r := b.take(free, 1)
	out := &binary{left: b.number(n.Left, free), right: b.number(n.Right, free+1), register: r, op: op, do: do}
	out.trait = joined(out.left, out.right)
	x, y := out.left, out.right
	switch {
	case op == "+" || op == "-":
		out.p = max(x.pace(), y.pace())
	case op == "*" && x.scalar() && x.pace() == still, op == "/" && y.scalar() && y.pace() == still, op == "*" && y.scalar() && y.pace() == still:
		out.p = max(x.pace(), y.pace())
	}
	return out
}

func isText(n ast.Node) bool { return n.Type().Kind() == reflect.String }

// membership builds what tests texts, and in.
func (b *builder) membership(n *ast.BinaryNode, free int) node {
	if !isText(n.Left) {
		return b.numberIn(n, free)
	}
	left := b.text(n.Left)
	test := &textTest{trait: left.trait, text: left.get}
	if n.Operator == "in" {
		list := []string{}
		array, ok := n.Right.(*ast.ArrayNode)
		if !ok {
			b.stop(n.Right, "write a list, as [\"a\", \"b\"]")
		}
		for _, e := range array.Nodes {
			s, ok := e.(*ast.StringNode)
			if !ok {
				b.stop(e, "write a text in quotes")
			}
			list = append(list, s.Value)
		}
		test.holds = func(s string) bool { return slices.Contains(list, s) }
		return test
	}
	literal, ok := n.Right.(*ast.StringNode)
	if !ok {
		b.stop(n.Right, "compare a text with one in quotes")
	}
	want := literal.Value
	switch n.Operator {
	case "==":
		test.holds = func(s string) bool { return s == want }
	case "!=":
		test.holds = func(s string) bool { return s != want }
	case "contains":
		test.holds = func(s string) bool { return strings.Contains(s, want) }
	case "startsWith":
		test.holds = func(s string) bool { return strings.HasPrefix(s, want) }
	case "endsWith":
		test.holds = func(s string) bool { return strings.HasSuffix(s, want) }
	case "matches":
		pattern, err := regexp.Compile(want)
		if err != nil {
			b.stop(n.Right, "%s", err)
		}
		test.holds = pattern.MatchString
	default:
		b.stop(n, "the operator %s is not for texts", n.Operator)
	}
	return test
}

// numberIn builds NUMBER in [NUMBERS].
func (b *builder) numberIn(n *ast.BinaryNode, free int) node {
	array, ok := n.Right.(*ast.ArrayNode)
	if !ok || n.Operator != "in" {
		b.stop(n, "write NUMBER in [NUMBER, ...]")
	}
	c := &call{register: b.take(free, 1), args: []node{b.number(n.Left, free+1)}}
	var list []float64
	for _, e := range array.Nodes {
		k, ok := b.number(e, free+1).(*constant)
		if !ok {
			b.stop(e, "write a number")
		}
		list = append(list, k.value)
	}
	c.do = func(args ...float64) float64 { return flag(slices.Contains(list, args[0])) }
	c.trait = joined(c.args...)
	return c
}

func (b *builder) text(tree ast.Node) *textNode {
	switch n := tree.(type) {
	case *ast.MemberNode:
		if a := b.attribute(n); a.text != nil {
			return &textNode{traitOf(a), a.text}
		}
	case *ast.IdentifierNode:
		if v := b.variables[n.Value]; v != nil && v.text != nil {
			return v.text
		}
	case *ast.StringNode:
		return &textNode{trait{still, true}, func(*context, int) string { return n.Value }}
	}
	b.stop(tree, "write job.NAME or slot.NAME of a text")
	return nil
}

// attribute finds job.NAME or slot.NAME and notes what it rests on.
func (b *builder) attribute(n *ast.MemberNode) Attribute {
	of, ok1 := n.Node.(*ast.IdentifierNode)
	property, ok2 := n.Property.(*ast.StringNode)
	if !ok1 || !ok2 {
		b.stop(n, "write job.NAME or slot.NAME")
	}
	name := of.Value + "." + property.Value
	i := slices.IndexFunc(Attributes, func(a Attribute) bool { return a.Name == name })
	if i < 0 {
		b.stop(n, "there is no %s", name)
	}
	a := Attributes[i]
	b.names = append(b.names, name)
	b.uses.shares = b.uses.shares || a.shares
	b.uses.running = b.uses.running || a.running
	b.uses.ends = b.uses.ends || a.ends
	switch name {
	case "job.time_s", "job.speed", "job.slack_s": // elsewhere_s is of other slots
		b.uses.timed = true
	case "job.misfit", "job.done_s":
		b.uses.timed, b.uses.worth = true, true
	case "slot.share":
		b.uses.share = true
	case "slot.iteration_s", "slot.longest_s", "slot.bubbles":
		b.uses.cycle = true
	case "slot.free_bytes":
		b.uses.free = true
	case "slot.remaining_s":
		b.uses.remains = true
	case "slot.kind":
		b.uses.kind = true
	case "slot.node":
		b.uses.node = true
	}
	return a
}
