package step

import (
	"context"
	"fmt"
)

// EVB waits until the switch has agreed to EVB on the port, so that libvirt's own
// association, which follows, does not come too early. There is nothing to undo.
type EVB struct {
	momentary
	Port string `json:"port"`
}

func (*EVB) Type() string { return "evb" }

func (w *EVB) AssociatedAt() string { return w.Port }

func (w *EVB) Key() string { return "evb " + w.Port }

func (w *EVB) Does() string {
	return fmt.Sprintf("wait until the switch at %s has agreed to EVB", w.Port)
}

func (w *EVB) Holds() string { return w.Does() }

// Do waits for the switch. At reconnect libvirt's own association is long over.
func (w *EVB) Do(ctx context.Context, e *Env) error {
	if e.Op == Reconnect {
		return nil
	}
	_, err := e.awaitEVB(ctx, w.Port)
	return err
}
