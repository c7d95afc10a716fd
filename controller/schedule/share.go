package schedule

import (
	"cmp"
	"math"
	"slices"
	"time"

	"pipefill/controller/store"
)

// Shares are what users and accounts may use and have used. The formula is that
// of Slurm's classic fair-share: a user's effective usage is the user's own part
// of all usage, moved towards the account's by what the user's share in it is;
// the factor is 2^(-usage/share).
type Shares struct {
	// Accounts are the accounts' shares; one that is not in it has 1.
	Accounts map[string]float64
	Usage    []Usage
}

// Usage is what a user has used in an account, in device seconds, decayed.
type Usage struct {
	User, Account string
	Seconds       float64
}

// DefaultHalfLife is that of Slurm's PriorityDecayHalfLife.
const DefaultHalfLife = 7 * 24 * time.Hour

// Decay sums usage up, each worth half after every half-life.
func Decay(records []store.UserUsage, nowMs int64, halfLife time.Duration) []Usage {
	sums := map[[2]string]float64{}
	for _, r := range records {
		age := time.Duration(max(0, nowMs-r.AtMs)) * time.Millisecond
		sums[[2]string{r.User, r.Account}] += r.Seconds * math.Exp2(-float64(age)/float64(halfLife))
	}
	out := make([]Usage, 0, len(sums))
	for key, seconds := range sums {
		out = append(out, Usage{key[0], key[1], seconds})
	}
	slices.SortFunc(out, func(a, b Usage) int { return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Account, b.Account)) })
	return out
}

// SetShares says what was used; job.fairshare follows.
func (s *Scheduler) SetShares(shares Shares) {
	s.shares = shares.sum()
	s.sharesRun++
	for i := range s.groups {
		s.shares.of(&s.groups[i])
	}
}

// sums are shares, added up.
type sums struct {
	shares   map[string]float64
	total    float64
	accounts map[string]float64
	users    map[[2]string]float64
	members  map[string]float64 // users of an account
	all      float64            // shares of all accounts
}

func (s Shares) sum() sums {
	out := sums{shares: s.Accounts, accounts: map[string]float64{}, users: map[[2]string]float64{}, members: map[string]float64{}}
	for _, u := range s.Usage {
		key := [2]string{u.User, u.Account}
		if _, known := out.users[key]; !known {
			out.members[u.Account]++
		}
		out.users[key] += u.Seconds
		out.accounts[u.Account] += u.Seconds
		out.total += u.Seconds
	}
	for name := range s.Accounts {
		out.accounts[name] += 0
	}
	for _, name := range sorted(out.accounts) { // in order, for the same sum each time
		out.all += out.shareOf(name)
	}
	return out
}

// of fills in a group's usage and factor.
func (s *sums) of(g *group) {
	key := [2]string{g.user, g.account}
	own, known := s.users[key]
	account, seen := s.accounts[g.account]
	g.usageS, g.accountUsageS, g.fairshare = own, account, 1
	if s.total <= 0 {
		return
	}
	members, all := s.members[g.account], s.all
	if !known {
		members++
	}
	if !seen {
		all += s.shareOf(g.account)
	}
	share := s.shareOf(g.account)
	if share <= 0 {
		g.fairshare = 0 // may use nothing
		return
	}
	effective := own/s.total + (account-own)/s.total/members
	g.fairshare = math.Exp2(-effective / (share / all / members))
}

func (s *sums) shareOf(account string) float64 {
	if share, ok := s.shares[account]; ok {
		return share
	}
	return 1
}
