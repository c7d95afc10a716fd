package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
)

func percent(part, whole int64) string {
	if whole <= 0 {
		return "N/A"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

func bubbleNs(m api.MainDevice) int64 {
	var sum int64
	for _, b := range m.Cycle.Bubbles {
		sum += b.DurationNs
	}
	return sum
}

var slotColumns = []column[api.Slot]{
	{"NODE", false, func(s api.Slot) string { return s.Node }},
	{"DEVICE", false, func(s api.Slot) string { return string(s.Main.Device) }},
	{"MAINJOB", true, func(s api.Slot) string { return strconv.FormatInt(s.Main.Job.JobID, 10) }},
	{"USER", false, func(s api.Slot) string { return s.User }},
	{"ITER_MS", true, func(s api.Slot) string { return fmt.Sprintf("%.1f", float64(s.Main.Cycle.IterationNs)/1e6) }},
	{"BUBBLES", true, func(s api.Slot) string { return percent(bubbleNs(s.Main), s.Main.Cycle.IterationNs) }},
	{"FILLJOB", true, func(s api.Slot) string {
		if s.FillJob == 0 {
			return "-"
		}
		return strconv.FormatInt(s.FillJob, 10)
	}},
	{"FILLED", true, func(s api.Slot) string { return percent(s.Main.Totals.FilledNs, s.Main.Totals.BubbleNs) }},
	{"OVERHEAD", true, func(s api.Slot) string {
		if s.Main.Totals.OverheadLo == 0 && s.Main.Totals.OverheadHi == 0 {
			return "N/A"
		}
		return fmt.Sprintf("%+.1f..%+.1f%%", 100*s.Main.Totals.OverheadLo, 100*s.Main.Totals.OverheadHi)
	}},
	{"STATE", false, func(s api.Slot) string {
		switch {
		case !s.Main.Enabled:
			return "shut: " + s.Main.Reason
		case s.Main.Slow != "":
			return "open, slow: " + s.Main.Slow
		}
		return "open"
	}},
}

func (p *program) slotsCommand() *cli.Command {
	return command(&cli.Command{
		Name: "slots", Usage: "list the devices of running main jobs", Flags: outputFlags(),
		Action: func(c *cli.Context) error {
			return p.ask(c, func(ctx context.Context, from controller) error {
				slots, err := from.Slots(ctx)
				if err != nil {
					return err
				}
				return printRows(p.env.Stdout, c, slots, slotColumns)
			})
		},
	})
}

// bubbleRow is one bubble of one device.
type bubbleRow struct {
	Node   string            `json:"node"`
	Device pipefill.DeviceID `json:"device"`
	pipefill.Bubble
}

var bubbleColumns = []column[bubbleRow]{
	{"NODE", false, func(b bubbleRow) string { return b.Node }},
	{"DEVICE", false, func(b bubbleRow) string { return string(b.Device) }},
	{"INDEX", true, func(b bubbleRow) string { return strconv.Itoa(b.Index) }},
	{"KIND", false, func(b bubbleRow) string { return b.Kind }},
	{"START_MS", true, func(b bubbleRow) string { return fmt.Sprintf("%.1f", float64(b.StartNs)/1e6) }},
	{"USABLE_MS", true, func(b bubbleRow) string { return fmt.Sprintf("%.1f", float64(b.DurationNs)/1e6) }},
	{"FREE", true, func(b bubbleRow) string { return size(b.FreeBytes) }},
}

func (p *program) bubblesCommand() *cli.Command {
	return command(&cli.Command{
		Name: "bubbles", Usage: "show the bubble cycle of a running main job, device by device", ArgsUsage: "JOB",
		Flags: outputFlags(&cli.StringFlag{Name: "cycle", Usage: "print the cycle of `NODE/DEVICE` as a file for pipefill-cli plan"}),
		Action: func(c *cli.Context) error {
			ids, err := jobNumbers(c)
			if err != nil {
				return err
			}
			if len(ids) != 1 {
				return usage("bubbles: write one main job's number; pipefill-cli slots lists them")
			}
			return p.ask(c, func(ctx context.Context, from controller) error {
				slots, err := from.Slots(ctx)
				if err != nil {
					return err
				}
				if c.IsSet("cycle") {
					return p.printCycle(slots, ids[0], c.String("cycle"))
				}
				rows, found := bubbleRows(slots, ids[0])
				if !found {
					return pipefill.Errorf(pipefill.CodeNotFound, "main job %d: none runs with pipefill; pipefill-cli slots lists them", ids[0])
				}
				return printRows(p.env.Stdout, c, rows, bubbleColumns)
			})
		},
	})
}

func bubbleRows(slots []api.Slot, job int64) (rows []bubbleRow, found bool) {
	for _, s := range slots {
		if s.Main.Job.JobID != job {
			continue
		}
		found = true
		for _, b := range s.Main.Cycle.Bubbles {
			rows = append(rows, bubbleRow{Node: s.Node, Device: s.Main.Device, Bubble: b})
		}
	}
	return rows, found
}

// printCycle prints one device's cycle as plan reads it.
func (p *program) printCycle(slots []api.Slot, job int64, place string) error {
	for _, s := range slots {
		if s.Main.Job.JobID != job || s.Node+"/"+string(s.Main.Device) != place {
			continue
		}
		if len(s.Main.Cycle.Bubbles) == 0 {
			return pipefill.Errorf(pipefill.CodeConflict, "main job %d on %s: no bubble is offered: wait until some are learned", job, place)
		}
		encoder := json.NewEncoder(p.env.Stdout)
		encoder.SetIndent("", " ")
		return encoder.Encode(plan.WithDevice(s.Main.Cycle, 0))
	}
	return pipefill.Errorf(pipefill.CodeNotFound, "main job %d has no device %s: write NODE/DEVICE as in pipefill-cli bubbles %d", job, place, job)
}
