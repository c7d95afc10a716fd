package munge_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/munge"
)

// start runs a munged of its own and returns its socket.
func start(t *testing.T, key string) string {
	t.Helper()
	const program = "/usr/sbin/munged"
	if _, err := os.Stat(program); err != nil {
		t.Skip("munged is not installed")
	}
	dir := t.TempDir()
	// munged refuses a socket in a folder that others cannot enter.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte(strings.Repeat(key, 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.CommandContext(t.Context(), program, "--foreground", "--force", "--socket="+socket, "--key-file="+keyFile,
		"--pid-file="+filepath.Join(dir, "pid"), "--log-file="+filepath.Join(dir, "log"), "--seed-file="+filepath.Join(dir, "seed"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := munge.New(socket).Sign(nil); err == nil {
			return socket
		}
	}
	t.Fatal("waited 10 s for munged")
	return ""
}

func TestMunge_RoundTripAndReplay(t *testing.T) {
	m := munge.New(start(t, "key1"))
	credential, err := m.Sign([]byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	payload, uid, gid, err := m.Verify(credential)
	if err != nil || string(payload) != "payload" || int(uid) != os.Getuid() || int(gid) != os.Getgid() {
		t.Fatalf("payload %q uid %d gid %d, %v", payload, uid, gid, err)
	}
	if _, _, _, err := m.Verify(credential); pipefill.ErrorCode(err) != pipefill.CodeDenied {
		t.Errorf("a replay: %v, want denied", err)
	}
	for _, forged := range []string{"", "MUNGE:", "MUNGE:AAAA:", credential[:len(credential)-5] + "AAAA:"} {
		if _, _, _, err := m.Verify(forged); pipefill.ErrorCode(err) != pipefill.CodeDenied {
			t.Errorf("forged %q: %v, want denied", forged, err)
		}
	}
}

func TestMunge_ForOneUserAlone(t *testing.T) {
	m := munge.New(start(t, "key1"))
	secret := "nobody else's"
	for _, c := range []struct {
		reader uint32
		want   pipefill.Code
	}{{uint32(os.Getuid()), ""}, {uint32(os.Getuid()) + 4711, pipefill.CodeDenied}} {
		credential, err := m.SignFor([]byte(secret), c.reader)
		if err != nil {
			t.Fatal(err)
		}
		payload, _, _, err := m.Verify(credential)
		if c.want == "" && (err != nil || string(payload) != secret) || c.want != "" && (pipefill.ErrorCode(err) != c.want || len(payload) > 0) {
			t.Errorf("for uid %d: %q, %v", c.reader, payload, err)
		}
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(credential, "MUNGE:"), ":"))
		if err != nil || bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%q can be read by all, %v", raw, err)
		}
	}
}

func TestMunge_ForeignKey(t *testing.T) {
	ours, theirs := munge.New(start(t, "key1")), munge.New(start(t, "key2"))
	credential, err := theirs.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := ours.Verify(credential); pipefill.ErrorCode(err) != pipefill.CodeDenied {
		t.Errorf("a foreign credential: %v, want denied", err)
	}
}

func TestMunge_Away(t *testing.T) {
	m := munge.New(filepath.Join(t.TempDir(), "none"))
	if _, err := m.Sign([]byte("x")); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("no munged: %v, want unavailable", err)
	}
}
