package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cluster that the controller is measured with (DESIGN, section 10), and
// what it is to reach.
const (
	scaleJobs    = 100_000
	scaleNodes   = 1024
	scaleDevices = 8
	scaleEvery   = 5 * time.Second // between a node's reports
	scaleSteady  = 30 * time.Second

	freedSlots = 120 // to tell the 99th percentile

	memoryTarget  = 512.0 // MB
	reportTarget  = 10.0  // % of a core
	restartTarget = 3.0   // s
)

// scale runs the real controller process with its real store beside a stand-in
// slurmrestd with 100,000 pending jobs and 1,024 node daemons that speak the real
// protocol, munge included.
func (b *bench) scale(ctx context.Context) error {
	s, err := b.newScale(ctx)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the queue is mirrored", s.mirror},
		{"jobs go to 8,192 slots", s.fill},
		{"nothing but reports", s.steady},
		{"Slurm changes all the time", s.busy},
		{"slots are freed", s.freed},
		{"the controller is killed and starts again", s.restart},
	} {
		b.say("%s", step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w%s", step.what, err, s.lastWords())
		}
	}
	return s.memory()
}

type scaleRun struct {
	*bench
	dir     string
	slurm   *standin
	fleet   *fleet
	ctld    *exec.Cmd
	metrics string
	ends    []func()
}

func (b *bench) newScale(ctx context.Context) (*scaleRun, error) {
	dir, err := os.MkdirTemp("", "pf")
	if err != nil {
		return nil, err
	}
	s := &scaleRun{bench: b, dir: dir}
	s.ends = append(s.ends, func() { _ = os.RemoveAll(dir) })
	if s.slurm, err = newStandin(b.root, scaleJobs, scaleNodes); err != nil {
		return s, err
	}
	stop, err := s.slurm.serve(ctx, dir)
	if err != nil {
		return s, err
	}
	s.ends = append(s.ends, stop)
	if err := s.startMunge(ctx); err != nil {
		return s, err
	}
	var addresses []string
	for range 2 {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return s, err
		}
		addresses = append(addresses, l.Addr().String())
		_ = l.Close()
	}
	s.metrics = addresses[1]
	config := fmt.Sprintf("cluster: big\nstate_dir: %[1]s/state\nsocket: %[1]s/ctld.sock\nlisten: %[2]s\nslurmrestd: unix:%[1]s/slurmrestd.sock\n"+
		"jwt_token_file: %[1]s/token\nslurm_conf: %[1]s/slurm.conf\nmunge_socket: %[1]s/munge.sock\nmetrics: %[3]s\npolicy: sjf\nlog_level: warn\n", dir, addresses[0], addresses[1])
	for name, text := range map[string]string{"ctld.yaml": config, "token": "e30.eyJzdW4iOiJyb290In0.c2ln", "slurm.conf": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return s, err
		}
	}
	s.fleet = newFleet("http://"+addresses[0], dir+"/munge.sock", scaleNodes, scaleDevices, scaleEvery)
	for _, n := range s.fleet.nodes {
		n.enable(0, false) // the first device is for later
	}
	return s, s.start(ctx)
}

func (s *scaleRun) startMunge(ctx context.Context) error {
	key := filepath.Join(s.dir, "munge.key")
	if err := os.WriteFile(key, slices.Repeat([]byte("k"), 1024), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o711); err != nil { // munged wants its socket's folder so
		return err
	}
	munged := exec.CommandContext(ctx, "munged", "--foreground", "--force", "--socket="+s.dir+"/munge.sock", "--key-file="+key,
		"--pid-file="+s.dir+"/munged.pid", "--seed-file="+s.dir+"/munge.seed", "--log-file="+s.dir+"/munged.log", "--num-threads=2")
	if err := munged.Start(); err != nil {
		return fmt.Errorf("munged: %w: packaging/setup installs it", err)
	}
	s.ends = append(s.ends, func() { _, _ = munged.Process.Kill(), munged.Wait() })
	return s.until(ctx, 10*time.Second, "munged", func() (bool, error) {
		_, err := os.Stat(s.dir + "/munge.sock")
		return err == nil, nil
	})
}

