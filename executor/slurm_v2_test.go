package executor

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipefill"
	"pipefill/executor/device"
)

// Where Slurm tracks by v2 no fill job may leave its group: nothing is offered,
// and one that comes all the same does not run.
func TestNode_OffersNothingWhereSlurmIsOnV2(t *testing.T) {
	unified := t.TempDir()
	cfg := defaultConfig()
	cfg.StateDir, cfg.budget, cfg.control = t.TempDir(), 0.01, controlPpm
	n, err := newNode(cfg, slog.New(slog.DiscardHandler), &cgroups{unified: unified, name: "x"}, []device.Device{{ID: "cpu:0"}}, disk{})
	if err != nil {
		t.Fatal(err)
	}
	key := pipefill.JobKey{Cluster: "test", JobID: 100}
	if _, err := n.attachMain(key, 1000, "batch", message{}, 1); err != nil {
		t.Fatal(err)
	}
	m := n.mains[100]
	t.Cleanup(func() { n.closeMain(m) })
	self, err := readProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	m.rec.Devices[0].Openers = []process{self}
	if d := n.mainDevices(m)[0]; !d.Enabled {
		t.Fatalf("with Slurm on v1: %s", d.Reason)
	}
	if err := os.MkdirAll(filepath.Join(unified, "system.slice", "n0_slurmstepd.scope"), 0o755); err != nil {
		t.Fatal(err)
	}
	if d := n.mainDevices(m)[0]; d.Enabled || !strings.Contains(d.Reason, "CgroupPlugin") {
		t.Errorf("%+v", d)
	}
	a := pipefill.Assignment{ID: 7, Job: pipefill.JobKey{Cluster: "test", JobID: 200}, Device: "cpu:0", MainJob: key, Mode: pipefill.ModeSignal}
	if _, err := n.startFill(a, "batch", ""); !errors.Is(err, errNoSlot) {
		t.Errorf("a fill job all the same: %v", err)
	}
}
