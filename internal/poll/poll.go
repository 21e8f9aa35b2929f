// Package poll waits for what tells nobody that it has happened, by asking again and
// again. What has an event to wait for is none of its business.
package poll

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrGaveUp is matched by the error of a wait that its context has ended. The caller,
// who knows what was waited for, is to say so.
var ErrGaveUp = errors.New("gave up waiting")

// Until calls f until it is done or returns an error, which is returned as it is: at once,
// even if ctx has ended, and then each time so long after the end of the call before. When
// ctx ends in between, the error matches [ErrGaveUp] and ctx's cause.
func Until(ctx context.Context, every time.Duration, f func() (done bool, err error)) error {
	return Backoff(ctx, every, every, f)
}

// Backoff is like [Until] with pauses that double from first up to most: soon enough for
// what is there in a moment, and cheap for what takes long.
func Backoff(ctx context.Context, first, most time.Duration, f func() (done bool, err error)) error {
	for pause := first; ; pause = min(2*pause, most) {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrGaveUp, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
