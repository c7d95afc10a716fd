package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"pipefill"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// How jobs' comments are written.
const (
	annotateEvery = 5 * time.Second
	// annotateAfter lets the last usage record come.
	annotateAfter = 10 * time.Second
	// annotateFor is how long it is tried: Slurm forgets ended jobs after
	// MinJobAge, five minutes by default.
	annotateFor = 4 * time.Minute
)

// annotateLoop writes where and how fill jobs run, and ran, into their comments.
func (c *Controller) annotateLoop(ctx context.Context) {
	if c.cfg.JobComment == "" {
		return
	}
	written := map[int64]string{} // by fill job
	ticker := time.NewTicker(annotateEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := c.annotate(ctx, written); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "comments of jobs are not written, it is tried again", "err", err)
			}
		}
	}
}

// annotate looks at what runs and at what ended a while ago; written is what was
// written before.
func (c *Controller) annotate(ctx context.Context, written map[int64]string) error {
	now := c.now()
	ended, err := c.store.EndedJobs(ctx, now.Add(-annotateFor).UnixMilli())
	if err != nil {
		return err
	}
	here := map[int64]bool{}
	note := func(fillJob, number int64, ran string, live bool) {
		here[fillJob] = true
		if ran == "" || written[fillJob] == ran || !c.fly(number) {
			return
		}
		err := c.slurm.Annotate(ctx, number, slurm.Field(c.cfg.JobComment), ran)
		c.land(number, live)
		if err != nil {
			c.log.DebugContext(ctx, "comment not written, it is tried again", "fill_job_id", number, "err", err)
			return
		}
		written[fillJob] = ran
	}
	for _, a := range c.store.LiveAll() {
		if j := c.store.Open(c.cfg.Cluster, a.Job.JobID); j != nil && a.State == pipefill.AssignmentRunning {
			note(a.FillJobID, a.Job.JobID, whereRan(*a, j.Mode), true)
		}
	}
	for i, j := range ended {
		// Of the rows of one number, as of a job that was lost and came back, the last says how it ended.
		later := func(x store.FillJob) bool { return x.JobID == j.JobID }
		if c.store.Open(c.cfg.Cluster, j.JobID) != nil || slices.ContainsFunc(ended[i+1:], later) {
			continue
		}
		if j.EndedMs > now.Add(-annotateAfter).UnixMilli() {
			here[j.ID] = true
			continue
		}
		ran, err := c.ran(ctx, j)
		if err != nil {
			return err
		}
		note(j.ID, j.JobID, ran, false)
	}
	for id := range written {
		if !here[id] {
			delete(written, id)
		}
	}
	return nil
}

// fly keeps the dispatcher from a job while its comment is read and written:
// what it notes there must not be written over. False: it is at it.
func (c *Controller) fly(number int64) bool {
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	if c.dispatcher.flying[number] {
		return false
	}
	c.dispatcher.flying[number] = true
	return true
}

func (c *Controller) land(number int64, live bool) {
	c.mirror.mu.Lock()
	delete(c.dispatcher.flying, number)
	c.mirror.mu.Unlock()
	if live {
		c.dirty.add(number)
	}
}

// whereRan is where a job runs, as one word without = and ;.
func whereRan(a store.Assignment, mode pipefill.Mode) string {
	text := fmt.Sprintf("%s/%s,beside:%d", a.Node, strings.ReplaceAll(string(pipefill.DevicesOf(a.Devices())), " ", "+"), a.MainJob.JobID)
	if mode != "" {
		text += ",mode:" + string(mode)
	}
	return text
}

// ran is where and how a job ran that has ended; "" for one that never did.
func (c *Controller) ran(ctx context.Context, j store.FillJob) (string, error) {
	attempts, err := c.store.AttemptsOf(ctx, j.ID)
	if err != nil || len(attempts) == 0 || j.Attempts == 0 {
		return "", err
	}
	return strings.Join([]string{
		whereRan(attempts[len(attempts)-1], j.Mode), fmt.Sprintf("used:%.1fs", float64(j.DeviceMs)/1e3), fmt.Sprintf("attempts:%d", j.Attempts), string(j.Outcome),
	}, ","), nil
}
