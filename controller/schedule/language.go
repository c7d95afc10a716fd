package schedule

import (
	"math"
	"slices"

	"github.com/expr-lang/expr"
)

// environment is what the policy language is checked against.
type environment struct {
	Job  JobAttributes  `expr:"job"`
	Slot SlotAttributes `expr:"slot"`
}

// function is a function of the policy language; vectors of its arguments come
// in, all of the same length, and the first is written to.
type function struct {
	name, form, text string
	least, most      int
	do               func(args ...float64) float64
	rising           bool // its result never falls where an argument rises, and never overflows
}

// never is below every score, lowest what one counts as that is no number.
const (
	never  = -1e300
	lowest = -1e290
)

// functions are all there are: none loops, so that every policy ends.
var functions = []function{
	{"abs", "abs(x)", "x without its sign", 1, 1, func(a ...float64) float64 { return math.Abs(a[0]) }, false},
	{"ceil", "ceil(x)", "x rounded up", 1, 1, func(a ...float64) float64 { return math.Ceil(a[0]) }, true},
	{"clamp", "clamp(x, low, high)", "x, but not below low nor above high", 3, 3, func(a ...float64) float64 { return min(max(a[0], a[1]), a[2]) }, true},
	{"exp", "exp(x)", "e to the power of x", 1, 1, func(a ...float64) float64 { return math.Exp(a[0]) }, false},
	{"floor", "floor(x)", "x rounded down", 1, 1, func(a ...float64) float64 { return math.Floor(a[0]) }, true},
	{"halving", "halving(x, half)", "2^(-x/half): 1 at 0, 0.5 at half, 0 far off", 2, 2, func(a ...float64) float64 { return math.Exp2(-a[0] / a[1]) }, false},
	{"never", "never()", "the score of a job that is not to have the slot, even if nobody else wants it", 0, 0, func(...float64) float64 { return never }, false},
	{"log", "log(x)", "the natural logarithm of x", 1, 1, func(a ...float64) float64 { return math.Log(a[0]) }, true},
	{"max", "max(x, y, ...)", "the greatest", 2, 8, func(a ...float64) float64 {
		most := a[0]
		for _, x := range a[1:] {
			most = max(most, x)
		}
		return most
	}, true},
	{"min", "min(x, y, ...)", "the least", 2, 8, func(a ...float64) float64 {
		least := a[0]
		for _, x := range a[1:] {
			least = min(least, x)
		}
		return least
	}, true},
	{"round", "round(x)", "x rounded to a whole number, halves away from 0", 1, 1, func(a ...float64) float64 { return math.Round(a[0]) }, true},
	{"sqrt", "sqrt(x)", "the square root of x", 1, 1, func(a ...float64) float64 { return math.Sqrt(a[0]) }, true},
}

// Functions lists the language's functions: how each is written, and what it
// gives.
func Functions() [][2]string {
	out := make([][2]string, len(functions))
	for i, f := range functions {
		out[i] = [2]string{f.form, f.text}
	}
	return out
}

func functionNamed(name string) (function, bool) {
	i := slices.IndexFunc(functions, func(f function) bool { return f.name == name })
	if i < 0 {
		return function{}, false
	}
	return functions[i], true
}

// most nodes of an expression: ten times what the largest shipped policy has.
const maxNodes = 250

// options of the compiler: our names and functions, none of its own.
func options(more ...expr.Option) []expr.Option {
	out := []expr.Option{expr.Env(environment{}), expr.DisableAllBuiltins(), expr.Optimize(false), expr.MaxNodes(maxNodes)}
	none, one, two := new(func() float64), new(func(float64) float64), new(func(float64, float64) float64)
	three, many := new(func(float64, float64, float64) float64), new(func(float64, float64, ...float64) float64)
	for _, f := range functions {
		shape := map[int]any{0: none, 1: one, 2: two, 3: three}[f.most]
		if shape == nil {
			shape = many
		}
		out = append(out, expr.Function(f.name, func(args ...any) (any, error) {
			numbers := make([]float64, len(args))
			for i, a := range args {
				numbers[i] = number(a)
			}
			return f.do(numbers...), nil
		}, shape))
	}
	return append(out, more...)
}

// number reads what the language calls a number.
func number(v any) float64 {
	switch n := v.(type) {
	case float64:
		return n
	case int:
		return float64(n)
	}
	return math.NaN()
}
