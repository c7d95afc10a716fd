// Package pipefill holds the nouns that every part of pipefill shares: devices,
// bubbles, slots, fill jobs, assignments, usage, and the one error type.
//
// It does no I/O and imports nothing of ours; every other package imports it.
package pipefill

import (
	_ "embed"
	"strings"
)

//go:embed VERSION
var version string

// Version is the release of this tree, from the file VERSION.
func Version() string { return strings.TrimSpace(version) }
