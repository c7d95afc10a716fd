package store_test

import (
	"fmt"
	"testing"

	"pipefill"
)

func TestStore_ProfilesOfAUserAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	digest := func(i int) string { return fmt.Sprintf("%064d", i) }
	for i := range 130 {
		must(t, s.PutProfile(t.Context(), digest(i), "name", fmt.Sprint(i), 5, int64(i)))
	}
	must(t, s.PutProfile(t.Context(), digest(1000), "name", "other", 6, 1))
	must(t, s.PutProfile(t.Context(), digest(129), "name", "another text", 6, 500)) // the digest is the text's
	for i, kept := range map[int]bool{0: false, 29: false, 30: true, 129: true, 1000: true} {
		text, err := s.Profile(t.Context(), digest(i))
		if kept != (err == nil) || kept && i < 1000 && text != fmt.Sprint(i) || !kept && pipefill.ErrorCode(err) != pipefill.CodeNotFound {
			t.Errorf("profile %d: %q %v, want kept %v", i, text, err, kept)
		}
	}
}
