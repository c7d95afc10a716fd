package slurm

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"pipefill"
	"pipefill/controller/hostlist"
)

// name is how Slurm addresses exactly this job: the number of an array's last
// task is the array's, and would mean all of its tasks.
func (j Job) name() string {
	if j.ArrayID != 0 && j.ArrayTask >= 0 {
		return fmt.Sprintf("%d_%d", j.ArrayID, j.ArrayTask)
	}
	return strconv.FormatInt(j.ID, 10)
}

// single reads the job and refuses a record that stands for several.
func (c *Client) single(ctx context.Context, id int64) (Job, error) {
	j, err := c.Job(ctx, id)
	if err != nil {
		return Job{}, err
	}
	if j.ArrayID != 0 && j.ArrayTask < 0 {
		return Job{}, pipefill.Errorf(pipefill.CodeConflict, "job %d stands for several tasks of an array; list the jobs to split them", id)
	}
	return j, nil
}

// Hold holds a pending job by the administrator, so that its owner cannot
// release it, and gives it back its user's own node list. Holding again does
// nothing.
func (c *Client) Hold(ctx context.Context, id int64) error {
	j, err := c.single(ctx, id)
	if err != nil {
		return err
	}
	return c.hold(ctx, j)
}

func (c *Client) hold(ctx context.Context, j Job) error {
	if !j.Pending() {
		return pipefill.Errorf(pipefill.CodeConflict, "job %d is %s and cannot be held; requeue or cancel it", j.ID, j.State)
	}
	if j.PinnedNode != "" {
		if err := c.unpin(ctx, j); err != nil {
			return err
		}
		// Of one that has started meanwhile on a node that its user asked for Slurm
		// takes the update as well, and it runs on.
		again, err := c.Job(ctx, j.ID)
		if err == nil && !again.Pending() {
			err = pipefill.Errorf(pipefill.CodeConflict, "job %d is %s and cannot be held any more; requeue or cancel it", j.ID, again.State)
		}
		return err
	}
	if j.Held {
		return nil
	}
	err := c.rest.do(ctx, http.MethodPost, "job/"+j.name(), map[string]any{"hold": true}, nil)
	if err == nil {
		return nil
	}
	// 22.05 reports a failure for an array task's update that worked.
	if again, readErr := c.Job(ctx, j.ID); readErr == nil && again.Held {
		return nil
	}
	return err
}

// unpin restores the user's node list and holds, in one update: the job is
// never free to start anywhere.
func (c *Client) unpin(ctx context.Context, j Job) error {
	n := parseNote(j.AdminComment)
	required := n.required
	n.pin, n.required = "", ""
	return c.scontrol.run(ctx, "update", "JobId="+j.name(), "ReqNodeList="+required, "Priority=0", "AdminComment="+n.String())
}

// PinRelease lets a pending job start on node, and only there. The user's own
// node lists are respected: a node they exclude is a conflict. It may be
// repeated; a job that runs on node already is left alone.
func (c *Client) PinRelease(ctx context.Context, id int64, node string) error {
	j, err := c.single(ctx, id)
	if err != nil {
		return err
	}
	if j.Running() && j.Nodes == node {
		return nil
	}
	if err := canPin(j, node); err != nil {
		return err
	}
	n := parseNote(j.AdminComment)
	n.pin, n.required = node, j.RequestedNodes
	args := []string{"update", "JobId=" + j.name(), "ReqNodeList=" + node, "AdminComment=" + n.String()}
	if j.Restarts > 0 {
		// Every requeue puts the job off for 121 s (cred_expire + 1).
		args = append(args, "StartTime=now")
	}
	if err := c.scontrol.run(ctx, args...); err != nil {
		return err
	}
	return c.scontrol.run(ctx, "release", j.name())
}

