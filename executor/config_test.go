package executor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipefill"
)

// Every testdata/*.bad.yaml says in its "# want:" lines what is wrong with it.
func TestConfig_EveryMistakeIsNamed(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(data)) {
			if w, ok := strings.CutPrefix(strings.TrimSpace(line), "# want: "); ok {
				want = append(want, w)
			}
		}
		_, err = loadConfig(path)
		if pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%s: %v, want an invalid error", path, err)
			continue
		}
		if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestConfig_Defaults(t *testing.T) {
	c, err := loadConfig("testdata/minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.MoveState != moveOff || c.GuardMs != 5 || c.Share != 0.9 || c.MinMs != 4 || c.budget != 0.01 || c.RunDir != "/run/pipefill" || c.ids()[0] != "cpu:0" {
		t.Errorf("%+v", c)
	}
}

func TestConfig_MainOptions(t *testing.T) {
	c := config{Share: 0.9, budget: 0.01}
	for text, want := range map[string]mainOptions{
		"":                             {budget: 0.01, share: 0.9},
		"budget=2%,share=0.5":          {budget: 0.02, share: 0.5},
		"share=0.95":                   {budget: 0.01, share: 0.9}, // the site's is the most
		"off,reserve=2GiB":             {budget: 0.01, share: 0.9, reserve: 2 << 30, off: true},
		"budget=x,share=-1,share=NaN,": {budget: 0.01, share: 0.9},
		"move=off,budget=2%":           {budget: 0.02, share: 0.9, stay: true},
		"move=on":                      {budget: 0.01, share: 0.9},
		"move=cache":                   {budget: 0.01, share: 0.9, cache: true},
		"reserve=2,reserve=":           {budget: 0.01, share: 0.9},
	} {
		if got := c.mainOptions(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	data, err := os.ReadFile("testdata/minimal.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseConfig("x", data); err != nil && pipefill.ErrorCode(err) != pipefill.CodeInvalid {
			t.Errorf("%v", err)
		}
	})
}
