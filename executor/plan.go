package executor

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"pipefill/api"
)

// heldPlan is the execution plan of a fill job as it is handed out: a memfd that
// nobody can change. The daemon does not look into it: the job's own profile is
// in it.
type heldPlan struct {
	id    uint64
	file  *os.File
	moves bool // it counts on state of the main job to be away
}

// planSeals keep a plan as it is, in whoever's hands.
const planSeals = pageSeals | unix.F_SEAL_WRITE

func (p *heldPlan) close() {
	if p.file != nil {
		_ = p.file.Close()
	}
	*p = heldPlan{}
}

// takePlan holds a plan for its fill job. One that cannot be kept is noted as
// there all the same, lest it be sent for ever.
func (n *node) takePlan(p api.Plan) {
	f := n.fills[p.Assignment]
	if f == nil || f.ended() || p.ID == 0 || f.planID() == p.ID || f.width() > 1 || !n.takeMove(f, p) {
		return
	}
	n.handPlan(f, p)
}

// handPlan is takePlan, once what the plan counts on is there.
func (n *node) handPlan(f *fillJob, p api.Plan) {
	f.waiting = nil
	file, err := planFile(p.Text)
	if err != nil {
		n.log.Warn("plan not taken: the fill job goes on with the one before", "assignment", p.Assignment, "err", err)
		f.plan.id = p.ID
		return
	}
	f.plan.close()
	f.plan = heldPlan{p.ID, file, p.Move != nil}
	for _, d := range f.devices {
		d.control.at.Plan.Store(p.ID)
	}
	n.changed()
	n.log.Info("plan taken", "fill_job_id", f.rec.Assignment.Job.JobID, "assignment", p.Assignment, "bytes", len(p.Text))
}

// planID names the plan that the node has of a fill job.
func (f *fillJob) planID() uint64 {
	if f.waiting != nil {
		return f.waiting.ID
	}
	return f.plan.id
}

// planFile puts text into a sealed memfd.
func planFile(text []byte) (*os.File, error) {
	if len(text) == 0 || len(text) > api.MaxPlan {
		return nil, fmt.Errorf("keep plan: %d bytes, 1 to %d are taken: %w", len(text), api.MaxPlan, os.ErrInvalid)
	}
	file, err := newMemfd("plan", planSeals, func(f *os.File) error {
		_, err := f.Write(text)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keep plan: %w", err)
	}
	return file, nil
}

// openPlan hands a fill job its plan, to be read from its begin.
func (n *node) openPlan(p peer) (reply, []*os.File, error) {
	f := n.fillOf(p)
	if f == nil || f.plan.file == nil {
		return replyNone, nil, nil
	}
	file, err := openReadOnly(f.plan.file)
	if err != nil {
		return reply{}, nil, fmt.Errorf("open plan: %w", err)
	}
	return ok("plan", strconv.FormatUint(f.plan.id, 10)), []*os.File{file}, nil
}

// planPosition is what the fill job's page says of where it is: the job's own
// word, bounded to what a message may hold.
func (f *fillJob) planPosition() api.PlanPosition {
	if f.page == nil || f.page.at.Plan.Load() == 0 || f.page.at.Plan.Load() != f.plan.id {
		return api.PlanPosition{}
	}
	at := f.page.at.PlanAt.Load()
	return api.PlanPosition{Plan: f.plan.id, Config: int(at >> 32 & (1<<31 - 1)), Op: int(at & (1<<31 - 1))}
}
