package pipefill

// BubbleKind says why a device waits; the numbers stand in shared pages
// (spank/page.h) and must not change.
type BubbleKind uint32

// The kinds; only the first three are ever offered to fill jobs.
const (
	BubbleFillDrain BubbleKind = 0 // before the first or after the last micro-batch
	BubbleFwdBwd    BubbleKind = 1 // between the forward and the backward phase
	BubbleSteady    BubbleKind = 2 // the small gaps of 1F1B and interleaved schedules
	BubbleComm      BubbleKind = 3 // data-parallel collectives: recorded, never offered
	BubbleOther     BubbleKind = 4 // optimizer, evaluation, checkpoint: never offered
)

var bubbleKindNames = [...]string{"fill-drain", "fwd-bwd", "steady", "comm", "other"}

// String returns the kind's name in DESIGN's words, "unknown" for others.
func (k BubbleKind) String() string {
	if int(k) < len(bubbleKindNames) {
		return bubbleKindNames[k]
	}
	return "unknown"
}

// Offered tells whether bubbles of this kind are given to fill jobs.
func (k BubbleKind) Offered() bool { return k <= BubbleSteady }

// Bubble is one bubble of a cycle. DurationNs is the usable time: the learned
// low quantile less the guard. StartNs counts from the iteration mark.
type Bubble struct {
	Index      int    `json:"index"`
	Kind       string `json:"kind"`
	StartNs    int64  `json:"start_ns"`
	DurationNs int64  `json:"duration_ns"`
	FreeBytes  int64  `json:"free_bytes"`
}

// BubbleCycle is the bubbles of one iteration on one device, in order.
type BubbleCycle struct {
	Version         int      `json:"version"`
	IterationNs     int64    `json:"iteration_ns"`
	AlwaysFreeBytes int64    `json:"always_free_bytes,omitempty"`
	Bubbles         []Bubble `json:"bubbles"`
}
