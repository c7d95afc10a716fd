package executor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseMessage(t *testing.T) {
	m, err := parseMessage([]byte("pipefill 1 main\njob=5\noptions=a=b,c\nempty=\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"job": "5", "options": "a=b,c", "empty": ""}
	if diff := cmp.Diff(want, m.keys); diff != "" || m.verb != "main" {
		t.Error(m.verb, diff)
	}
	if n, err := m.number("job", 9); n != 5 || err != nil {
		t.Error(n, err)
	}
	if _, err := m.number("job", 4); err == nil {
		t.Error("a number over its limit passes")
	}
	for name, text := range map[string]string{
		"empty": "", "no verb": "pipefill 1 \n", "another version": "pipefill 2 main\n", "no equals": "pipefill 1 main\njob\n",
		"no key": "pipefill 1 main\n=5\n", "twice": "pipefill 1 main\na=1\na=2\n", "a zero": "pipefill 1 main\na=\x00\n",
		"not UTF-8": "pipefill 1 main\na=\xff\n", "too long": "pipefill 1 main\na=" + strings.Repeat("x", 4096),
		"too many": "pipefill 1 main" + strings.Repeat("\na=", 65),
	} {
		if m, err := parseMessage([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte("pipefill 1 main\njob=5\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMessage(data)
		if err == nil && (m.verb == "" || len(m.keys) >= messageLines) {
			t.Errorf("%+v", m)
		}
	})
}

func TestReply_NeverHoldsALineOfItsOwn(t *testing.T) {
	got := string(reply{"error", []string{"message", "a\nok\x00"}}.encode())
	if got != "error\nmessage=a ok \n" {
		t.Errorf("%q", got)
	}
	if long := ok("a", strings.Repeat("x", 5000)).encode(); len(long) > messageMax || !strings.HasPrefix(string(long), "error") {
		t.Errorf("%d bytes", len(long))
	}
}

func TestParsePeer(t *testing.T) {
	const v1 = "6:freezer:/slurm_n0/uid_1000/job_7/step_batch/task_0\n3:cpuset:/slurm_n0/uid_1000/job_7/step_batch\n1:name=systemd:/user.slice\n0::/\n"
	for name, c := range map[string]struct {
		text      string
		job, fill int64
		fails     bool
	}{
		"v1":                          {text: v1, job: 7},
		"v1 without a node's name":    {text: "6:freezer:/slurm/uid_1000/job_7/step_0\n", job: 7},
		"v2":                          {text: "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", job: 7},
		"v2 of one of several slurmd": {text: "0::/system.slice/n0_slurmstepd.scope/job_7/step_0/user/task_0\n", job: 7},
		"moved into a group of ours":  {text: strings.Replace(v1, "0::/", "0::/pipefill_n0/assignment_3", 1), job: 7, fill: 3},
		"another node's group":        {text: strings.Replace(v1, "0::/", "0::/pipefill_n1/assignment_3", 1), job: 7},
		"a job that no Slurm started": {text: "0::/pipefill_n0/job_5\n", job: 5},
		"another node's job":          {text: "0::/pipefill_n1/job_5\n"},
		"a job in two ways":           {text: strings.Replace(v1, "0::/", "0::/pipefill_n0/job_5", 1), fails: true},
		"no job":                      {text: "6:freezer:/\n0::/user.slice/user-1000.slice\n"},
		"a user's own folder":         {text: "0::/user.slice/user-1000.slice/system.slice/slurmstepd.scope/job_7/step_0\n"},
		"a user's named hierarchy":    {text: "1:name=systemd:/slurm/uid_1000/job_7/step_0\n"},
		"another user's job":          {text: strings.ReplaceAll(v1, "1000", "1001"), fails: true},
		"two jobs":                    {text: strings.Replace(v1, "job_7/step_batch\n", "job_8/step_batch\n", 1), fails: true},
		"a number too large":          {text: strings.ReplaceAll(v1, "job_7", "job_99999999999999999999"), fails: true},
		"a longer name":               {text: "6:freezer:/slurm/uid_1000/job_7x/step_0\n"},
	} {
		job, fill, err := parsePeer(c.text, "pipefill_n0", 1000)
		if (err != nil) != c.fails || err == nil && (job != c.job || fill != c.fill) {
			t.Errorf("%s: job %d fill %d, %v", name, job, fill, err)
		}
	}
}

func TestJobsOf(t *testing.T) {
	const v1 = "6:freezer:/slurm_n0/uid_1000/job_7/step_extern\n0::/\n"
	for name, c := range map[string]struct {
		text  string
		jobs  map[int64]bool
		gated bool
	}{
		"of a job, and not gated": {v1, map[int64]bool{7: true}, false},
		"gated":                   {strings.Replace(v1, "0::/", "0::/pipefill_n0/assignment_3", 1), map[int64]bool{7: true}, true},
		"gated by another node":   {strings.Replace(v1, "0::/", "0::/pipefill_n1/assignment_3", 1), map[int64]bool{7: true}, false},
		"of no job":               {"6:freezer:/\n0::/user.slice\n", map[int64]bool{}, false},
	} {
		if jobs, gated := jobsOf(c.text, "pipefill_n0"); !maps.Equal(jobs, c.jobs) || gated != c.gated {
			t.Errorf("%s: %v %t", name, jobs, gated)
		}
	}
}

// serveTest runs a server on a socket of its own.
func serveTest(t *testing.T, perUser int, h handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	s, err := listen(slog.New(slog.DiscardHandler), path, 0o666, perUser, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// ask sends one datagram and returns the answer's text and descriptors.
func ask(t *testing.T, path, text string) (string, []*os.File) {
	t.Helper()
	answer, files, err := tryAsk(path, text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return answer, files
}

// tryAsk sends one datagram and returns the answer with its descriptors.
func tryAsk(path, text string) (string, []*os.File, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", nil, err
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", nil, err
	}
	buf, oob := make([]byte, 8192), make([]byte, 256)
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return "", nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return "", nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return "", nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "got"))
		}
	}
	return string(buf[:n]), files, nil
}

func TestServer_AnswersAndSendsDescriptors(t *testing.T) {
	path := serveTest(t, 8, func(_ context.Context, r request) (reply, []*os.File) {
		f, err := os.Open("/dev/null")
		if err != nil {
			return failed(err), nil
		}
		return ok("verb", r.verb, "uid", fmt.Sprint(r.uid), "pid", fmt.Sprint(r.pid)), []*os.File{f}
	})
	text, files := ask(t, path, "pipefill 1 hello\n")
	if want := fmt.Sprintf("ok\nverb=hello\nuid=%d\npid=%d\n", os.Getuid(), os.Getpid()); text != want || len(files) != 1 {
		t.Errorf("%q and %d files, want %q", text, len(files), want)
	}
	for _, bad := range []string{"x", "pipefill 1 a\nb\n", "pipefill 1 a\nb=" + strings.Repeat("x", 6000)} {
		if text, _ := ask(t, path, bad); !strings.HasPrefix(text, "error\nmessage=not a request of pipefill") {
			t.Errorf("%.30q: %q", bad, text)
		}
	}
}

func TestServer_LimitsClientsOfAUser(t *testing.T) {
	path := serveTest(t, 2, func(context.Context, request) (reply, []*os.File) { return ok(), nil })
	addr := &net.UnixAddr{Name: path, Net: "unixpacket"}
	var open []*net.UnixConn
	for range 2 {
		c, err := net.DialUnix("unixpacket", nil, addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	third, err := net.DialUnix("unixpacket", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := third.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := third.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("a third client was not cut off: %d %v", n, err)
	}
	for _, c := range append(open, third) {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	within(t, 5*time.Second, "the places to be free again", func() bool {
		c, err := net.DialUnix("unixpacket", nil, addr)
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, err = c.Write([]byte("pipefill 1 a\n"))
		n, rerr := c.Read(make([]byte, 100))
		return err == nil && rerr == nil && n > 0
	})
}
