package plan

import "pipefill"

// Options are what Make may use besides.
type Options struct{}

// Make returns the best plan of all forms for the jobs ps on a device with the
// bubble cycle c.
func Make(c pipefill.BubbleCycle, ps []Profile, _ Options) (Plan, error) {
	if len(ps) == 0 {
		return Plan{}, pipefill.Errorf(pipefill.CodeInvalid, "plan: there is no profile")
	}
	return Single(ps[0], c)
}
