package controller

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"pipefill"
	"pipefill/api"
)

// whyMost bounds a reason: it goes into every row of the queue.
const whyMost = 200

// audited carries out an operator's order, written down before and its result
// after. What cannot be written down is not done.
func (s *Server) audited(ctx context.Context, who caller, e api.AuditEntry, do func(context.Context) error) error {
	c := s.controller
	e.AtMs, e.UID, e.User = c.now().UnixMilli(), who.uid, who.name
	if err := checkWhy(e.Why); err != nil {
		return err
	}
	id, err := c.store.Audit(ctx, e)
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "an operator's order", "user", who.name, "uid", who.uid, "action", e.Action, "target", e.Target, "detail", e.Detail, "why", e.Why)
	err = do(ctx)
	result := "ok"
	if err != nil {
		result = string(pipefill.ErrorCode(err)) + ": " + err.Error()
	}
	// The order was carried out whoever went away meanwhile.
	if werr := c.store.AuditResult(context.WithoutCancel(ctx), id, result); werr != nil {
		s.log.ErrorContext(ctx, "the result of an order is not in the audit log", "audit", id, "result", result, "err", werr)
	}
	return err
}

func checkWhy(why string) error {
	if len(why) > whyMost || strings.ContainsFunc(why, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return pipefill.Errorf(pipefill.CodeInvalid, "the reason: write one line of at most %d bytes", whyMost)
	}
	return nil
}

// operatorOnly answers others, and tells whether the caller may go on.
func (s *Server) operatorOnly(w http.ResponseWriter, r *http.Request, what string) bool {
	if callerOf(r).operator {
		return true
	}
	s.fail(w, r, pipefill.Errorf(pipefill.CodeDenied, "%s: for operators: root, and operators: of pipefillctld.yaml", what))
	return false
}

func (s *Server) audit(w http.ResponseWriter, r *http.Request) {
	if !s.operatorOnly(w, r, "audit") {
		return
	}
	startMs, err1 := strconv.ParseInt(r.URL.Query().Get("start_ms"), 10, 64)
	endMs, err2 := strconv.ParseInt(r.URL.Query().Get("end_ms"), 10, 64)
	if err1 != nil || err2 != nil {
		s.fail(w, r, pipefill.Errorf(pipefill.CodeInvalid, "audit: start_ms and end_ms: write milliseconds since 1970"))
		return
	}
	entries, err := s.controller.store.Audits(r.Context(), startMs, endMs)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if entries == nil {
		entries = []api.AuditEntry{}
	}
	s.answer(w, r, http.StatusOK, entries)
}
