package schedule

// trend tells which way a job's number goes as time passes, whatever its pace.
type trend int

const (
	stays trend = iota
	falls
	rises
	swings
)

func (t trend) turned() trend {
	switch t {
	case falls:
		return rises
	case rises:
		return falls
	case stays, swings:
	}
	return t
}

// both is the trend of what goes up with both of two numbers.
func both(a, b trend) trend {
	switch {
	case a == stays || a == b:
		return b
	case b == stays:
		return a
	}
	return swings
}

// trendOf is the trend of an expression. It says swings where it cannot tell.
func trendOf(n node) trend {
	if n.pace() == still {
		return stays
	}
	switch n := n.(type) {
	case *attributeNode:
		return n.trend
	case *unary:
		return trendOf(n.x).turned()
	case *binary:
		return n.trend()
	case *choice:
		return n.trend()
	case *call:
		if n.rising {
			all := stays
			for _, a := range n.args {
				all = both(all, trendOf(a))
			}
			return all
		}
	case *let:
		return trendOf(n.body)
	case *recall:
		return n.trend
	}
	return swings
}

func (n *binary) trend() trend {
	x, y := trendOf(n.left), trendOf(n.right)
	switch n.op {
	case "+", "&&", "||": // flags are 0 or 1
		return both(x, y)
	case "-", ">", ">=":
		return both(x, y.turned())
	case "<", "<=":
		return both(x.turned(), y)
	case "*", "/":
		switch k, ok := valueOf(n.right); {
		case !ok:
		case k < 0:
			return x.turned()
		default:
			return x
		}
	}
	return swings
}

// valueOf is that of a number as it is written.
func valueOf(n node) (value float64, ok bool) {
	switch n := n.(type) {
	case *constant:
		return n.value, true
	case *unary:
		if value, ok = valueOf(n.x); n.not {
			return 1 - value, ok
		}
		return -value, ok
	}
	return 0, false
}

// trend of CONDITION ? YES : NO is known where one of the three moves.
func (n *choice) trend() trend {
	yes, ok1 := valueOf(n.yes)
	no, ok2 := valueOf(n.no)
	switch cond := trendOf(n.cond); {
	case cond == stays:
		return both(trendOf(n.yes), trendOf(n.no))
	case !ok1 || !ok2:
		return swings
	case yes < no:
		return cond.turned()
	default:
		return cond
	}
}

// A level of a score that only falls is a bound of what it is later on: a job that
// comes up in an index is looked at again, and put where it belongs, so that
// nothing is worked out anew for the others. Its table is the index's own: what
// is below the top must not fall unseen.

// current tells whether a job that has come up has the numbers that it is said to
// have; if not, it has them now.
func (s *Scheduler) current(x *index, i int32) bool {
	t, same := x.table, true
	at := int(i) * t.stride
	var was [1 + maxLevels]float64
	copy(was[:], t.scores[at:at+t.stride])
	for l := range t.nowMs {
		if s.policy.levelUses[l].falls {
			s.scorePart(&s.batch, t, l, int(i), int(i)+1)
		}
	}
	for l, score := range t.scores[at : at+t.stride] {
		same = same && score == was[l]
	}
	return same
}

// putDown puts the best job of the first group where it belongs now.
func (s *Scheduler) putDown(x *index) {
	b := &x.buckets[x.top[0]]
	last := len(b.jobs) - 1
	i := b.jobs[last]
	at := last - 1
	for at >= last+1-b.ready && s.before(x, b.jobs[at], i) {
		b.jobs[at+1] = b.jobs[at]
		at--
	}
	b.jobs[at+1] = i
	if at+1 == last+1-b.ready && last+1 > b.ready { // behind all that are in order, and maybe behind others
		if b.ready--; b.ready == 0 {
			s.prepare(x, b)
		}
	}
	s.sink(x, 0)
}

// exact works falling levels out for all jobs as of now.
func (s *Scheduler) exact(t *table) {
	if !s.policy.uses.falls {
		return
	}
	for l := range t.nowMs {
		if s.policy.levelUses[l].falls {
			s.score(t, l, 0, t.upto)
		}
	}
	t.run++
}
