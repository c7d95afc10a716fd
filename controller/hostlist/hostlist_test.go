package hostlist

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExpand(t *testing.T) {
	for list, want := range map[string][]string{
		"": nil, "n0": {"n0"}, "n[0-2,07],gpu1": {"n0", "n1", "n2", "n07", "gpu1"}, "a[09-11]b": {"a09b", "a10b", "a11b"},
	} {
		got, err := Expand(list)
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%q = %q, %v, want %q", list, got, err, want)
		}
	}
	for _, list := range []string{"n[", "n]", "n[]", "n[1-0]", "n[a]", "n[0-99999999]", "n[0-1][0-1]", ",", "n[[0]]", "a,,b"} {
		if got, err := Expand(list); err == nil {
			t.Errorf("%q = %q, want an error", list, got)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("n[0-2,07],gpu1")
	f.Fuzz(func(t *testing.T, list string) {
		if hosts, err := Expand(list); err == nil && len(hosts) > maxHosts {
			t.Errorf("%d hosts", len(hosts))
		}
	})
}
