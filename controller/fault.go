//go:build !faultpoint

package controller

import "pipefill/controller/store"

// watchWrites is for tests that kill the daemon around a write.
func watchWrites(*store.Store) {}
