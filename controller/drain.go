package controller

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/hostlist"
	"pipefill/controller/slurm"
	"pipefill/controller/store"
)

// drains is what gets no new fill jobs.
type drains []api.Drain

func (d drains) find(kind, name string) *api.Drain {
	for i := range d {
		if d[i].Kind == kind && (kind == "site" || d[i].Name == name) {
			return &d[i]
		}
	}
	return nil
}

// of is what keeps a fill job from every slot; nil if nothing does.
func (d drains) of(account string) *api.Drain {
	if site := d.find("site", ""); site != nil {
		return site
	}
	return d.find("account", account)
}

// why tells why a waiting job waits, where a drain is the reason; free is how
// many slots are not drained.
func (d drains) why(j store.FillJob, free int) string {
	if hold := d.of(j.Account); hold != nil {
		return drainText(*hold)
	}
	if free > 0 {
		return ""
	}
	for i := range d {
		if d[i].Kind == "node" {
			return "no slot but of drained nodes; " + drainText(d[i])
		}
	}
	return ""
}

func drainText(d api.Drain) string {
	what := d.Kind + " " + d.Name
	if d.Kind == "site" {
		what = "the site"
	}
	return fmt.Sprintf("%s is drained by %s: %s", what, d.User, d.Why)
}

// readDrains takes them from the database, where also a restart finds them; all
// jobs are looked at again where they have changed.
func (c *Controller) readDrains(ctx context.Context) error {
	all, err := c.store.Drains(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	same := slices.Equal(c.drained, all)
	c.drained = all
	c.mu.Unlock()
	if !same {
		c.dirty.add(c.store.OpenNumbers(c.cfg.Cluster)...)
	}
	return nil
}

func (c *Controller) knownDrains() drains {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drained
}

// leave marks the assignments that an operator wants off their devices.
func (d drains) leave(live []store.Assignment) map[int64]string {
	out := map[int64]string{}
	for _, a := range live {
		for _, drain := range []*api.Drain{d.find("site", ""), d.find("node", a.Node), d.find("account", a.Account)} {
			if drain != nil && drain.Evict {
				out[a.ID] = drainText(*drain)
				break
			}
		}
	}
	return out
}

func (s *Server) listDrains(w http.ResponseWriter, r *http.Request) {
	all, err := s.controller.store.Drains(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if all == nil {
		all = []api.Drain{}
	}
	s.answer(w, r, http.StatusOK, all)
}

// drain and resume are the administrator's switch.
func (s *Server) drain(w http.ResponseWriter, r *http.Request)  { s.drainOrResume(w, r, "drain") }
func (s *Server) resume(w http.ResponseWriter, r *http.Request) { s.drainOrResume(w, r, "resume") }

func (s *Server) drainOrResume(w http.ResponseWriter, r *http.Request, action string) {
	if !s.operatorOnly(w, r, action) {
		return
	}
	var request api.DrainRequest
	err := decode(r, &request)
	if err == nil {
		request.Names, err = s.controller.drainNames(r.Context(), request, action)
	}
	if err == nil && action == "drain" && strings.TrimSpace(request.Why) == "" {
		err = pipefill.Errorf(pipefill.CodeInvalid, "drain: say why: users see it as the reason why their jobs wait")
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	who := callerOf(r)
	entry := api.AuditEntry{Action: action, Target: strings.TrimSpace(request.Kind + " " + strings.Join(request.Names, ",")), Why: request.Why}
	if request.Evict {
		entry.Detail = "evict"
	}
	err = s.audited(r.Context(), who, entry, func(ctx context.Context) error { return s.controller.setDrain(ctx, who, action, request) })
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if err := s.controller.readDrains(r.Context()); err != nil {
		s.log.WarnContext(r.Context(), "drains not read, the next sweep does", "err", err)
	}
	s.controller.Kick()
	s.answer(w, r, http.StatusOK, struct{}{})
}

func (c *Controller) setDrain(ctx context.Context, who caller, action string, r api.DrainRequest) error {
	if action == "resume" {
		n, err := c.store.DropDrains(ctx, r.Kind, r.Names)
		if err == nil && n == 0 {
			err = pipefill.Errorf(pipefill.CodeConflict, "%s %s: not drained; pipefill-cli drain lists what is", r.Kind, strings.Join(r.Names, ","))
		}
		return err
	}
	var all []api.Drain
	for _, name := range r.Names {
		all = append(all, api.Drain{Kind: r.Kind, Name: name, User: who.name, Why: r.Why, SinceMs: c.now().UnixMilli(), Evict: r.Evict})
	}
	return c.store.SetDrains(ctx, all)
}

// drainNames checks what is to be drained: a misspelt node would be none.
func (c *Controller) drainNames(ctx context.Context, r api.DrainRequest, action string) ([]string, error) {
	switch {
	case !slices.Contains(api.DrainKinds, r.Kind):
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s: %q: write one of %s", action, r.Kind, strings.Join(api.DrainKinds, ", "))
	case r.Kind == "site" && len(r.Names) > 0:
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s site: takes no names", action)
	case r.Kind == "site":
		return []string{c.cfg.Cluster}, nil
	case len(r.Names) == 0:
		return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s %s: name at least one", action, r.Kind)
	case r.Kind == "account":
		for _, name := range r.Names {
			if name == "" || len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == ',' || r == 0x7f }) {
				return nil, pipefill.Errorf(pipefill.CodeInvalid, "%s account %q: write an account's name", action, name)
			}
		}
		return r.Names, nil
	}
	var names []string
	for _, list := range r.Names {
		expanded, err := hostlist.Expand(list)
		if err != nil {
			return nil, err
		}
		names = append(names, expanded...)
	}
	if action == "resume" {
		return names, nil
	}
	known, err := c.slurm.Nodes(ctx)
	if err != nil {
		c.log.WarnContext(ctx, "slurm does not list its nodes", "err", err)
	}
	for _, name := range names {
		if c.heardOf(name).Assignments == nil && !slices.ContainsFunc(known, func(n slurm.Node) bool { return n.Name == name }) {
			return nil, pipefill.Errorf(pipefill.CodeNotFound, "%s node %s: neither Slurm nor pipefill knows it", action, name)
		}
	}
	return names, nil
}
