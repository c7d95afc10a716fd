package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"pipefill"
)

// LimitKind says what keeps a configuration from running.
type LimitKind string

// The limits.
const (
	LimitTime       LimitKind = "time"        // an op with its swapping takes longer than every bubble
	LimitMemory     LimitKind = "memory"      // an op needs more than is free in any bubble long enough for it
	LimitAlwaysFree LimitKind = "always free" // what stays between bubbles is more than is always free
	LimitBubbles    LimitKind = "bubbles"     // there is none that is offered
)

// Limit is why a configuration cannot run: the op that is furthest from fitting,
// and what it needs and has, in nanoseconds or bytes.
type Limit struct {
	Job    string
	Config int
	Label  string // "config 0 (batch 8, plain)"
	Kind   LimitKind
	Op     int // -1: the configuration as a whole
	OpName string
	Need   int64
	Have   int64
}

// Over is by how much the limit is exceeded.
func (l *Limit) Over() int64 { return l.Need - l.Have }

// Error says which limit and by how much.
func (l *Limit) Error() string {
	switch l.Kind {
	case LimitTime:
		return fmt.Sprintf("%s of %q: op %d (%s) takes %s with swapping, and the longest bubble has %s: %s too short",
			l.Label, l.Job, l.Op, l.OpName, ms(l.Need), ms(l.Have), ms(l.Over()))
	case LimitMemory:
		return fmt.Sprintf("%s of %q: op %d (%s) needs %s with what is resident, and the bubbles long enough for it have at most %s free: %s too little",
			l.Label, l.Job, l.Op, l.OpName, bytesText(l.Need), bytesText(l.Have), bytesText(l.Over()))
	case LimitAlwaysFree:
		return fmt.Sprintf("%s of %q: %s stay on the device between bubbles, and %s are always free: %s too little",
			l.Label, l.Job, bytesText(l.Need), bytesText(l.Have), bytesText(l.Over()))
	default:
		return "the bubble cycle has no bubble that is offered to fill jobs"
	}
}

// ratio orders limits by how far they are from being met.
func (l *Limit) ratio() float64 { return float64(l.Need) / float64(max(l.Have, 1)) }

func ms(ns int64) string { return fmt.Sprintf("%.3f ms", float64(ns)/1e6) }

func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d B", n)
}

// limitOf is what keeps a configuration from running; nil if nothing does.
func limitOf(job string, config *Config, index int, c pipefill.BubbleCycle) *Limit {
	l := &Limit{Job: job, Config: index, Label: config.label(index), Op: -1}
	bubbles := offered(c)
	if len(bubbles) == 0 {
		l.Kind = LimitBubbles
		return l
	}
	if stays := config.staysBytes(); stays > alwaysFree(c) {
		l.Kind, l.Need, l.Have = LimitAlwaysFree, stays, c.AlwaysFreeBytes
		return l
	}
	var worst *Limit
	for i := range config.Ops {
		if one := l.ofOp(config, i, bubbles); one != nil && (worst == nil || one.ratio() > worst.ratio()) {
			worst = one
		}
	}
	if worst == nil && config.live() {
		search := newSearch(newCuts(newWay(config, index, bubbles), alwaysFree(c)))
		if o := search.run(); o.passes == 0 {
			return search.stuck(*l, o.start, alwaysFree(c))
		}
	}
	return worst
}

// ofOp is why one op fits no bubble.
func (l *Limit) ofOp(config *Config, op int, bubbles []pipefill.Bubble) *Limit {
	needNs := config.SwapInNs + config.SwapOutNs + config.Ops[op].TimeNs
	needBytes := config.ResidentBytes + config.Ops[op].PeakBytes
	var longest, freest int64
	long := false
	for _, b := range bubbles {
		longest = max(longest, b.DurationNs)
		if b.DurationNs < needNs {
			continue
		}
		if b.FreeBytes >= needBytes {
			return nil
		}
		long, freest = true, max(freest, b.FreeBytes)
	}
	one := *l
	one.Op, one.OpName = op, config.Ops[op].Name
	one.Kind, one.Need, one.Have = LimitTime, needNs, longest
	if long {
		one.Kind, one.Need, one.Have = LimitMemory, needBytes, freest
	}
	return &one
}

// cannotFit says why no configuration runs: the one nearest to it first.
func cannotFit(profiles []Profile, c pipefill.BubbleCycle) error {
	var limits []*Limit
	for _, p := range profiles {
		for k := range p.Configs {
			if l := limitOf(p.Name, &p.Configs[k], k, c); l != nil {
				limits = append(limits, l)
			}
		}
	}
	if len(limits) == 0 {
		return pipefill.Errorf(pipefill.CodeInternal, "no configuration runs, and none has a limit in its way")
	}
	slices.SortStableFunc(limits, func(a, b *Limit) int { return cmp.Compare(a.ratio(), b.ratio()) })
	nearest := limits[0]
	text := "nothing fits"
	if len(limits) > 1 {
		text = fmt.Sprintf("none of %d configurations fits; nearest is", len(limits))
	}
	return &pipefill.Error{
		Code: pipefill.CodeConflict, Message: text + ": " + nearest.Error() + advice(nearest.Kind),
		Err: nearest,
	}
}

func advice(kind LimitKind) string {
	return map[LimitKind]string{
		LimitTime:       ": profile a smaller batch, or smaller ops",
		LimitMemory:     ": profile a smaller batch, checkpointing or offloading",
		LimitAlwaysFree: ": profile with offloading",
		LimitBubbles:    ": wait until some are learned",
	}[kind]
}

// LimitOf returns the limit in an error's chain.
func LimitOf(err error) (*Limit, bool) { return errors.AsType[*Limit](err) }
