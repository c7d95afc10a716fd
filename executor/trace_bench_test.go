package executor

import "testing"

// BenchmarkEventTrace is what recording costs the node's cores for an event
// that a main job announced (test/bench, part account).
func BenchmarkEventTrace(b *testing.B) {
	trace := newEventTrace(b.TempDir(), "cpu:0")
	if trace == nil {
		b.Fatal("no trace")
	}
	defer trace.close()
	event := eventCopy{iteration: 123456, begin: 1_234_567_890_123, end: 1_234_567_990_123, deadline: 1_234_567_980_000, index: 7, kind: 1, flags: 1}
	for i := 0; b.Loop(); i++ {
		trace.event(42, event)
		if i%10 == 9 {
			trace.flush() // as often as a tick finds about ten
		}
	}
}
