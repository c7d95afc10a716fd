// Pipefilld is the node daemon. It runs as root on each compute node, with the
// capabilities its unit file lists: it moves processes between cgroups, opens
// the pages of other users' processes, and runs supervisors at real-time
// priority.
package main

import (
	"context"
	"os"

	"pipefill/executor"
	"pipefill/munge"
)

func main() {
	os.Exit(executor.Run(context.Background(), os.Args[1:], executor.Env{
		Stdout: os.Stdout, Stderr: os.Stderr, Munge: munge.New(os.Getenv("MUNGE_SOCKET")),
	}))
}
