package controller

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"pipefill"
	"pipefill/api"
)

// dump streams an archive. One that breaks off has no last line, and is not
// loaded.
func (s *Server) dump(w http.ResponseWriter, r *http.Request) {
	if !s.operatorOnly(w, r, "archive dump") {
		return
	}
	beforeMs, err := strconv.ParseInt(r.URL.Query().Get("before_ms"), 10, 64)
	if err != nil {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeInvalid, "archive dump: before_ms: write milliseconds since 1970"))
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	out := bufio.NewWriterSize(w, 1<<16)
	sum := sha256.New()
	lines := json.NewEncoder(io.MultiWriter(out, sum))
	end := api.ArchiveEnd{}
	err = lines.Encode(api.ArchiveHead{Version: api.ArchiveVersion, Cluster: s.controller.cfg.Cluster, BeforeMs: beforeMs, MadeMs: s.controller.now().UnixMilli()})
	if err == nil {
		err = s.controller.store.Archive(r.Context(), beforeMs, func(row api.ArchiveRow) error {
			end.Rows++
			return lines.Encode(row)
		})
	}
	if err == nil {
		end.SHA256 = hex.EncodeToString(sum.Sum(nil))
		err = json.NewEncoder(out).Encode(end)
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		s.log.WarnContext(r.Context(), "an archive broke off", "rows", end.Rows, "err", err)
		panic(http.ErrAbortHandler) // so that the caller sees it
	}
}

// load takes rows of an archive in; the first rows of a load say so in the audit
// log, like all others.
func (s *Server) load(w http.ResponseWriter, r *http.Request) {
	if !s.operatorOnly(w, r, "archive load") {
		return
	}
	decoder := json.NewDecoder(r.Body)
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	var rows []api.ArchiveRow
	if err := decoder.Decode(&rows); err != nil {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeInvalid, "archive load: the request is not understood: %w", err))
		return
	}
	var loaded int64
	entry := api.AuditEntry{Action: "load", Target: "archive", Detail: fmt.Sprintf("%d rows", len(rows))}
	err := s.audited(r.Context(), callerOf(r), entry, func(ctx context.Context) (err error) {
		loaded, err = s.controller.store.Load(ctx, rows)
		return err
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, http.StatusOK, map[string]int64{"loaded": loaded})
}
