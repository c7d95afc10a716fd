// Package faultpoint ends a daemon at a named moment, as kill -9 would: what the
// tests build with the tag faultpoint calls it around every durable write.
package faultpoint

import (
	"os"

	"golang.org/x/sys/unix"
)

// Variable of the environment names the moment: "before running", "after
// reserve".
const Variable = "PIPEFILL_FAULT"

// At kills this process if the moment is the one named.
func At(moment string) {
	if moment != os.Getenv(Variable) {
		return
	}
	_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {} // nothing of this process happens after it
}

// Around calls write between the moments before and after it.
func Around(what string, write func() error) error {
	At("before " + what)
	err := write()
	At("after " + what)
	return err
}
