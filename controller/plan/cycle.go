package plan

import (
	"fmt"
	"io"
	"math"
	"slices"

	"pipefill"
)

var bubbleKinds = []string{
	pipefill.BubbleFillDrain.String(), pipefill.BubbleFwdBwd.String(), pipefill.BubbleSteady.String(),
	pipefill.BubbleComm.String(), pipefill.BubbleOther.String(),
}

// DecodeCycle reads a bubble cycle; name is the file's, for messages. Its errors
// are pipefill.CodeInvalid and name line, place, value and rule. An
// always_free_bytes of 0 becomes 1, since 0 says in a pipefill.BubbleCycle that
// no limit is known.
func DecodeCycle(r io.Reader, name string) (pipefill.BubbleCycle, error) {
	d, root, err := parse(r, name, "a bubble cycle")
	if err != nil {
		return pipefill.BubbleCycle{}, err
	}
	d.version(root)
	o := d.object(root, "the bubble cycle", []string{"version", "iteration_ns", "bubbles"}, []string{"always_free_bytes"})
	c := pipefill.BubbleCycle{Version: Version, IterationNs: d.whole(o["iteration_ns"], "iteration_ns", 1, most)}
	if n := o["always_free_bytes"]; n != nil {
		c.AlwaysFreeBytes = max(1, d.whole(n, "always_free_bytes", 0, most))
	}
	seen := map[int]bool{}
	for i, n := range d.list(o["bubbles"], "bubbles") {
		where := fmt.Sprintf("bubbles[%d]", i)
		f := d.object(n, where, []string{"index", "kind", "start_ns", "duration_ns", "free_bytes"}, nil)
		b := pipefill.Bubble{
			Index:      int(d.whole(f["index"], where+".index", 0, math.MaxInt32)),
			Kind:       d.word(f["kind"], where+".kind", bubbleKinds),
			StartNs:    d.whole(f["start_ns"], where+".start_ns", 0, most),
			DurationNs: d.whole(f["duration_ns"], where+".duration_ns", 0, most),
			FreeBytes:  d.whole(f["free_bytes"], where+".free_bytes", 0, most),
		}
		switch {
		case seen[b.Index]:
			d.fail(f["index"], "%s.index is %d, as that of an earlier bubble: each has its own", where, b.Index)
		case b.StartNs >= c.IterationNs:
			d.fail(f["start_ns"], "%s.start_ns is %d, and the iteration takes %d: a bubble begins within it", where, b.StartNs, c.IterationNs)
		case i > 0 && d.err == nil && b.StartNs < c.Bubbles[i-1].StartNs:
			d.fail(f["start_ns"], "%s.start_ns is %d, before bubbles[%d] at %d: write bubbles in their order", where, b.StartNs, i-1, c.Bubbles[i-1].StartNs)
		}
		seen[b.Index] = true
		c.Bubbles = append(c.Bubbles, b)
	}
	return c, d.err
}

// offered are the bubbles that fill jobs may have.
func offered(c pipefill.BubbleCycle) []pipefill.Bubble {
	var out []pipefill.Bubble
	for _, b := range c.Bubbles {
		if b.Kind != pipefill.BubbleComm.String() && b.Kind != pipefill.BubbleOther.String() && b.DurationNs >= 0 {
			out = append(out, b)
		}
	}
	return out
}

// alwaysFree is the least free memory over the iteration; most where none is known.
func alwaysFree(c pipefill.BubbleCycle) int64 {
	if c.AlwaysFreeBytes > 0 {
		return c.AlwaysFreeBytes
	}
	return most
}

// WithDevice returns a cycle that a node has learned as DecodeCycle would read
// it: starts, which are learned one by one, in order and within the iteration,
// and where the main job does not tell what memory is free, all that the device
// has (totalBytes, 0: not known either).
func WithDevice(c pipefill.BubbleCycle, totalBytes int64) pipefill.BubbleCycle {
	c.Version = Version
	known := c.AlwaysFreeBytes > 0
	for _, b := range c.Bubbles {
		known = known || b.FreeBytes > 0
	}
	if totalBytes <= 0 {
		totalBytes = most
	}
	bubbles := slices.Clone(c.Bubbles)
	var last int64
	for i := range bubbles {
		last = max(last, min(bubbles[i].StartNs, c.IterationNs-1), 0)
		bubbles[i].StartNs = last
		if !known {
			bubbles[i].FreeBytes = totalBytes
		}
	}
	c.Bubbles = bubbles
	return c
}
