package executor

import (
	"time"

	"pipefill"
)

// maxOpening bounds what a page may claim: a main job that died or lies with
// its gate open gives its device away for a minute at most.
const maxOpening = time.Minute

// snapshot is what a main page said at one moment.
type snapshot struct {
	word     uint32
	index    uint32
	kind     uint32
	begin    int64
	deadline int64
	end      int64
}

// readGate takes a snapshot whose fields belong to one opening. A page that
// changes faster than it can be read reads as shut.
func readGate(m *mainPage) snapshot {
	for range 4 {
		s := snapshot{
			word: m.Word.Load(), index: m.Index.Load(), kind: m.Kind.Load(),
			begin: int64(m.BeginNs.Load()), deadline: int64(m.DeadlineNs.Load()), end: int64(m.EndNs.Load()),
		}
		if m.Word.Load() == s.word {
			return s
		}
	}
	return snapshot{word: m.Word.Load() &^ wordOpen}
}

// openUntil returns the time by which fill work must have stopped, 0 when the
// gate is shut. openedNs is when the caller first saw this opening.
func (s snapshot) openUntil(openedNs, nowNs int64) int64 {
	if s.word&wordOpen == 0 || !pipefill.BubbleKind(s.kind).Offered() {
		return 0
	}
	until := s.deadline
	if limit := openedNs + int64(maxOpening); until > limit {
		until = limit
	}
	if until <= nowNs {
		return 0
	}
	return until
}