func canPin(j Job, node string) error {
	conflict := func(why string) error {
		return pipefill.Errorf(pipefill.CodeConflict, "job %d cannot be released to node %s: %s", j.ID, node, why)
	}
	switch {
	case !nodeName(node):
		return pipefill.Errorf(pipefill.CodeInvalid, "node %q: not a node's name", node)
	case !j.Pending():
		return conflict("it is " + j.State)
	case j.Het:
		return conflict("it is heterogeneous")
	case !j.Batch:
		return conflict("it is not a batch job")
	case j.NodeCount > 1:
		return conflict(fmt.Sprintf("it asks for %d nodes", j.NodeCount))
	}
	excluded, err := hostlist.Expand(j.ExcludedNodes)
	if err != nil {
		return err
	}
	if slices.Contains(excluded, node) {
		return conflict("its user excludes that node")
	}
	required, err := hostlist.Expand(j.RequestedNodes)
	if err != nil {
		return err
	}
	if len(required) > 0 && !slices.Contains(required, node) {
		return conflict("its user asks for " + j.RequestedNodes)
	}
	return nil
}

// nodeName keeps lists, options and blanks out of an update's ReqNodeList.
func nodeName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '.' || c == '_')
		if !ok {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// requeueTries is how often RequeueHold looks at a job that changes its state
// between the look and what is done about it.
const requeueTries = 3

// RequeueHold sends a running job, or one that ended a moment ago, back to the
// queue, held; a pending one it holds. One that has completed, maybe since the
// caller looked, stays completed. Jobs submitted with --no-requeue are requeued
// too: whether they may run again is the caller's to decide (Job.Requeue).
func (c *Client) RequeueHold(ctx context.Context, id int64) error {
	for try := 1; ; try++ {
		j, err := c.single(ctx, id)
		if err != nil {
			return err
		}
		if !j.Pending() {
			return c.requeue(ctx, j)
		}
		err = c.hold(ctx, j)
		if err == nil || try == requeueTries {
			return err
		}
		// One that was released a moment ago starts between the look and the hold,
		// which Slurm refuses in words of many kinds ("Invalid node name").
		c.log.DebugContext(ctx, "job not held, looking again", "job_id", id, "err", err)
	}
}

func (c *Client) requeue(ctx context.Context, j Job) error {
	if j.State == "COMPLETED" {
		return nil
	}
	if !j.Batch {
		return pipefill.Errorf(pipefill.CodeConflict, "job %d is not a batch job and cannot be requeued; cancel it", j.ID)
	}
	if !j.Requeue {
		if err := c.scontrol.run(ctx, "update", "JobId="+j.name(), "Requeue=1"); err != nil {
			return err
		}
	}
	if err := c.scontrol.run(ctx, "requeuehold", j.name()); err != nil {
		return err
	}
	// While it completes Slurm may refuse this; the pin is harmless while the
	// job is held, and the next Hold or PinRelease sees to it.
	if j.PinnedNode != "" {
		if err := c.unpin(ctx, j); err != nil {
			c.log.DebugContext(ctx, "pin stays until the job has completed", "job_id", j.ID, "err", err)
		}
	}
	return nil
}

// Cancel ends a job for good. One that is unknown or has ended is no error.
func (c *Client) Cancel(ctx context.Context, id int64) error {
	j, err := c.Job(ctx, id)
	if pipefill.ErrorCode(err) == pipefill.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if j.Ended() {
		return nil
	}
	err = c.rest.do(ctx, http.MethodDelete, "job/"+j.name(), nil, nil)
	if code := pipefill.ErrorCode(err); code == pipefill.CodeNotFound || code == pipefill.CodeConflict {
		return nil
	}
	return err
}

// SetTimeLimit sets the wall-clock limit in minutes, of running jobs too (that
// is an administrator's right, even past the partition's MaxTime: keeping to it
// is the caller's business).
func (c *Client) SetTimeLimit(ctx context.Context, id, minutes int64) error {
	if minutes < 1 || minutes >= Infinite {
		return pipefill.Errorf(pipefill.CodeInvalid, "time limit of %d minutes: give at least one", minutes)
	}
	j, err := c.single(ctx, id)
	if err != nil {
		return err
	}
	if j.TimeLimitMin == minutes {
		return nil
	}
	err = c.rest.do(ctx, http.MethodPost, "job/"+j.name(), map[string]any{"time_limit": c.rest.number(minutes)}, nil)
	if err == nil {
		return nil
	}
	if again, readErr := c.Job(ctx, id); readErr == nil && again.TimeLimitMin == minutes {
		return nil
	}
	return err
}

// number is how the version in use takes a number.
func (r *rest) number(n int64) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.version {
	case "v0.0.36", "v0.0.37", "v0.0.38":
		return n
	}
	return map[string]any{"set": true, "infinite": false, "number": n}
}
