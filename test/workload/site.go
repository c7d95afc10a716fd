package workload

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
	"time"

	"golang.org/x/sys/unix"

	"pipefill/test/cluster"
)

// Main runs a program until it is done or interrupted, and exits with 1 where it
// failed.
func Main(name string, run func(ctx context.Context, args []string, stdout io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

// Site is a private cluster with the programs that its jobs run.
type Site struct {
	Root, Build string
	Stdout      io.Writer
	Now         func() time.Time

	Cluster  *cluster.Cluster
	Lib      string // where the programs are, for every user
	Work     string // where every user may write
	Programs []*Program

	begin time.Time
}

// Flags are those of every program with a site.
func (s *Site) Flags(flags *flag.FlagSet) {
	flags.StringVar(&s.Root, "root", ".", "the tree's `FOLDER`")
	flags.StringVar(&s.Build, "build", "build", "`FOLDER` with the built programs")
}

// Start begins the clock of Say, makes the site's paths and others absolute, and
// starts a cluster that writes raw traces. The caller ends it.
func (s *Site) Start(ctx context.Context, switches []string, paths ...*string) (err error) {
	s.begin = s.Now()
	for _, path := range append(paths, &s.Root, &s.Build) {
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	s.Say("starting a private Slurm cluster of two nodes, pipefilld on each, pipefillctld, slurmrestd and munge")
	if s.Cluster, err = cluster.Up(ctx, s.Root, slog.New(slog.DiscardHandler), append([]string{"--trace"}, switches...)...); err != nil {
		return err
	}
	if s.Lib, err = Install(s.Cluster, s.Root, s.Build); err == nil {
		s.Work, err = s.Cluster.Folder("work")
	}
	if err != nil {
		return errors.Join(err, s.Cluster.Down())
	}
	return nil
}

// Outside runs each program alone, runs times for about want: its digest and its
// time.
func (s *Site) Outside(ctx context.Context, want time.Duration, runs int) error {
	s.Programs = Programs()
	for _, p := range s.Programs {
		s.Say("running %s outside, alone on a core, %d times: its digest and its time", p.Name, runs)
		if err := p.Exclusive(ctx, s.Cluster, s.Lib, s.Work, want, runs, s.Now); err != nil {
			return err
		}
		s.Say("  %s: %.2f s for %d steps, digest %.12s…", p.Name, p.IdleSeconds(), p.Steps, p.Digest)
	}
	return nil
}

// Say prints a line with the time since the start.
func (s *Site) Say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.Stdout, "%5.0f s  %s\n", s.Now().Sub(s.begin).Seconds(), fmt.Sprintf(format, args...))
}
