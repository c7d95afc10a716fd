// Package sql holds the numbered migrations of the controller's database and
// what the tables mean (README.md). It opens nothing.
package sql

import "embed"

// Migrations are goose's, forward only.
//
//go:embed *.sql
var Migrations embed.FS
