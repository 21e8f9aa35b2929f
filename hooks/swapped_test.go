package hooks

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
)

// swapping swaps the names of two cards, as udev does while a host boots, after some look-ups.
type swapping struct {
	*hooktest.Kernel
	swap [2]int // their indices
	left int
}

func (r *swapping) ByName(ctx context.Context, name string) (link.Link, error) {
	l, err := r.Kernel.ByName(ctx, name)
	if r.left--; r.left == 0 {
		a, b := r.Links[r.swap[0]], r.Links[r.swap[1]]
		a.Name, b.Name = b.Name, a.Name
	}
	return l, err
}

// A card that gets another one's name while a guest starts is not taken for it.
func TestCardsThatAreRenamedMeanwhile(t *testing.T) {
	const config = "[uplink.lan]\ndevice = \"nica\"\n"
	for name, doc := range map[string]string{
		"hook-owned":      domain(uuidA, vfWords(mac1, "own='hook' uplink='lan' mode='bridge'"), owned(mac1, "ldt1")),
		"hook-owned VLAN": domain(uuidA, vfWords(mac1, "own='hook' uplink='lan' mode='bridge' vlan='100'"), owned(mac1, "ldt1")),
		"by its uplink":   domain(uuidA, vfWords(mac1, "allmulticast='yes'"), direct(mac1, "lan", "bridge")),
	} {
		refused := 0
		for after := 1; after < 12; after++ {
			t.Run(fmt.Sprintf("%s, after %d", name, after), func(t *testing.T) {
				w := newWorld(t, config, "nica", "nicb")
				card, err := w.kernel.ByName(t.Context(), "nica")
				require.NoError(t, err)
				other, err := w.kernel.ByName(t.Context(), "nicb")
				require.NoError(t, err)
				k := &swapping{w.kernel, [2]int{card.Index, other.Index}, after}
				w.hook.Kernel = func() (step.Kernel, func(), error) { return k, func() {}, nil }
				if _, err := w.run(step.Prepare, doc); err != nil {
					refused++
					require.Empty(t, w.kernel.Links[card.Index].AltNames)
				}
				require.Empty(t, w.kernel.Links[other.Index].AltNames, "it was another when this was decided")
				for _, l := range w.kernel.Links {
					require.NotEqual(t, other.Index, l.Parent, "%s is on the wrong card", l.Name)
				}
			})
		}
		require.NotZero(t, refused, "%s: the swap came never in between", name)
	}
}
