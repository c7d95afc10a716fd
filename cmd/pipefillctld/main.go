// Command pipefillctld is the controller of pipefill. It runs beside slurmctld
// as SlurmUser, whose rights its token carries; it needs no capability.
package main

import (
	"context"
	"os"
	"time"
	_ "time/tzdata" // time_zone is known on hosts without the database too

	"pipefill/controller"
)

func main() {
	os.Exit(controller.Main(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr, time.Now))
}
