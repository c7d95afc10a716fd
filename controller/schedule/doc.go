// Package schedule decides which fill job gets which free slot. It is pure: jobs,
// slots and the time in, pairs out; the controller and the simulator use it alike.
//
// A [Policy] is score(job, slot) written in the policy language (docs/policies.md):
// expressions over [JobAttributes] and [SlotAttributes], checked by [Load],
// [LoadFile] or [Compile] with file, line and column. A score that is no finite
// number is refused when the policy is loaded if common values lead to it, and
// counts as the lowest, with a [Scheduler.Fault], where a rare one does.
//
// A [Scheduler] holds the waiting jobs:
//
//	policies, err := schedule.Load("/etc/pipefill/policies") // "" for the shipped alone
//	s := schedule.New(policies["sjf"], schedule.Options{MaxWait: schedule.DefaultMaxWait})
//	s.Put(jobs...)                   // new and changed ones; or s.Sync(all)
//	pairs := s.Assign(nowMs, free)   // jobs of pairs wait no more, their slots are busy
//	s.Vacate(node, device)           // a job ended; or s.SetBusy(all)
//
// Assign takes, again and again, the pair with the highest key: the tier (an
// operator's priority; then jobs that had to leave a device; then those that have
// waited for [Options.MaxWait], in the order of their coming), the policy's
// numbers, who was first; where a job has the same on several slots, that which is
// open the most. A pair needs a slot that suits ([Obstacle]), room under
// the limits, and no veto. A user's own priorities permute the places of that
// user's jobs: the job that is preferred and the one that was to be served trade
// theirs.
//
// Starvation is bounded: once a job has waited for MaxWait, only an operator's
// jobs, evicted ones and those that came before it are served before it. With A
// such jobs, m slots that suit it, and no job of them holding a slot for longer
// than T, it starts within MaxWait + (A/m + 1) T, if its user is under the limits.
//
// How it is fast: a policy is compiled to operations over blocks of jobs; slots
// that agree in what the policy looks at are one class, whose scores are computed
// once, and kept for as long as the order of the jobs stands (a policy whose
// scores all move alike with time, as waiting time does, keeps it). Each class has
// a heap a user and one over the users, so that those at their limit cost nothing.
package schedule
