//go:build !faultpoint

package executor

// newDisk is the storage of a daemon.
func newDisk() storage { return disk{} }
