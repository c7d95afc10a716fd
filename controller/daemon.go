package controller

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	gometrics "runtime/metrics"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"pipefill"
	"pipefill/controller/lease"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
	"pipefill/metrics"
	"pipefill/munge"
)

// drainFor is how long requests under way may take after SIGTERM.
const drainFor = 5 * time.Second

// Main runs pipefillctld and returns its exit status.
func Main(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer, now func() time.Time) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, args, env, stdout, stderr, now); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		_, _ = fmt.Fprintln(stderr, "pipefillctld:", err)
		return pipefill.ExitStatus(err)
	}
	return 0
}

func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer, now func() time.Time) (err error) {
	cfg, only, err := options(args, stdout, stderr)
	if err != nil || only {
		return err
	}
	// Of 100,000 jobs most memory is what stays: a heap that may double costs more
	// than collecting it twice as often.
	if env("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if cfg.MungeSocket == "" {
		cfg.MungeSocket = env("MUNGE_SOCKET")
	}
	if env("GOMEMLIMIT") == "" {
		go keepSmall(ctx)
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.level}))
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return pipefill.Errorf(pipefill.CodeUnavailable, "state_dir: %w", err)
	}
	go watchdog(ctx, log)
	if cfg.standby {
		notify(ctx, log, daemon.SdNotifyReady)
	}
	held, err := lease.Take(ctx, cfg.StateDir, cfg.standby, log)
	if err != nil || held == nil {
		return err
	}
	st, err := store.Open(ctx, cfg.StateDir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := st.Own(ctx, held.Generation()); err != nil {
		return err
	}
	if st.Zone, err = cfg.zone(); err != nil {
		return err
	}
	watchWrites(st)
	counts := newTallies()
	client, err := slurm.New(slurm.Config{
		Endpoint: cfg.Slurmrestd, TokenFile: cfg.JWTTokenFile, SlurmConf: cfg.SlurmConf, Observe: counts.call, Expect: len(st.OpenNumbers(cfg.Cluster)),
	}, log)
	if err != nil {
		return err
	}
	c := New(cfg, st, client, log, now)
	c.tallies, c.mayAct = counts, held.Held
	server := &http.Server{
		Handler: NewServer(c, munge.New(cfg.MungeSocket), log), ConnContext: WithPeer,
		ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return serve(ctx, cfg, c, held, server, log)
}

// options reads the command line; only is true where that was all to do.
func options(args []string, stdout, stderr io.Writer) (cfg Config, only bool, err error) {
	flags := flag.NewFlagSet("pipefillctld", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "/etc/pipefill/pipefillctld.yaml", "configuration file")
	check := flags.Bool("check", false, "check the configuration and exit")
	version := flags.Bool("version", false, "print the version and exit")
	standby := flags.Bool("standby", false, "where another pipefillctld has the state_dir, wait for its end and take over")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return cfg, true, err
		}
		return cfg, true, pipefill.Errorf(pipefill.CodeInvalid, "%w", err)
	}
	if flags.NArg() > 0 {
		return cfg, true, pipefill.Errorf(pipefill.CodeInvalid, "unknown argument %q: see --help", flags.Arg(0))
	}
	if *version {
		_, err := fmt.Fprintln(stdout, "pipefillctld", pipefill.Version())
		return cfg, true, err
	}
	cfg, err = LoadConfig(*path)
	cfg.standby = *standby
	return cfg, *check, err
}

// serve listens, looks, and ends in reverse.
func serve(ctx context.Context, cfg Config, c *Controller, held *lease.Lease, server *http.Server, log *slog.Logger) error {
	listeners, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Long polls end with the daemon, not with the deadline.
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	serveMetrics, err := metrics.Serve(ctx, cfg.Metrics, c.families(), log)
	if err != nil {
		return err
	}
	go func() {
		// Figures are not worth ending for.
		if err := serveMetrics(); err != nil {
			log.WarnContext(ctx, "metrics are not served any more", "err", err)
		}
	}()
	failed := make(chan error, len(listeners)+2)
	for _, l := range listeners {
		go func() { failed <- server.Serve(l) }()
	}
	running := make(chan struct{})
	go func() {
		defer close(running)
		failed <- c.Run(ctx)
	}()
	go func() { failed <- held.Keep(ctx) }()
	// Before anybody is told that we are there: until then SIGHUP ends us.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	go c.onHangup(ctx, hangup)
	log.InfoContext(ctx, "ready", "version", pipefill.Version(), "cluster", cfg.Cluster, "socket", cfg.Socket, "listen", cfg.Listen)
	notify(ctx, log, daemon.SdNotifyReady)
	select {
	case <-ctx.Done():
	case err = <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
	}
	cancel()
	notify(context.WithoutCancel(ctx), log, daemon.SdNotifyStopping)
	drain, stop := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer stop()
	err = errors.Join(err, server.Shutdown(drain))
	select {
	case <-running: // nothing acts any more: the next may begin
		return errors.Join(err, held.Release())
	case <-drain.Done():
		return err
	}
}

// listen opens the socket, in place of a dead one, and the TCP port if there is
// to be one.
func listen(ctx context.Context, cfg Config) ([]net.Listener, error) {
	if info, err := os.Lstat(cfg.Socket); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", cfg.Socket); err == nil {
			return nil, errors.Join(pipefill.Errorf(pipefill.CodeConflict,
				"socket: %s is served by another pipefillctld: end that one first", cfg.Socket), conn.Close())
		}
		if err := os.Remove(cfg.Socket); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Socket), 0o755); err != nil { //nolint:gosec // every user's CLI goes through it
		return nil, fmt.Errorf("socket: %w", err)
	}
	var config net.ListenConfig
	socket, err := config.Listen(ctx, "unix", cfg.Socket)
	if err != nil {
		return nil, pipefill.Errorf(pipefill.CodeUnavailable, "socket: %w", err)
	}
	// Everybody may ask; peer credentials say who it is.
	if err := os.Chmod(cfg.Socket, 0o666); err != nil { //nolint:gosec // see above
		return nil, errors.Join(fmt.Errorf("socket: %w", err), socket.Close())
	}
	if cfg.Listen == "" {
		return []net.Listener{socket}, nil
	}
	port, err := config.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, errors.Join(pipefill.Errorf(pipefill.CodeUnavailable, "listen: %w", err), socket.Close())
	}
	return []net.Listener{socket, port}, nil
}

func notify(ctx context.Context, log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.DebugContext(ctx, "systemd was not told", "state", state, "err", err)
	}
}

// memoryLeast is what the heap may grow to whatever of it is in use: a listing of
// 100,000 jobs leaves as much behind as the jobs are.
const memoryLeast = 384 << 20

// keepSmall has the collector start earlier where the heap is near its limit, and
// moves the limit with what is in use, so that a long queue is not collected all
// the time.
func keepSmall(ctx context.Context) {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	live := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for {
		gometrics.Read(live)
		limit := int64(memoryLeast)
		if live[0].Value.Kind() == gometrics.KindUint64 {
			limit = max(limit, 2*int64(min(live[0].Value.Uint64(), 1<<40)))
		}
		debug.SetMemoryLimit(limit)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// watchdog tells systemd twice an interval that we live.
func watchdog(ctx context.Context, log *slog.Logger) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	ticker := time.NewTicker(every / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			notify(ctx, log, daemon.SdNotifyWatchdog)
		}
	}
}
