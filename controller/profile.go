package controller

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// profiles are fill profiles as they were asked for; nil: not kept, or no longer
// read by this release.
type profiles struct {
	mu    sync.Mutex
	known map[string]*plan.Profile
}

// profilesKnown bounds the memory that decoded profiles take.
const profilesKnown = 1000

// maxProfile bounds an upload: 2,000 ops x 25 configurations.
const maxProfile = 4 << 20

// KeepProfile checks and keeps a fill profile that a user has sent.
func (c *Controller) KeepProfile(ctx context.Context, text []byte, uid uint32) (api.Profile, error) {
	if len(text) > maxProfile {
		return api.Profile{}, pipefill.Errorf(pipefill.CodeInvalid, "the fill profile has %d bytes: %d at most; profile fewer configurations", len(text), maxProfile)
	}
	p, err := plan.DecodeProfile(bytes.NewReader(text), "fill profile")
	if err != nil {
		return api.Profile{}, err
	}
	sum := sha256.Sum256(text)
	digest := hex.EncodeToString(sum[:])
	if err := c.store.PutProfile(ctx, digest, p.Name, string(text), uid, c.now().UnixMilli()); err != nil {
		return api.Profile{}, err
	}
	c.profiles.put(digest, &p)
	return api.Profile{Digest: digest, Name: p.Name}, nil
}

func (p *profiles) put(digest string, profile *plan.Profile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known) >= profilesKnown {
		p.known = map[string]*plan.Profile{}
	}
	p.known[digest] = profile
}

func (p *profiles) get(digest string) (profile *plan.Profile, asked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	profile, asked = p.known[digest]
	return profile, asked
}

// profileOf is the fill profile of a digest; nil where there is none.
func (c *Controller) profileOf(ctx context.Context, digest string) *plan.Profile {
	if profile, asked := c.profiles.get(digest); asked {
		return profile
	}
	text, err := c.store.Profile(ctx, digest)
	if err != nil && pipefill.ErrorCode(err) != pipefill.CodeNotFound {
		c.log.WarnContext(ctx, "a fill profile cannot be read: the job is scheduled without", "profile", digest, "err", err)
		return nil
	}
	var found *plan.Profile
	if p, decodeErr := plan.DecodeProfile(strings.NewReader(text), "fill profile"); err == nil && decodeErr == nil {
		found = &p
	}
	c.profiles.put(digest, found)
	return found
}

// profileDigest is profile= of a job's options, "" where it is none. A path, which
// is what sbatch by itself is given, is none: the controller opens no file of a
// user's.
func profileDigest(options string) string {
	if digest := option(options, "profile"); len(digest) == hex.EncodedLen(sha256.Size) {
		return digest
	}
	return ""
}

// withProfile names a job's fill profile, if it is kept.
func (c *Controller) withProfile(ctx context.Context, job *store.FillJob, options string) {
	if digest := profileDigest(options); digest != "" && c.profileOf(ctx, digest) != nil {
		job.Profile = digest
	}
}

// speed is how much of a profile's work a slot does: the useful device time of
// its plan over the time that passes. 0 where no configuration fits a bubble; 1
// where the cycle is not learned yet, or the profile is gone: as without.
func (c *Controller) speed(digest string, s schedule.Slot) float64 {
	profile := c.profileOf(context.Background(), digest)
	cycle, known := c.cycleOf(s)
	if profile == nil || !known || len(cycle.Bubbles) == 0 {
		return 1
	}
	made, err := plan.Single(*profile, cycle)
	if err != nil {
		if pipefill.ErrorCode(err) == pipefill.CodeConflict {
			return 0
		}
		return 1
	}
	return plan.UsefulNs(made, []plan.Profile{*profile}) / float64(cycle.IterationNs)
}

// cycleOf is the bubble cycle that a slot's node has last told.
func (c *Controller) cycleOf(s schedule.Slot) (pipefill.BubbleCycle, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[s.Node]
	if n == nil {
		return pipefill.BubbleCycle{}, false
	}
	i := slices.IndexFunc(n.said.Mains, func(m api.MainDevice) bool { return m.Device == s.Device && m.Job == s.Main })
	if i < 0 {
		return pipefill.BubbleCycle{}, false
	}
	var total int64
	for _, d := range n.said.Devices {
		if d.Device == s.Device {
			total = d.TotalBytes
		}
	}
	return plan.WithDevice(n.said.Mains[i].Cycle, total), true
}

func (s *Server) keepProfile(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err == nil {
		var kept api.Profile
		if kept, err = s.controller.KeepProfile(r.Context(), text, callerOf(r).uid); err == nil {
			s.answer(w, r, http.StatusOK, kept)
			return
		}
	}
	s.fail(w, r, err)
}
