package uplink

import (
	"errors"

	"golang.org/x/sys/unix"
)

func isNetDown(err error) bool { return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENOBUFS) }
