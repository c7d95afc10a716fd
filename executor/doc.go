// Package executor is pipefilld, the daemon of one compute node: it owns the
// shared pages, the gates, the fill jobs' cgroups and supervisors, the overhead
// governor and the usage ledger.
//
// It must never make a main job wait, never trust what a user's process wrote
// (a page, a datagram, a process name), and never let a fill job run that is
// not on disk as running. It knows the controller only through package api and
// Slurm only through the plugin's datagrams and the names of its cgroups.
package executor
