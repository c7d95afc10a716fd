package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill/api"
	"pipefill/test/cluster"
)

// The queue that a real slurmctld is asked for.
const (
	mirrorArrays = 20
	mirrorTasks  = 1000 // of each
	mirrorSteady = 20 * time.Second
	mirrorGone   = 100 // cancelled at the end
)

// mirrorRun is a private cluster with 20,000 held jobs.
type mirrorRun struct {
	*bench
	*cluster.Cluster
}

// mirror measures what it costs a real slurmctld with 20,000 held jobs to be
// mirrored: a listing, a probe, and the controller beside it; and that the queue
// is whole in the end.
func (b *bench) mirror(ctx context.Context) (err error) {
	c, err := cluster.Up(ctx, b.root, slog.New(slog.DiscardHandler), "--no-daemons", "--no-plugin")
	if err != nil {
		return err
	}
	m := &mirrorRun{bench: b, Cluster: c}
	defer func() {
		if down := c.Down(); err == nil {
			err = down
		}
	}()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"20,000 held jobs are submitted", m.submit},
		{"they are listed", m.listings},
		{"the controller mirrors them", m.controller},
		{"jobs are cancelled behind its back", m.whole},
	} {
		b.say("%s", step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// submit makes room in slurmctld and fills it: arrays, whose tasks get records of
// their own as they are touched.
func (m *mirrorRun) submit(ctx context.Context) error {
	path := filepath.Join(m.Dir, "etc/slurm.conf")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, fmt.Appendf(text, "\nMaxJobCount=%d\nMaxArraySize=%d\n", 2*mirrorArrays*mirrorTasks, mirrorTasks+1), 0o644); err != nil {
		return err
	}
	if err := m.Stop(ctx, "slurmctld"); err != nil {
		return err
	}
	if err := m.Start(ctx, "slurmctld"); err != nil {
		return err
	}
	err = m.await(ctx, time.Minute, "slurmctld", func() bool { _, err := m.As(ctx, "root", "scontrol", "ping"); return err == nil })
	if err != nil {
		return err
	}
	for range mirrorArrays {
		id, err := m.Submit(ctx, cluster.Ann, "true", "-p", "pipefill", "--hold", fmt.Sprintf("--array=0-%d", mirrorTasks-1))
		if err != nil {
			return err
		}
		const atOnce = 500
		for first := 0; first < mirrorTasks; first += atOnce {
			var tasks []string
			for task := first; task < first+atOnce; task++ {
				tasks = append(tasks, fmt.Sprintf("%d_%d", id, task))
			}
			if _, err := m.As(ctx, "root", "scontrol", "update", "JobId="+strings.Join(tasks, ","), "Priority=0"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *mirrorRun) await(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	for deadline := m.now().Add(limit); !ok(); {
		if m.now().After(deadline) {
			return fmt.Errorf("waited %s for %s", limit, what)
		}
		if err := m.pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// jobs lists what Slurm has.
func (m *mirrorRun) jobs(ctx context.Context) (map[int64]bool, error) {
	l, err := m.Slurm.List(ctx, []string{"pipefill"}, time.Time{})
	if err != nil {
		return nil, err
	}
	ids := map[int64]bool{}
	for _, j := range l.Jobs {
		if j.Pending() {
			ids[j.ID] = true
		}
	}
	if len(l.Arrays) > 0 {
		return ids, fmt.Errorf("%d arrays have tasks without records of their own", len(l.Arrays))
	}
	return ids, nil
}

// pidOf is the process of a daemon of a cluster.
func pidOf(c *cluster.Cluster, name string) (int, error) {
	text, err := os.ReadFile(filepath.Join(c.Dir, "pid", name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// daemonCPU is the time that a daemon of the cluster has used.
func (m *mirrorRun) daemonCPU(name string) (time.Duration, error) {
	pid, err := pidOf(m.Cluster, name)
	if err != nil {
		return 0, err
	}
	return cpuOf(pid)
}

var askedDaemons = []string{"slurmctld", "slurmrestd"}

// costing runs something, and returns what it cost the daemons.
func (m *mirrorRun) costing(do func() error) (took time.Duration, cpu [2]time.Duration, err error) {
	var before [2]time.Duration
	for i, name := range askedDaemons {
		if before[i], err = m.daemonCPU(name); err != nil {
			return 0, cpu, err
		}
	}
	begin := m.now()
	if err := do(); err != nil {
		return 0, cpu, err
	}
	took = m.now().Sub(begin)
	for i, name := range askedDaemons {
		after, err := m.daemonCPU(name)
		if err != nil {
			return 0, cpu, err
		}
		cpu[i] = after - before[i]
	}
	return took, cpu, nil
}

func (m *mirrorRun) listings(ctx context.Context) error {
	const listings, probes = 9, 50
	if err := m.pause(ctx, 5*time.Second); err != nil { // so that nothing has just changed
		return err
	}
	each := func(what string, n int, do func() error) error {
		var ms []float64
		_, cpu, err := m.costing(func() error {
			for range n {
				begin := m.now()
				if err := do(); err != nil {
					return err
				}
				ms = append(ms, m.since(begin))
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.Sort(ms)
		p50, p99 := ms[len(ms)/2], ms[len(ms)-1]
		rows := []row{{Name: "mirror: " + what + " of 20,000 held jobs", Unit: "ms", N: n, Value: p50, P50: &p50, P99: &p99}}
		for i, name := range askedDaemons {
			rows = append(rows, row{Name: fmt.Sprintf("mirror: CPU of %s for %s", name, what), Unit: "ms", N: n, Value: cpu[i].Seconds() * 1000 / float64(n)})
		}
		return m.add(rows...)
	}
	err := each("a listing", listings, func() error {
		ids, err := m.jobs(ctx)
		if err == nil && len(ids) != mirrorArrays*mirrorTasks {
			err = fmt.Errorf("%d jobs are listed, of %d", len(ids), mirrorArrays*mirrorTasks)
		}
		return err
	})
	if err != nil {
		return err
	}
	since := m.now()
	return each("a probe", probes, func() error {
		l, err := m.Slurm.List(ctx, []string{"pipefill"}, since)
		if err == nil && !l.Same {
			err = fmt.Errorf("nothing has changed, and %d jobs are listed", len(l.Jobs))
		}
		return err
	})
}

// queue is the controller's, of jobs that are open.
func (m *mirrorRun) queue(ctx context.Context) (map[int64]bool, error) {
	client, err := m.Controller()
	if err != nil {
		return nil, err
	}
	rows, err := client.Jobs(ctx, api.JobFilter{State: "queued"})
	ids := map[int64]bool{}
	for _, j := range rows {
		ids[j.JobID] = true
	}
	return ids, err
}

// controller starts pipefillctld, and measures what it costs Slurm's daemons
// where nothing changes and where a job does every second.
func (m *mirrorRun) controller(ctx context.Context) error {
	begin := m.now()
	if err := m.Start(ctx, "pipefillctld"); err != nil {
		return err
	}
	err := m.await(ctx, 5*time.Minute, "20,000 jobs in the queue", func() bool {
		ids, err := m.queue(ctx)
		return err == nil && len(ids) == mirrorArrays*mirrorTasks
	})
	if err != nil {
		return err
	}
	if err := m.add(row{Name: "mirror: 20,000 jobs of a real slurmctld in an empty queue", Unit: "s", N: 1, Value: m.now().Sub(begin).Seconds()}); err != nil {
		return err
	}
	load := func(what string, each func() error) error {
		took, cpu, err := m.costing(func() error {
			for end := m.now().Add(mirrorSteady); m.now().Before(end); {
				if err := each(); err != nil {
					return err
				}
				if err := m.pause(ctx, time.Second); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		var rows []row
		for i, name := range askedDaemons {
			rows = append(rows, row{Name: fmt.Sprintf("mirror: %s with the controller beside it, %s", name, what), Unit: "% of a core", N: 1, Value: 100 * cpu[i].Seconds() / took.Seconds()})
		}
		return m.add(rows...)
	}
	if err := load("nothing changes", func() error { return nil }); err != nil {
		return err
	}
	ids, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	var some int64
	for id := range ids {
		some = max(some, id)
	}
	return load("a job changes every second", func() error {
		_, err := m.As(ctx, "root", "scontrol", "update", fmt.Sprintf("JobId=%d", some), fmt.Sprintf("TimeLimit=%d", 10+m.now().Second()))
		return err
	})
}

// whole cancels some jobs, and waits until the controller has what Slurm has.
func (m *mirrorRun) whole(ctx context.Context) error {
	ids, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	begin, gone := m.now(), 0
	for id := range ids {
		// scancel does not find a task of an array by its own number here.
		if err := m.Slurm.Cancel(ctx, id); err != nil {
			return err
		}
		if gone++; gone == mirrorGone {
			break
		}
	}
	var missing, more int
	err = m.await(ctx, 5*time.Minute, "the queue to be as Slurm's", func() bool {
		theirs, err1 := m.jobs(ctx)
		ours, err2 := m.queue(ctx)
		missing, more = 0, 0
		for id := range theirs {
			if !ours[id] {
				missing++
			}
		}
		for id := range ours {
			if !theirs[id] {
				more++
			}
		}
		return err1 == nil && err2 == nil && missing+more == 0 && len(theirs) == mirrorArrays*mirrorTasks-mirrorGone
	})
	if err != nil {
		return fmt.Errorf("%w: %d jobs are missing, %d too many", err, missing, more)
	}
	return m.add(row{Name: "mirror: until 100 cancelled jobs have left the queue, which is then as Slurm's", Unit: "s", N: 1, Value: m.now().Sub(begin).Seconds()})
}