func (s *scaleRun) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "ctld.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.ctld = exec.CommandContext(ctx, filepath.Join(s.build, "pipefillctld"), "--config", s.dir+"/ctld.yaml")
	s.ctld.Env = append(os.Environ(), "PATH="+s.dir+":"+os.Getenv("PATH"))
	s.ctld.Stdout, s.ctld.Stderr = log, log
	if err := errors.Join(s.ctld.Start(), log.Close()); err != nil {
		return fmt.Errorf("pipefillctld: %w: run make first", err)
	}
	return nil
}

func (s *scaleRun) close() {
	if s.ctld != nil && s.ctld.Process != nil {
		_, _ = s.ctld.Process.Kill(), s.ctld.Wait()
	}
	for _, end := range slices.Backward(s.ends) {
		end()
	}
}

func (s *scaleRun) lastWords() string {
	text, err := os.ReadFile(s.dir + "/ctld.log")
	if err != nil || len(text) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "; its log ends: " + strings.Join(lines[max(0, len(lines)-3):], " | ")
}

// until polls until ok, and says what was waited for where it takes too long.
func (s *scaleRun) until(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	for deadline := s.now().Add(limit); ; {
		done, err := ok()
		if err != nil || done {
			return err
		}
		if s.now().After(deadline) {
			return fmt.Errorf("waited %s for %s", limit, what)
		}
		if err := s.pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// counts are the controller's own: fill jobs by state.
func (s *scaleRun) counts(ctx context.Context) map[string]int {
	counts := map[string]int{}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/metrics", nil)
	if err != nil {
		return counts
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return counts // it is starting
	}
	defer func() { _ = answer.Body.Close() }()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), `pipefill_fill_jobs{state="`); ok {
			state, value, _ := strings.Cut(rest, `"} `)
			n, _ := strconv.ParseFloat(value, 64)
			counts[state] = int(n)
		}
	}
	return counts
}

func (s *scaleRun) mirror(ctx context.Context) error {
	begin := s.now()
	err := s.until(ctx, 5*time.Minute, "100,000 jobs in the queue", func() (bool, error) { return s.counts(ctx)["queued"] == scaleJobs, nil })
	if err != nil {
		return err
	}
	return s.add(row{Name: "scale: 100,000 jobs in an empty queue", Unit: "s", N: 1, Value: s.now().Sub(begin).Seconds()})
}

func (s *scaleRun) fill(ctx context.Context) error {
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.fleet.run(run) }()
	s.ends = append(s.ends, func() {
		stop()
		<-ended //nolint:errcheck // of no more use
	})
	go func() {
		for {
			select {
			case <-run.Done():
				return
			case j := <-s.slurm.starts:
				s.fleet.start(j)
			}
		}
	}()
	begin := s.now()
	want := scaleNodes * (scaleDevices - 1)
	last := 0
	err := s.until(ctx, 10*time.Minute, fmt.Sprintf("%d running fill jobs", want), func() (bool, error) {
		n := s.counts(ctx)["running"]
		if n/1000 > last/1000 {
			s.say("  %d run", n)
		}
		last = n
		return n >= want, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %v", err, s.counts(ctx))
	}
	for len(s.fleet.orders) > 0 {
		<-s.fleet.orders
	}
	took := s.now().Sub(begin).Seconds()
	return s.add(row{Name: "scale: dispatches, from reservation to running", Unit: "/s", N: want, Value: float64(want) / took})
}

