package main

import "github.com/coreos/go-systemd/v22/daemon"

// notify tells systemd, if it asked to be told.
func notify(state string) error {
	_, err := daemon.SdNotify(false, state)
	return err
}
