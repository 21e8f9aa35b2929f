package link

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Obstacle is a reason not to make a macvtap on a device.
type Obstacle struct {
	// Use is what stands in the way.
	Use
	// Errno is how the kernel refuses a macvtap for it, EBUSY or EINVAL. 0: the kernel
	// would make the macvtap, in mode passthrough, and take the device from this user.
	Errno unix.Errno
	// Instead is the device to use in place of this one; "" where there is none to name.
	Instead string
	// Advice tells a person what to do: "use bond0". "" where there is no more to say.
	Advice string
}

func (o Obstacle) String() string {
	if o.Advice == "" {
		return o.Evidence
	}
	return o.Evidence + ": " + o.Advice
}

// Kinds of devices that take a lower device's frames for themselves (they call
// netdev_rx_handler_register), of which the kernel allows one. macvlans and macvtaps
// share one, which is why further ones can be made.
func takesFrames(kind string) bool {
	return slices.Contains([]string{"ipvlan", "ipvtap", "macsec", "rmnet", "hsr"}, kind)
}

// refusesHandlers reports whether a kind lets nobody take its frames (IFF_NO_RX_HANDLER).
func refusesHandlers(kind string) bool {
	return slices.Contains([]string{"vrf", "ipvlan", "ipvtap"}, kind)
}

// Masters that do not take their ports' frames in that way.
func leavesFrames(master string) bool { return slices.Contains([]string{"vrf", "batadv"}, master) }

// Lower lists what is in the way of a macvtap of that mode ("vepa", "bridge", "private"
// or "passthrough") on a device: first what makes the kernel refuse it, and in mode
// passthrough, which takes the whole device, then each of its uses. Nothing: it can be
// made.
//
// elsewhere is as for Uses; with nil a macvtap is refused for what stands on the device
// in another namespace without a word of it here. In modes other than passthrough it
// looks at the upper devices up to the first macvlan.
func (c *Conn) Lower(ctx context.Context, name, mode string, elsewhere *Elsewhere) ([]Obstacle, error) {
	d, err := c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	fail := func(err error) ([]Obstacle, error) {
		return nil, &OpError{Op: "look whether a macvtap can be made on", Link: name, Err: mapErrno(err)}
	}
	if _, ok := modeValue(mode); !ok {
		return fail(fmt.Errorf("unknown mode %q", mode))
	}
	var found []Obstacle
	first, err := c.refusal(ctx, d, mode, elsewhere)
	if err != nil {
		return fail(err)
	}
	if first != nil {
		found = append(found, *first)
	}
	if mode != "passthrough" {
		return found, nil
	}
	for u := range c.Uses(ctx, d.Name, elsewhere) {
		if first == nil || u.Evidence != first.Evidence {
			found = append(found, Obstacle{Use: u})
		}
	}
	return found, nil
}

// refusal foretells what macvlan_common_newlink of drivers/net/macvlan.c answers; nil
// where it makes the device.
func (c *Conn) refusal(ctx context.Context, d device, mode string, elsewhere *Elsewhere) (*Obstacle, error) {
	whole := mode == "passthrough"
	if macvlan(d.Kind) { // the kernel goes on with its lower device, on which d stands
		switch {
		case d.Mode == "passthrough":
			return unfit("it is a " + d.Kind + " in mode passthrough, which has its own lower device alone"), nil
		case whole:
			return unfit("it is a " + d.Kind + ", and a macvtap in mode passthrough needs the device below that alone"), nil
		}
		return nil, nil
	}
	if d.hardware != unix.ARPHRD_ETHER || refusesHandlers(d.Kind) {
		return unfit("it is no device that a macvtap can stand on"), nil
	}
	uses, err := c.masterUse(ctx, d)
	if err != nil {
		return nil, err
	}
	if len(uses) > 0 && !leavesFrames(d.port) {
		return portObstacle(d, uses[0]), nil
	}
	uppers, err := sys.upperUses(d.Name)
	if err != nil {
		return nil, err
	}
	for _, u := range uppers {
		upper, err := c.device(ctx, u.Device)
		if errors.Is(err, ErrNotFound) {
			continue // gone in this moment
		}
		if err != nil {
			return nil, err
		}
		if o := upperObstacle(u, upper.Kind, upper.Mode, whole); o != nil {
			return o, nil
		}
		if macvlan(upper.Kind) { // so that nothing else takes the frames, here or elsewhere
			return nil, nil
		}
	}
	if elsewhere == nil {
		return nil, nil
	}
	for _, u := range elsewhere.Uppers[d.Index] {
		if o := upperObstacle(u.use(), u.Kind, u.Mode, whole); o != nil {
			return o, nil
		}
	}
	return nil, nil
}

func macvlan(kind string) bool { return kind == "macvlan" || kind == "macvtap" }

func unfit(evidence string) *Obstacle {
	return &Obstacle{Use: Use{Kind: UseUnfit, Evidence: evidence}, Errno: unix.EINVAL}
}

// upperObstacle is what a device that stands on another is to one more macvtap there.
func upperObstacle(u Use, kind, mode string, whole bool) *Obstacle {
	switch {
	case takesFrames(kind):
		return &Obstacle{Use: u, Errno: unix.EBUSY, Advice: kind + " and macvtap exclude each other; use another device"}
	case macvlan(kind) && mode == "passthrough":
		return &Obstacle{Use: u, Errno: unix.EINVAL, Advice: "it has the device alone, by mode passthrough; use another device"}
	case macvlan(kind) && whole:
		return &Obstacle{Use: u, Errno: unix.EINVAL, Advice: "a macvtap in mode passthrough needs the device alone"}
	}
	return nil
}

// portObstacle says what a guest uses in place of a port.
func portObstacle(d device, u Use) *Obstacle {
	o := &Obstacle{Use: u, Errno: unix.EBUSY}
	switch d.port {
	case "bridge":
		o.Instead = u.Device
		o.Advice = fmt.Sprintf("use the bridge: <interface type='bridge'> with <source bridge='%s'/>", u.Device)
	case "openvswitch":
		o.Advice = "use the bridge: <interface type='bridge'> with <virtualport type='openvswitch'/>"
	default:
		o.Instead = u.Device
		o.Advice = "use " + u.Device
	}
	return o
}
