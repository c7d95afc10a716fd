package cli_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	"pipefill/api"
)

// archiveOf is an archive of so many rows.
func archiveOf(rows int) string {
	var b strings.Builder
	b.WriteString(`{"pipefill_archive":1,"cluster":"alps","before_ms":5,"made_ms":6}` + "\n")
	for i := range rows {
		fmt.Fprintf(&b, `{"table":"audit","row":{"id":%d,"why":"x"}}`+"\n", 1_000_000_000_000_000_000+i)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return b.String() + fmt.Sprintf(`{"rows":%d,"sha256":"%s"}`, rows, hex.EncodeToString(sum[:])) + "\n"
}

func TestArchive_Dump(t *testing.T) {
	f := newFake(t)
	f.raw = map[string]string{"/v1/archive": archiveOf(3)}
	path := filepath.Join(t.TempDir(), "a")
	status, out, errs := run(t, f.endpoint, "archive", "dump", path, "before=2026-11-01")
	text, err := os.ReadFile(path)
	if status != 0 || err != nil || string(text) != archiveOf(3) || out != "3 rows written to "+path+"\n" {
		t.Errorf("%d %s %s %v: %s", status, out, errs, err, text)
	}
	if f.calls[0] != "GET /v1/archive?before_ms=1793491200000" {
		t.Errorf("asked %q", f.calls[0])
	}
	f.raw["/v1/archive"] = archiveOf(3)[:200]
	if status, _, errs := run(t, f.endpoint, "archive", "dump", path+"2"); status != 2 || !strings.Contains(errs, "is not whole") {
		t.Errorf("a dump that broke off: %d %s", status, errs)
	}
	if _, err := os.Stat(path + "2"); err == nil {
		t.Error("half an archive is left")
	}
	f.raw, f.fail = nil, &api.Failure{Code: pipefill.CodeDenied, Message: "archive dump: for operators"}
	status, _, errs = run(t, f.endpoint, "archive", "dump", path)
	if golden(t, "archive-error", errs); status != 6 {
		t.Errorf("status %d", status)
	}
}

func TestArchive_Load(t *testing.T) {
	good := archiveOf(12_000)
	path := filepath.Join(t.TempDir(), "a")
	load := func(text string) (*fake, int, string) {
		t.Helper()
		f := newFake(t)
		f.answers["/v1/archive"] = map[string]int64{"loaded": 4000}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		status, out, errs := run(t, f.endpoint, "archive", "load", path)
		return f, status, out + errs
	}
	f, status, said := load(good)
	if status != 0 || said != "12000 rows loaded of 12000; the others were there\n" || len(f.calls) != 3 {
		t.Errorf("%d %s in %d requests", status, said, len(f.calls))
	}
	if !strings.HasPrefix(f.calls[0], http.MethodPost+` /v1/archive [{"table":"audit","row":{"id":1000000000000000000,"why":"x"}},`) {
		t.Errorf("sent %.100s", f.calls[0])
	}
	for name, c := range map[string]struct {
		text   string
		status int
		says   string
	}{
		"cut short":         {good[:len(good)-200], 2, "is not whole"},
		"a row was changed": {strings.Replace(good, `"why":"x"`, `"why":"y"`, 1), 2, "was changed"},
		"a row was taken":   {strings.Replace(good, `{"table":"audit","row":{"id":1000000000000000000,"why":"x"}}`+"\n", "", 1), 2, "was changed"},
		"something else":    {"hello\n", 2, "line 1: no archive"},
		"another thing in":  {strings.Replace(good, `{"table":"audit"`, `{"tables":"audit"`, 1), 2, "line 2: no row"},
		"of a newer form":   {strings.Replace(good, `archive":1`, `archive":2`, 1), 4, "install the newer release"},
		"more after it":     {good + "{}\n", 2, "more after the end"},
		"nothing":           {"", 2, "line 1"},
	} {
		f, status, said := load(c.text)
		if status != c.status || !strings.Contains(said, c.says) || len(f.calls) != 0 {
			t.Errorf("%s: %d %s after %d requests, want %q", name, status, said, len(f.calls), c.says)
		}
	}
	if status, _, errs := run(t, "unix:/x", "archive", "load", path+"none"); status != 3 {
		t.Errorf("no file: %d %s", status, errs)
	}
}
