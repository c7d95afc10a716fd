package schedule

import "math"

// A policy is evaluated over blocks of jobs for one slot, an operation at a
// time: some 2 ns an operation and job, where expr's machine takes 400 ns a
// score. Tests hold both against each other.
const block = 256

// batch is a block of jobs and the room to work in.
type batch struct {
	context

	first     int // the block's first job
	registers [][block]float64
}

// node is an operation. bool is 0 or 1.
type node interface {
	// eval writes len(out) results, of the first jobs of b.
	eval(b *batch, out []float64)
	// pace tells how results move with time alone; scalar, that they do not
	// depend on the job.
	pace() pace
	scalar() bool
}

type trait struct {
	p pace
	s bool
}

func (t trait) pace() pace   { return t.p }
func (t trait) scalar() bool { return t.s }

type constant struct {
	trait

	value float64
}

func (n *constant) eval(_ *batch, out []float64) { fill(out, n.value) }

func fill(out []float64, value float64) {
	for i := range out {
		out[i] = value
	}
}

type attributeNode struct {
	trait
	Attribute
}

func (n *attributeNode) eval(b *batch, out []float64) {
	switch {
	case n.s:
		fill(out, n.number(&b.context, 0))
	case n.column != nil:
		copy(out, n.column(b.columns)[b.first:])
	case n.numbers != nil:
		n.numbers(&b.context, b.first, out)
	default:
		for i := range out {
			out[i] = n.number(&b.context, b.first+i)
		}
	}
}

func (n *attributeNode) pace() pace { return n.p }

// spread evaluates n, once if one result does for all.
func spread(b *batch, n node, out []float64) {
	if !n.scalar() || len(out) < 2 {
		n.eval(b, out)
		return
	}
	n.eval(b, out[:1])
	fill(out[1:], out[0])
}

type unary struct {
	trait

	x   node
	not bool // else minus
}

func (n *unary) eval(b *batch, out []float64) {
	spread(b, n.x, out)
	for i, x := range out {
		if n.not {
			out[i] = 1 - x
		} else {
			out[i] = -x
		}
	}
}

type binary struct {
	trait

	left, right node
	register    int
	op          string
	do          func(x, y float64) float64
}

var operations = map[string]func(x, y float64) float64{
	"+":  func(x, y float64) float64 { return x + y },
	"-":  func(x, y float64) float64 { return x - y },
	"*":  func(x, y float64) float64 { return x * y },
	"/":  func(x, y float64) float64 { return x / y },
	"**": math.Pow,
	"^":  math.Pow,
	"<":  func(x, y float64) float64 { return flag(x < y) },
	"<=": func(x, y float64) float64 { return flag(x <= y) },
	">":  func(x, y float64) float64 { return flag(x > y) },
	">=": func(x, y float64) float64 { return flag(x >= y) },
	"==": func(x, y float64) float64 { return flag(x == y) },
	"!=": func(x, y float64) float64 { return flag(x != y) },
	"&&": func(x, y float64) float64 { return x * y },
	"||": func(x, y float64) float64 { return max(x, y) },
}

func (n *binary) eval(b *batch, out []float64) {
	spread(b, n.left, out)
	right := b.registers[n.register][:len(out)]
	spread(b, n.right, right)
	switch n.op {
	case "+":
		for i, y := range right {
			out[i] += y
		}
	case "-":
		for i, y := range right {
			out[i] -= y
		}
	case "*":
		for i, y := range right {
			out[i] *= y
		}
	case "/":
		for i, y := range right {
			out[i] /= y
		}
	case "&&":
		for i, y := range right {
			out[i] *= y
		}
	case "<":
		for i, y := range right {
			out[i] = flag(out[i] < y)
		}
	case ">":
		for i, y := range right {
			out[i] = flag(out[i] > y)
		}
	case ">=":
		for i, y := range right {
			out[i] = flag(out[i] >= y)
		}
	default:
		for i, y := range right {
			out[i] = n.do(out[i], y)
		}
	}
}

type choice struct {
	trait

	cond, yes, no node
	register      int // and the one after it
}

func (n *choice) eval(b *batch, out []float64) {
	cond, no := b.registers[n.register][:len(out)], b.registers[n.register+1][:len(out)]
	spread(b, n.cond, cond)
	spread(b, n.yes, out)
	spread(b, n.no, no)
	for i, c := range cond {
		bits := math.Float64bits(out[i]) // see flag
		if math.Float64bits(c) == 0 {
			bits = math.Float64bits(no[i])
		}
		out[i] = math.Float64frombits(bits)
	}
}

type call struct {
	trait

	do       func(args ...float64) float64
	rising   bool                       // with each argument
	pairs    func(out, right []float64) // the same of two arguments, for many; nil: there is none
	args     []node
	register int // of the first argument
}

func (n *call) eval(b *batch, out []float64) {
	if n.pairs != nil {
		right := b.registers[n.register][:len(out)]
		spread(b, n.args[0], out)
		spread(b, n.args[1], right)
		n.pairs(out, right)
		return
	}
	var args [8]float64
	for i, a := range n.args {
		spread(b, a, b.registers[n.register+i][:len(out)])
	}
	for i := range out {
		for k := range n.args {
			args[k] = b.registers[n.register+k][i]
		}
		out[i] = n.do(args[:len(n.args)]...)
	}
}

// let evaluates a variable once into its register.
type let struct {
	trait

	value, body node
	register    int
}

func (n *let) eval(b *batch, out []float64) {
	spread(b, n.value, b.registers[n.register][:len(out)])
	n.body.eval(b, out)
}

type recall struct {
	trait

	register int
	trend    trend
}

func (n *recall) eval(b *batch, out []float64) { copy(out, b.registers[n.register][:len(out)]) }

// textTest tests a text, as job.user == "ann".
type textTest struct {
	trait

	text  func(c *context, i int) string
	holds func(string) bool
}

func (n *textTest) eval(b *batch, out []float64) {
	if n.s {
		fill(out, flag(n.holds(n.text(&b.context, 0))))
		return
	}
	for i := range out {
		out[i] = flag(n.holds(n.text(&b.context, b.first+i)))
	}
}
