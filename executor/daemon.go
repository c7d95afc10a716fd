package executor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"pipefill"
	"pipefill/api"
	"pipefill/executor/device"
	"pipefill/metrics"
)

// Env is what the process gives to Run.
type Env struct {
	Stdout, Stderr io.Writer
	Munge          api.NodeMunge // for requests over TCP; nil where it is not built in
}

// Run is pipefilld from its arguments to its exit status.
func Run(ctx context.Context, args []string, env Env) int {
	err := run(ctx, args, env)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintf(env.Stderr, "pipefilld: %v\n", err)
	}
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	return pipefill.ExitStatus(err)
}

func run(ctx context.Context, args []string, env Env) error {
	if len(args) == 2 && args[0] == superviseVerb {
		return supervise(args[1])
	}
	flags := flag.NewFlagSet("pipefilld", flag.ContinueOnError)
	flags.SetOutput(env.Stderr)
	path := flags.String("config", "/etc/pipefill/pipefilld.yaml", "configuration `FILE`")
	check := flags.Bool("check", false, "check the configuration and exit")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return pipefill.Errorf(pipefill.CodeInvalid, "%w", err)
	}
	if flags.NArg() > 0 {
		return pipefill.Errorf(pipefill.CodeInvalid, "unknown argument %q: see pipefilld --help", flags.Arg(0))
	}
	if *version {
		_, err := fmt.Fprintln(env.Stdout, "pipefilld", pipefill.Version())
		return err
	}
	cfg, err := loadConfig(*path)
	if err != nil || *check {
		return err
	}
	log := slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: cfg.level}))
	c, err := api.NewNodeClient(cfg.Controller, env.Munge)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	d, err := newDaemon(cfg, log, c, newDisk())
	if err != nil {
		return err
	}
	return errors.Join(d.serve(ctx), d.close())
}

// daemon is a node with its sockets.
type daemon struct {
	*node
	controller controller
	lock       *os.File
	sockets    []*server
}

// newDaemon starts everything up to the sockets, which answer once it serves.
func newDaemon(cfg config, log *slog.Logger, c controller, store storage) (d *daemon, err error) {
	d = &daemon{controller: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	// The folder of the sockets is entered by every user, the other is not.
	if err := errors.Join(makeDir(cfg.RunDir, 0o755), makeDir(cfg.StateDir, 0o700)); err != nil {
		return d, err
	}
	if cfg.TraceDir != "" {
		if err := makeDir(cfg.TraceDir, 0o755); err != nil {
			return d, err
		}
	}
	// Sockets and files are nobody else's until their mode says otherwise.
	unix.Umask(0o077)
	if d.lock, err = lockFile(filepath.Join(cfg.StateDir, "lock")); err != nil {
		return d, err
	}
	devices, err := device.Probe(cfg.ids())
	if err != nil {
		return d, err
	}
	groups, err := findCgroups(cfg.groups)
	if err != nil {
		return d, err
	}
	groups.sched = cfg.FillSched
	if d.node, err = newNode(cfg, log, groups, devices, store); err != nil {
		return d, err
	}
	if err := groups.canGrant(devices); err != nil {
		d.fault("grants", fmt.Sprintf("fill jobs cannot be let onto GPUs: %v: mount cgroup v1's devices controller, or let pipefilld load BPF programs (CAP_SYS_ADMIN)", err))
	}
	if err := d.openMeter(); err != nil {
		d.fault("memory", fmt.Sprintf("the memory of GPUs is not watched: %v", err))
	}
	if d.ledger, err = openLedger(filepath.Join(cfg.StateDir, "ledger"), store); err != nil {
		return d, err
	}
	d.fault("damage", d.ledger.damage)
	if err := makeDir(filepath.Join(cfg.RunDir, "jobs"), 0o755); err != nil {
		return d, err
	}
	d.restore()
	if err := d.markAll(); err != nil {
		return d, err
	}
	return d, d.listen()
}

func (d *daemon) openMeter() error {
	m, err := device.OpenMeter(d.devices, device.DriverLibrary)
	if err == nil && m != nil {
		d.meter = m
	}
	return err
}

func (d *daemon) listen() error {
	for _, s := range []struct {
		name    string
		mode    os.FileMode
		perUser int
		handle  handler
	}{{"attach.sock", 0o600, clientsMax, d.attach}, {"gate.sock", 0o666, clientsUserMax, d.gate}} {
		server, err := listen(d.log, filepath.Join(d.cfg.RunDir, s.name), s.mode, s.perUser, s.handle)
		if err != nil {
			return err
		}
		d.sockets = append(d.sockets, server)
	}
	return nil
}

// serve runs until ctx ends or a part fails.
func (d *daemon) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Before anybody is told that we are there: until then SIGHUP ends us.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	parts := []func(context.Context) error{d.beat, d.watch, d.watchMemory, d.notify, func(ctx context.Context) error { return d.onHangup(ctx, hangup) }, func(ctx context.Context) error { return d.syncLoop(ctx, d.controller) }}
	for _, s := range d.sockets {
		parts = append(parts, s.serve)
	}
	serveMetrics, err := metrics.Serve(ctx, d.cfg.Metrics, d.families(), d.log)
	if err != nil {
		return err
	}
	go func() {
		// Figures are not worth ending for.
		if err := serveMetrics(); err != nil {
			d.log.WarnContext(ctx, "metrics are not served any more", "err", err)
		}
	}()
	errs := make([]error, len(parts))
	var group sync.WaitGroup
	for i, part := range parts {
		group.Go(func() {
			defer cancel()
			errs[i] = part(ctx)
		})
	}
	d.log.InfoContext(ctx, "pipefilld started", "node", d.cfg.Node, "version", pipefill.Version(), "devices", len(d.devices))
	group.Wait()
	return errors.Join(errs...)
}

// onHangup reads what of the configuration may change while jobs run: the
// recording. A file with a mistake changes nothing.
func (d *daemon) onHangup(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
		}
		cfg, err := loadConfig(d.cfg.path)
		if err != nil {
			d.log.ErrorContext(ctx, "configuration not read again", "err", err)
			continue
		}
		d.setRecording(cfg.recording)
	}
}

// notify tells systemd that the daemon is up, and then that it lives.
func (d *daemon) notify(ctx context.Context) error {
	tell := func(state string) {
		if _, err := systemd.SdNotify(false, state); err != nil {
			d.log.DebugContext(ctx, "systemd not told", "err", err)
		}
	}
	tell(systemd.SdNotifyReady)
	defer tell(systemd.SdNotifyStopping)
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(every / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			d.mu.Lock() // a daemon that is stuck must not say that it lives
			d.mu.Unlock()
			tell(systemd.SdNotifyWatchdog)
		}
	}
}

// close leaves fill jobs to their supervisors, which keep them stopped until
// the next daemon comes.
func (d *daemon) close() error {
	var errs []error
	for _, s := range d.sockets {
		_ = s.listener.Close()
	}
	if d.node != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, f := range d.fills {
			if !f.ended() && f.super != nil && d.ledger != nil {
				f.super.at.Command.CompareAndSwap(superRun, superHold)
				errs = append(errs, d.charge(f))
			}
		}
		if d.ledger != nil {
			d.ledger.close()
		}
		for _, m := range d.mains {
			errs = append(errs, d.saveMain(m))
			d.closeMain(m)
		}
		d.groups.leave()
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

func makeDir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

// lockFile keeps a second daemon from the same state.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(pipefill.Errorf(pipefill.CodeConflict, "another pipefilld holds %s: stop it first", path), f.Close())
	}
	return f, nil
}
