package api

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

type plainOpener struct{}

func (plainOpener) Verify(credential string) (payload []byte, uid, gid uint32, err error) {
	return []byte(credential), 0, 0, nil
}

// A session is used for three quarters of its time, each number once.
func TestSession_IsOverBeforeItsEnd(t *testing.T) {
	now := time.Unix(1000, 0)
	s := session{opener: plainOpener{}, now: func() time.Time { return now }}
	is, err := NewSession(8 * time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(is)
	if err != nil {
		t.Fatal(err)
	}
	s.take(&http.Response{Header: http.Header{SessionHeader: {string(text)}}})
	for after, want := range []uint64{1, 2, 3, 4, 5, 6, 0} { // minutes
		now = time.Unix(1000, 0).Add(time.Duration(after) * time.Minute)
		signed, ok := s.sign("digest")
		id, n, mac, parsed := ParseSession(signed)
		if ok != (want > 0) || parsed != ok || n != want || ok && (id != is.ID || !is.Signed(n, "digest", mac)) {
			t.Errorf("after %d minutes: %q, want number %d", after, signed, want)
		}
	}
}
