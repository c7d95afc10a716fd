package executor

import (
	"slices"

	"pipefill"
	"pipefill/executor/device"
)

// A fill job has the devices of its assignment together: their gates are given to
// it and taken away at once.

// slots finds the devices of an assignment: all, or none where one is not to be
// had.
func (n *node) slots(a pipefill.Assignment) []*mainDevice {
	m := n.mains[a.MainJob.JobID]
	if m == nil || m.ending || m.rec.Job.Restarts != a.MainJob.Restarts {
		return nil
	}
	var slots []*mainDevice
	for _, id := range a.Devices() {
		i := slices.IndexFunc(m.devices, func(d *mainDevice) bool { return d.device.ID == id && d.fill == nil })
		if i < 0 {
			return nil
		}
		slots = append(slots, m.devices[i])
	}
	return slots
}

func devicesOf(slots []*mainDevice) []device.Device {
	var devices []device.Device
	for _, d := range slots {
		devices = append(devices, d.device)
	}
	return devices
}

// bind gives the gates of its devices to a fill job.
func (n *node) bind(f *fillJob) {
	for _, d := range f.devices {
		d.fill, d.chunkTail, d.limited = f, 0, 0
		c := d.control.at
		c.FillStop.Store(0)
		c.Plan.Store(f.plan.id)
		c.Assignment.Store(uint64(f.rec.Assignment.ID))
		// On cores that both share a wake costs the main job 2 us; on a GPU it
		// would be 15, and the fill side arms itself.
		if d.device.ID.Kind() == pipefill.KindCPU {
			c.Wake.Store(1)
		}
	}
}

// unbind takes the gates away again.
func (n *node) unbind(f *fillJob) {
	for _, d := range f.devices {
		d.fill = nil
		d.control.at.Wake.Store(0)
		d.control.at.Assignment.Store(0)
		d.control.at.FillStop.Store(0)
		d.control.at.Plan.Store(0)
	}
	f.devices = nil
}

// wakeSupervisor has it look at its commands now.
func (f *fillJob) wakeSupervisor() {
	for _, d := range f.devices {
		futexWake(&d.main.at.Word)
	}
}

// width is how many devices a second of its open gate is charged for.
func (f *fillJob) width() int64 { return int64(len(f.rec.Assignment.Devices())) }
