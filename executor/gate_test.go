package executor

import "testing"

func TestSnapshot_OpenUntil(t *testing.T) {
	const second = int64(1e9)
	for name, c := range map[string]struct {
		s           snapshot
		opened, now int64
		want        int64
	}{
		"open":                          {snapshot{word: 3, deadline: 100}, 10, 20, 100},
		"shut":                          {snapshot{word: 2, deadline: 100}, 10, 20, 0},
		"at the deadline":               {snapshot{word: 3, deadline: 100}, 10, 100, 0},
		"a deadline never set":          {snapshot{word: 3}, 10, 20, 0},
		"a negative deadline":           {snapshot{word: 3, deadline: -1}, 10, 20, 0},
		"a collective":                  {snapshot{word: 3, kind: 3, deadline: 100}, 10, 20, 0},
		"an unknown kind":               {snapshot{word: 3, kind: 1 << 31, deadline: 100}, 10, 20, 0},
		"a nonsense deadline is capped": {snapshot{word: 3, deadline: 1 << 62}, second, 2 * second, 61 * second},
		"and the cap passes":            {snapshot{word: 3, deadline: 1 << 62}, second, 61 * second, 0},
	} {
		if got := c.s.openUntil(c.opened, c.now); got != c.want {
			t.Errorf("%s: open until %d, want %d", name, got, c.want)
		}
	}
}

func TestReadGate(t *testing.T) {
	p, err := newMainPage("gate")
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	p.at.DeadlineNs.Store(50)
	p.at.Kind.Store(1)
	p.at.Word.Store(5)
	if got, want := readGate(p.at), (snapshot{word: 5, kind: 1, deadline: 50}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