// cpuOf is the time that a process has used.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// share measures the controller's share of a core over a while.
func (s *scaleRun) share(ctx context.Context, d time.Duration) (percent float64, reports int64, err error) {
	before, err := cpuOf(s.ctld.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	begin, had := s.now(), s.fleet.reports.Load()
	if err := s.pause(ctx, d); err != nil {
		return 0, 0, err
	}
	after, err := cpuOf(s.ctld.Process.Pid)
	return 100 * float64(after-before) / float64(s.now().Sub(begin)), s.fleet.reports.Load() - had, err
}

func (s *scaleRun) steady(ctx context.Context) error {
	// The last of what was done to Slurm is listed first.
	lists := -1
	err := s.until(ctx, 2*time.Minute, "an end of listings", func() (bool, error) {
		s.slurm.mu.Lock()
		before, now := lists, s.slurm.lists
		lists = now
		s.slurm.mu.Unlock()
		return now == before, s.pause(ctx, 2*scaleEvery)
	})
	if err != nil {
		return err
	}
	percent, reports, err := s.share(ctx, scaleSteady)
	if err != nil {
		return err
	}
	r := row{Name: "scale: controller with 1,024 nodes reporting every 5 s", Unit: "% of a core", N: int(reports), Value: percent}
	r.aim(reportTarget, percent <= reportTarget)
	s.say("  %.0f reports/s, %d failed", float64(reports)/scaleSteady.Seconds(), s.fleet.failures.Load())
	return s.add(r)
}

// busy lets a job change every second, so that there is always news in Slurm.
func (s *scaleRun) busy(ctx context.Context) error {
	s.slurm.mu.Lock()
	lists := s.slurm.lists
	s.slurm.mu.Unlock()
	run, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for run.Err() == nil {
			s.slurm.mu.Lock()
			s.slurm.changed = time.Now()
			s.slurm.mu.Unlock()
			wait(run, time.Second, nil)
		}
	}()
	percent, _, err := s.share(ctx, scaleSteady)
	if err != nil {
		return err
	}
	s.slurm.mu.Lock()
	defer s.slurm.mu.Unlock()
	return s.add(row{Name: "scale: controller while Slurm changes every second", Unit: "% of a core", N: s.slurm.lists - lists, Value: percent})
}

// freed turns on devices that were off, and measures until their nodes have an
// order.
func (s *scaleRun) freed(ctx context.Context) error {
	var ms []float64
	for i := range freedSlots {
		n := s.fleet.nodes[(i*37)%scaleNodes]
		begin := s.now()
		n.enable(0, true)
		at, err := s.order(ctx, n.name, time.Minute)
		if err != nil {
			return err
		}
		ms = append(ms, float64(at.Sub(begin))/1e6)
		if err := s.pause(ctx, 150*time.Millisecond); err != nil {
			return err
		}
	}
	slices.Sort(ms)
	p50, p99 := ms[len(ms)/2], ms[len(ms)*99/100]
	return s.add(row{Name: "scale: a freed slot, from its node's report to the order in its hands", Unit: "ms", N: len(ms), Value: p50, P50: &p50, P99: &p99})
}

func (s *scaleRun) order(ctx context.Context, node string, limit time.Duration) (time.Time, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		case <-timer.C:
			return time.Time{}, fmt.Errorf("waited %s for an order to %s", limit, node)
		case o := <-s.fleet.orders:
			if o.node == node {
				return o.at, nil
			}
		}
	}
}

func (s *scaleRun) restart(ctx context.Context) error {
	var seconds []float64
	for i := range 3 {
		if err := s.ctld.Process.Signal(syscall.SIGKILL); err != nil {
			return err
		}
		_ = s.ctld.Wait()                                  // it was killed
		n := s.fleet.nodes[((i+freedSlots)*37)%scaleNodes] // one of which the device is off still
		n.enable(0, true)
		begin := s.now()
		if err := s.start(ctx); err != nil {
			return err
		}
		at, err := s.order(ctx, n.name, time.Minute)
		if err != nil {
			return err
		}
		seconds = append(seconds, at.Sub(begin).Seconds())
		s.say("  %.2f s", seconds[i])
		if err := s.pause(ctx, 2*scaleEvery); err != nil {
			return err
		}
	}
	slices.Sort(seconds)
	p50, p99 := seconds[len(seconds)/2], seconds[len(seconds)-1]
	r := row{Name: "scale: from the start of a killed controller to a new order in a node's hands", Unit: "s", N: len(seconds), Value: p50, P50: &p50, P99: &p99}
	r.aim(restartTarget, p99 <= restartTarget)
	return s.add(r)
}

// memory is the most that the controller has had.
func (s *scaleRun) memory() error {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", s.ctld.Process.Pid))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kb); n == 1 {
			r := row{Name: "scale: the most memory that the controller has had", Unit: "MB", N: 1, Value: kb / 1000}
			r.aim(memoryTarget, kb/1000 <= memoryTarget)
			return s.add(r)
		}
	}
	return errors.New("no VmHWM")
}
