// Command pipefill-cli manages fill jobs. It runs as any user.
package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"pipefill/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	status := cli.Run(ctx, os.Args, cli.Env{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now})
	stop()
	os.Exit(status)
}
