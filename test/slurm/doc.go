// Package slurmtest holds pipefill against real Slurm: each test file brings up
// one private cluster (test/cluster) as root and ends it. Its tests carry the
// build tag slurm; test/run-slurm runs them.
package slurmtest
