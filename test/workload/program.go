// Package workload is what the demo and the bench run: a pipeline training job
// and programs to fill its bubbles with.
package workload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill/measure"
	"pipefill/test/cluster"
)

const python = "/usr/bin/python3"

// Program is a command that fill jobs run. It takes its steps and a file for
// the digest of its whole result.
type Program struct {
	Name    string
	File    string   // of engine/examples
	Steps   int      // so many make one run
	Extra   []string // arguments after the digest's file
	Options []string // of sbatch, for a fill job

	Seconds []float64 // of runs alone on a device, sorted
	Digest  string    // of a run outside
}

// Programs are the two sorts: one that knows nothing of pipefill and is stopped
// from outside, and one that uses the fill side's calls. Steps is not set yet.
func Programs() []*Program {
	return []*Program{
		{Name: "numeric", File: "fill_numeric.py"},
		{Name: "numeric-small", File: "fill_numeric.py", Extra: []string{"300"}},
		{Name: "chunked", File: "fill_chunked.py", Options: []string{"--pipefill=fill,mode=chunked"}},
	}
}

// Install copies the package pipefill, the library and the example programs
// into the cluster and returns the folder.
func Install(c *cluster.Cluster, root, build string) (string, error) {
	examples, err := filepath.Glob(filepath.Join(root, "engine/examples/*.py"))
	if err != nil {
		return "", fmt.Errorf("install workload: %w", err)
	}
	return c.CopyIn(append(examples, filepath.Join(root, "engine/pipefill"), filepath.Join(build, "libpipefill.so"))...)
}

// Command is the shell line of one run.
func (p *Program) Command(lib string, steps int, digest string) string {
	return strings.Join(append([]string{
		"PYTHONPATH=" + lib, "PIPEFILL_LIBRARY=" + lib + "/libpipefill.so", "OMP_NUM_THREADS=1",
		python, lib + "/" + p.File, strconv.Itoa(steps), digest,
	}, p.Extra...), " ")
}

// outside runs the program as a plain process on one core.
func (p *Program) outside(ctx context.Context, c *cluster.Cluster, lib, digest string, steps int, now func() time.Time) (time.Duration, error) {
	begin := now()
	_, err := c.As(ctx, cluster.Ann, "taskset", "-c", "0", "sh", "-c", p.Command(lib, steps, digest))
	return now().Sub(begin), err
}

// Exclusive chooses Steps so that a run takes about want on an idle device,
// then runs it runs times outside, and keeps the times and the digest.
func (p *Program) Exclusive(ctx context.Context, c *cluster.Cluster, lib, work string, want time.Duration, runs int, now func() time.Time) error {
	file := filepath.Join(work, p.Name+".outside")
	few, many := 100, 2000
	short, err := p.outside(ctx, c, lib, file, few, now)
	if err != nil {
		return err
	}
	long, err := p.outside(ctx, c, lib, file, many, now)
	if err != nil {
		return err
	}
	step := max((long-short)/time.Duration(many-few), time.Microsecond)
	p.Steps = few + int(max(0, want-short)/step)
	for range runs {
		d, err := p.outside(ctx, c, lib, file, p.Steps, now)
		if err != nil {
			return err
		}
		p.Seconds = append(p.Seconds, d.Seconds())
		digest, err := ReadDigest(file)
		if err != nil {
			return err
		}
		if p.Digest != "" && digest != p.Digest {
			return fmt.Errorf("%s: two runs outside gave the digests %s and %s: it is not deterministic", p.Name, p.Digest, digest)
		}
		p.Digest = digest
	}
	slices.Sort(p.Seconds)
	return nil
}

// IdleSeconds is what a run takes on an idle device, the median.
func (p *Program) IdleSeconds() float64 { return measure.Quantile(p.Seconds, 0.5) }

// ReadDigest reads what a program wrote at its end.
func ReadDigest(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read digest: %w", err)
	}
	digest := strings.TrimSpace(string(text))
	if len(digest) != 64 {
		return "", fmt.Errorf("%s: %q is no SHA-256", path, digest)
	}
	return digest, nil
}
