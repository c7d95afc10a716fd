package cli

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
	"pipefill/simulator"
)

// recordedFor is how far back --from-cluster looks for fill jobs that have ended.
const recordedFor = 28 * 24 * time.Hour

// clusterFile makes a scenario of what pipefillctld has recorded: the main jobs
// that run now with the bubble cycles that their nodes report, and the fill jobs
// of the last weeks.
func (p *program) clusterFile(c *cli.Context) (*simulator.File, error) {
	var slots []api.Slot
	var jobs []api.FillJob
	err := p.ask(c, func(ctx context.Context, from controller) error {
		var err error
		if slots, err = from.Slots(ctx); err != nil {
			return err
		}
		jobs, err = from.Jobs(ctx, api.JobFilter{SinceMs: p.env.Now().Add(-recordedFor).UnixMilli()})
		return err
	})
	if err != nil {
		return nil, err
	}
	var r simulator.Recorded
	for _, s := range slots {
		d := simulator.RecordedDevice{MainJob: s.Main.Job.JobID, Cycle: s.Main.Cycle}
		if t := s.Main.Totals; t.Iterations > t.ControlIterations {
			d.BubbleNs = t.BubbleNs / (t.Iterations - t.ControlIterations)
		}
		r.Devices = append(r.Devices, d)
	}
	for _, j := range jobs {
		if j.State == string(pipefill.OutcomeCompleted) && j.DeviceMs > 0 {
			r.Jobs = append(r.Jobs, simulator.RecordedJob{SubmitMs: j.SubmitMs, DeviceMs: j.DeviceMs, User: j.User})
		}
	}
	return simulator.FromCluster(c.Args().First(), r)
}
