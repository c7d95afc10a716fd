//go:build faultpoint

package controller

import (
	"pipefill/controller/store"
	"pipefill/test/faultpoint"
)

// watchWrites lets the daemon be killed before or after any transaction
// (test/slurm/crash_test.go).
func watchWrites(st *store.Store) {
	st.OnWrite = func(doing string, committed bool) error {
		if committed {
			faultpoint.At("after " + doing)
		} else {
			faultpoint.At("before " + doing)
		}
		return nil
	}
}
