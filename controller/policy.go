package controller

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipefill"
	"pipefill/controller/schedule"
	"pipefill/controller/store"
)

// newScheduler returns the scheduler of a configuration. What became of the
// site's policies since it was checked keeps nobody from starting.
func (c *Controller) newScheduler() *schedule.Scheduler {
	policies, err := c.cfg.policies, error(nil)
	if policies == nil {
		policies, err = schedule.Load(c.cfg.PolicyDir)
	}
	policy := policies[c.cfg.Policy]
	if err == nil && policy == nil {
		err = pipefill.Errorf(pipefill.CodeInvalid, "there is no policy %s", c.cfg.Policy)
	}
	if err != nil {
		c.fault("policy_dir", fmt.Errorf("the policy is fifo: %w", err))
		policies = schedule.Builtin()
		policy = policies[schedule.FIFO]
	}
	c.policies, c.policy = policies, policy
	limits, err := readLimits(c.cfg.Limits)
	c.fault("limits", err) // checked when it was loaded
	return schedule.New(policy, schedule.Options{Limits: limits, MaxWait: time.Duration(c.cfg.MaxWaitH) * time.Hour, Speed: c.speed, Veto: c.vetoed})
}

// ReloadPolicies reads the site's policies again. A mistake in them leaves all
// as it is, and stands among doctor's faults until it is mended.
func (c *Controller) ReloadPolicies(ctx context.Context) {
	policies, err := schedule.Load(c.cfg.PolicyDir)
	if err == nil && policies[c.cfg.Policy] == nil {
		err = pipefill.Errorf(pipefill.CodeInvalid, "policy: %s is gone from %s", c.cfg.Policy, c.cfg.PolicyDir)
	}
	if err != nil {
		err = fmt.Errorf("the policies stay as they were: %w", err)
		c.log.ErrorContext(ctx, "policies are not reloaded", "err", err)
		c.fault("policy_dir", err)
		return
	}
	c.fault("policy_dir", nil)
	c.mu.Lock()
	c.policies, c.policy = policies, policies[c.cfg.Policy]
	c.mu.Unlock()
	c.log.InfoContext(ctx, "policies reloaded", "policy", c.cfg.Policy, "policies", strings.Join(policies.Names(), " "))
	c.Kick()
}

// onHangup reloads the policies on SIGHUP, until ctx ends.
func (c *Controller) onHangup(ctx context.Context, hangup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			c.ReloadPolicies(ctx)
		}
	}
}

// vetoed keeps a job off the nodes that it just failed on.
func (c *Controller) vetoed(j *store.FillJob, s *schedule.Slot) bool {
	_, avoid := c.dispatcher.avoid[avoided{j.JobID, s.Node}]
	return avoid
}

// faultText is fault for what is no error.
func (c *Controller) faultText(source, text string) {
	if text == "" {
		c.fault(source, nil)
		return
	}
	c.fault(source, pipefill.Errorf(pipefill.CodeInvalid, "%s", text))
}

// describe fills in what a slot's bubble cycle says.
func describe(s *schedule.Slot, cycle pipefill.BubbleCycle) {
	open, longest := int64(0), int64(0)
	name := cycleName(14695981039346656037)
	for _, b := range cycle.Bubbles {
		open += b.DurationNs
		longest = max(longest, b.DurationNs)
		// Two digits, as of the share: stages that are alike have the same name.
		name.add(b.DurationNs, b.FreeBytes)
	}
	if cycle.IterationNs <= 0 || open == 0 {
		return
	}
	name.add(cycle.IterationNs, cycle.AlwaysFreeBytes)
	s.Share = min(1, schedule.RoundShare(float64(open)/float64(cycle.IterationNs)))
	s.IterationS, s.LongestS, s.Bubbles = float64(cycle.IterationNs)/1e9, float64(longest)/1e9, len(cycle.Bubbles)
	s.Cycle = strconv.FormatUint(uint64(name), 36)
}

// cycleName is a hash of numbers' first two digits (FNV-1a, word by word): a report
// of a node has hundreds.
type cycleName uint64

func (n *cycleName) add(numbers ...int64) {
	for _, x := range numbers {
		*n = (*n ^ cycleName(twoDigits(x))) * 1099511628211 //nolint:gosec // bits
		*n ^= *n >> 32
	}
}

// twoDigits rounds to the first two digits.
func twoDigits(x int64) int64 {
	unit := int64(1)
	for x/unit >= 100 || x/unit <= -100 {
		unit *= 10
	}
	return (x + unit/2) / unit * unit
}

// readShares reads shares: ACCOUNT=N.
func readShares(lines []string) (map[string]float64, error) {
	shares := map[string]float64{}
	for _, line := range lines {
		name, count, ok := strings.Cut(line, "=")
		n, err := strconv.ParseFloat(count, 64)
		if !ok || name == "" || err != nil || !(n >= 0 && n <= 1e9) {
			return shares, pipefill.Errorf(pipefill.CodeInvalid, "%q: write ACCOUNT=SHARES, as physics=4", line)
		}
		shares[name] = n
	}
	return shares, nil
}

// readLimits reads limits: user:NAME=N and account:NAME=N; the name * is each.
func readLimits(lines []string) (schedule.Limits, error) {
	limits := schedule.Limits{Users: map[string]int{}, Accounts: map[string]int{}}
	for _, line := range lines {
		who, count, ok := strings.Cut(line, "=")
		kind, name, named := strings.Cut(who, ":")
		n, err := strconv.Atoi(count)
		if !ok || !named || name == "" || err != nil || n < 0 || !slices.Contains([]string{"user", "account"}, kind) {
			return limits, pipefill.Errorf(pipefill.CodeInvalid, "%q: write user:NAME=SLOTS or account:NAME=SLOTS, * for each, 0 for no limit", line)
		}
		switch {
		case kind == "user" && name == "*":
			limits.PerUser = n
		case kind == "user":
			limits.Users[name] = n
		case name == "*":
			limits.PerAccount = n
		default:
			limits.Accounts[name] = n
		}
	}
	return limits, nil
}
