package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// RunTests is what is left of a TestMain outside the machine: boot is to run this very program
// again in one, and to return its exit status. name begins what is said on standard error.
func RunTests(name string, boot func(context.Context) (status int, err error)) {
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		fmt.Println("skipped: only root can read all of the host's files for the test machine")
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer stop()
	status, err := boot(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		if failed, ok := errors.AsType[*Error](err); ok {
			fmt.Fprintln(os.Stderr, failed.Console)
		}
		status = 125
	}
	os.Exit(status)
}
