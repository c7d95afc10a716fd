package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// ArchiveVersion is the version of an archive's form, in its first line.
const ArchiveVersion = 1

// ArchiveRow is one row of an archive: of a table of the controller's database,
// by column.
type ArchiveRow struct {
	Table string         `json:"table"`
	Row   map[string]any `json:"row"`
}

// ArchiveHead is the first line of an archive.
type ArchiveHead struct {
	Version  int    `json:"pipefill_archive"`
	Cluster  string `json:"cluster"`
	BeforeMs int64  `json:"before_ms"`
	MadeMs   int64  `json:"made_ms"`
}

// ArchiveEnd is the last line of an archive: what is not whole has none.
type ArchiveEnd struct {
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"` // hex, of all lines before
}

// Archive returns a stream of an archive's lines: what the accounting holds from
// before beforeMs. Operators only. The caller closes it.
func (c *Client) Archive(ctx context.Context, beforeMs int64) (io.ReadCloser, error) {
	return c.stream(ctx, withQuery("/v1/archive", url.Values{"before_ms": {strconv.FormatInt(beforeMs, 10)}}))
}

// LoadArchive takes rows of an archive in, and returns how many were not there.
// Operators only.
func (c *Client) LoadArchive(ctx context.Context, rows []ArchiveRow) (int64, error) {
	var loaded struct {
		Loaded int64 `json:"loaded"`
	}
	err := c.call(ctx, http.MethodPost, "/v1/archive", rows, &loaded)
	return loaded.Loaded, err
}
