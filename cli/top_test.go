package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipefill"
	"pipefill/api"
)

// site is a controller with six devices and some jobs.
func site(t *testing.T) *fake {
	t.Helper()
	f := newFake(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers["/v1/ping"] = api.Status{Version: pipefill.Version(), Cluster: "alps", Faults: []string{"node n7: does not report"}}
	var slots []api.Slot
	for i := range 6 {
		s := api.Slot{Node: fmt.Sprintf("n%03d", i), User: "tim", Main: api.MainDevice{
			Job: pipefill.JobKey{JobID: 3}, Device: "cpu:0", Stage: i, Enabled: true, Budget: 0.01,
			Cycle: pipefill.BubbleCycle{IterationNs: 200e6, Bubbles: []pipefill.Bubble{
				{Index: 0, Kind: "fwd-bwd", StartNs: int64(20+10*i) * 1e6, DurationNs: 40e6}, {Index: 1, Kind: "fill-drain", StartNs: 180e6, DurationNs: 40e6},
			}},
			Totals: api.MainTotals{BubbleNs: 100e9, FilledNs: int64(10*i) * 1e9, OverheadLo: 0.001 * float64(i*3), OverheadHi: 0.02},
		}}
		if i%2 == 0 {
			s.FillJob = int64(10 - i)
		}
		if i == 5 {
			s.Main.Enabled, s.Main.Reason, s.Main.Totals = false, "turned off by its owner (--pipefill=off)", api.MainTotals{}
		}
		if i == 3 {
			s.Main.Slow = "the hardware slows it down, it is too hot: look at fans"
		}
		slots = append(slots, s)
	}
	f.answers["/v1/slots"] = slots
	f.answers["/v1/jobs"] = append([]api.FillJob{{JobID: 2, Name: "x", User: "eve", Partition: "pipefill", State: "held", Reason: "held by a person"}}, jobs...)
	return f
}

func TestTop_PlainWherePiped(t *testing.T) {
	f := site(t)
	status, out, errs := run(t, f.endpoint, "top")
	if golden(t, "top-plain", out); status != 0 || errs != "" || strings.Contains(out, "\x1b[3") {
		t.Errorf("status %d: %s", status, errs)
	}
	if _, twice, _ := run(t, f.endpoint, "top", "-n", "2", "-d", "500ms"); twice != out+"\n"+out {
		t.Errorf("two looks:\n%s", twice)
	}
	f.fail = &api.Failure{Code: pipefill.CodeUnavailable, Message: "the queue is away"}
	status, _, errs = run(t, f.endpoint, "top")
	if golden(t, "top-error", errs); status != 5 {
		t.Errorf("status %d", status)
	}
}

// TestTop_InATerminal drives it in tmux, 80 columns and 24 rows.
func TestTop_InATerminal(t *testing.T) {
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skipf("packaging/setup installs it: %v", err)
	}
	f := site(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "pipefill-cli")
	if out, err := exec.CommandContext(t.Context(), "../packaging/go", "build", "-ldflags=-extldflags=-Wl,-z,lazy", "-o", program, "../cmd/pipefill-cli").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	tmux := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("tmux", append([]string{"-f", "/dev/null", "-S", filepath.Join(dir, "s")}, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=xterm-256color")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil && args[0] != "kill-server" {
			t.Fatalf("tmux %v: %v: %s", args, err, out.String())
		}
		return out.String()
	}
	tmux("new-session", "-d", "-x", "80", "-y", "24", fmt.Sprintf("%s --controller %s top -d 500ms; echo ended with $?; exec cat", program, f.endpoint))
	t.Cleanup(func() { tmux("kill-server") })
	screen := func(what string, ok func(string) bool) string {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			text := tmux("capture-pane", "-p")
			if ok(text) {
				return text
			}
			if time.Now().After(deadline) {
				t.Fatalf("waited 20 s for %s:\n%s", what, text)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	has := func(words ...string) func(string) bool {
		return func(text string) bool {
			for _, w := range words {
				if !strings.Contains(text, w) {
					return false
				}
			}
			return true
		}
	}
	text := screen("the devices", has("n000", "n005", "[1 devices]", "devices: 3 filled 2 free 1 shut"))
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > 24 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if len([]rune(line)) > 80 {
			t.Errorf("a line of %d: %s", len([]rune(line)), line)
		}
	}
	clockless := func(text string) string {
		lines := strings.SplitN(text, "\n", 2)
		return lines[0][:14] + "..." + lines[0][22:] + "\n" + lines[1]
	}
	golden(t, "top-devices", clockless(text))
	tmux("send-keys", "Tab")
	golden(t, "top-queue", clockless(screen("the queue", has("[2 queue]", "heat", "held by a"))))
	tmux("send-keys", "/", "e", "v", "e")
	screen("the filter", func(text string) bool { return has("filter: eve_", "eve")(text) && !strings.Contains(text, "heat") })
	tmux("send-keys", "Enter")
	screen("the filter to stay", has(`filter "eve"`))
	tmux("send-keys", "Escape")
	screen("all of the queue", has("heat"))
	tmux("send-keys", "1", ">", "r")
	screen("the devices in the other order", func(text string) bool {
		return has("NODE^")(text) && strings.Index(text, "n005") < strings.Index(text, "n000")
	})
	tmux("send-keys", "p", "h")
	screen("the help, paused", has("PAUSED", "F10, Ctrl-C: quit"))
	tmux("resize-window", "-x", "60", "-y", "12")
	tmux("send-keys", "h")
	screen("a smaller screen", func(text string) bool {
		return has("n005", "PAUSED")(text) && strings.Count(text, "\n") <= 12
	})
	tmux("send-keys", "q")
	screen("the end", has("ended with 0"))
	if left := tmux("capture-pane", "-p"); strings.Contains(left, "devices:") {
		t.Errorf("the screen is left as it was:\n%s", left)
	}
}
