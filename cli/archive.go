package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
)

// archiveAtOnce is how many rows go into one request.
const archiveAtOnce = 5000

func (p *program) archiveCommand() *cli.Command {
	return &cli.Command{
		Name: "archive", Usage: "write the accounting to a file, and take it in again (operators)",
		Action: func(*cli.Context) error { return usage("archive: write dump FILE or load FILE") },
		Subcommands: []*cli.Command{
			command(&cli.Command{
				Name: "dump", Usage: "write what ended before TIME (all by default) to FILE: fill jobs, their attempts and usage, main jobs, sums, the audit log",
				ArgsUsage: "FILE [before=TIME]", Action: p.archiveDump,
			}),
			command(&cli.Command{
				Name: "load", Usage: "take the rows of FILE in that are not there; the daemon purges them again by its own time", ArgsUsage: "FILE", Action: p.archiveLoad,
			}),
		},
	}
}

func (p *program) archiveDump(c *cli.Context) error {
	before := p.env.Now()
	switch value, ok := strings.CutPrefix(c.Args().Get(1), "before="); {
	case c.NArg() == 0 || c.NArg() > 2 || c.NArg() == 2 && !ok:
		return usage("archive dump: write FILE, or FILE before=TIME")
	case ok:
		var err error
		if before, err = moment(value, before); err != nil {
			return usage("archive dump: %s: %v", c.Args().Get(1), err)
		}
	}
	from, err := p.dial(c)
	if err != nil {
		return err
	}
	var rows int64
	err = writeWhole(c.Args().First(), func(w io.Writer) (err error) {
		stream, err := from.Archive(c.Context, before.UnixMilli())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stream.Close()) }()
		rows, err = readArchive(io.TeeReader(stream, w), func([]api.ArchiveRow) error { return nil })
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.env.Stdout, "%d rows written to %s\n", rows, c.Args().First())
	return err
}

// archiveLoad reads the whole file before it sends any of it.
func (p *program) archiveLoad(c *cli.Context) error {
	if c.NArg() != 1 {
		return usage("archive load: write the name of a file that archive dump wrote")
	}
	path := c.Args().First()
	from, err := p.dial(c)
	if err != nil {
		return err
	}
	read := func(each func([]api.ArchiveRow) error) (rows int64, err error) {
		file, err := os.Open(path) //nolint:gosec // the caller names it
		if errors.Is(err, fs.ErrNotExist) {
			return 0, pipefill.Errorf(pipefill.CodeNotFound, "archive load: %w", err)
		}
		if err != nil {
			return 0, usage("archive load: %w", err)
		}
		defer func() { _ = file.Close() }() // read only
		rows, err = readArchive(file, each)
		if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
		return rows, err
	}
	rows, err := read(func([]api.ArchiveRow) error { return nil })
	if err != nil {
		return err
	}
	var loaded int64
	_, err = read(func(some []api.ArchiveRow) error {
		ctx, cancel := context.WithTimeout(c.Context, requestTimeout)
		defer cancel()
		n, err := from.LoadArchive(ctx, some)
		loaded += n
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.env.Stdout, "%d rows loaded of %d; the others were there\n", loaded, rows)
	return err
}

// readArchive calls each for every few thousand rows of an archive, and says how
// many there were. One that is not whole, or was changed, is an error.
func readArchive(in io.Reader, each func([]api.ArchiveRow) error) (rows int64, err error) {
	sum := sha256.New()
	lines := bufio.NewReaderSize(in, 1<<16)
	var some []api.ArchiveRow
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return rows, pipefill.Errorf(pipefill.CodeInvalid, "line %d: the archive is not whole (%w): dump it again", number, err)
		}
		if number == 1 {
			if err := checkArchiveHead(line); err != nil {
				return rows, err
			}
			_, _ = sum.Write(line) // a hash never fails
			continue
		}
		var end api.ArchiveEnd
		if err := strict(line, &end); err == nil && end.SHA256 != "" {
			if end.Rows != rows || end.SHA256 != hex.EncodeToString(sum.Sum(nil)) {
				return rows, pipefill.Errorf(pipefill.CodeInvalid, "line %d: the archive was changed since it was dumped: its rows or their sum are others", number)
			}
			if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
				return rows, pipefill.Errorf(pipefill.CodeInvalid, "line %d: there is more after the end of the archive", number+1)
			}
			if len(some) == 0 {
				return rows, nil
			}
			return rows, each(some)
		}
		var row api.ArchiveRow
		if err := strict(line, &row); err != nil || row.Table == "" {
			return rows, pipefill.Errorf(pipefill.CodeInvalid, "line %d: no row of an archive: %w", number, err)
		}
		_, _ = sum.Write(line) // a hash never fails
		rows++
		if some = append(some, row); len(some) == archiveAtOnce {
			if err := each(some); err != nil {
				return rows, err
			}
			some = nil
		}
	}
}

func checkArchiveHead(line []byte) error {
	var head api.ArchiveHead
	if err := strict(line, &head); err != nil || head.Version == 0 {
		return pipefill.Errorf(pipefill.CodeInvalid, "line 1: no archive of pipefill-cli archive dump")
	}
	if head.Version != api.ArchiveVersion {
		return pipefill.Errorf(pipefill.CodeConflict, "line 1: an archive of version %d, this program knows %d: install the newer release", head.Version, api.ArchiveVersion)
	}
	return nil
}

func strict(line []byte, out any) error {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	return decoder.Decode(out)
}
