package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Obstacle is a reason not to make a macvtap on a device.
type Obstacle struct {
	// Use is what stands in the way.
	Use
	// Errno is how the kernel refuses a macvtap for it, EBUSY or EINVAL. 0: the kernel
	// would make the macvtap, and in mode passthrough take the device from this user; in
	// the other modes the guest would not get all of its frames.
	Errno unix.Errno
	// Instead is the device to use in place of this one; "" where there is none to name.
	Instead string
	// Advice tells a person what to do: "use bond0". "" where there is no more to say.
	Advice string

	// bundle is the bond or team whose port the device is, on which a VLAN belongs as well.
	bundle string
}

// ForVLAN is what an obstacle to a macvtap on a device is to a VLAN of that device, which the
// kernel makes and gives its frames even below a bond. There, and there alone, it stands on
// the wrong device: it uses one port of several, and goes down with it.
func (o Obstacle) ForVLAN() (_ Obstacle, is bool) {
	if o.bundle == "" {
		return Obstacle{}, false
	}
	o.Errno = 0
	o.Advice = "a VLAN of it has no other way when this port fails: use a VLAN of " + o.bundle
	o.Instead = o.bundle
	return o, true
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
	return slices.Contains([]string{"ipvlan", "ipvtap", "macsec", "rmnet", "hsr", "virt_wifi"}, kind)
}

// refusesHandlers reports whether a kind lets nobody take its frames (IFF_NO_RX_HANDLER).
func refusesHandlers(kind string) bool {
	return slices.Contains([]string{"vrf", "ipvlan", "ipvtap"}, kind)
}

// carriesGuests reports whether a macvtap can stand on a device of a kind that takes a lower
// device's frames: guests then go the way that is protected by it.
func carriesGuests(kind string) bool { return kind == "macsec" || kind == "hsr" }

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
		silent, err := c.silent(ctx, d)
		if err != nil {
			return fail(err)
		}
		if first == nil && silent != nil {
			found = append(found, *silent)
		}
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
		return c.portObstacle(ctx, d, uses[0])
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

// silent says why a macvtap in a shared mode, which the kernel makes on a device, would not
// do; nil where it does.
func (c *Conn) silent(ctx context.Context, d device) (*Obstacle, error) {
	if sys.wireless(d.Name) {
		return &Obstacle{
			Use:    Use{Kind: UseUnfit, Evidence: "it is a wireless device, whose access point takes frames from its own address alone"},
			Advice: "use a wired one, or a network that routes",
		}, nil
	}
	if d.Kind != "vlan" || d.Parent == 0 || d.ParentElsewhere {
		return nil, nil
	}
	parent, err := c.ByIndex(ctx, d.Parent)
	if notFound(err) {
		return nil, nil // it has gone, and the VLAN with it
	}
	if err != nil {
		return nil, err
	}
	below, err := c.device(ctx, parent.Name)
	if err != nil || below.Master == 0 || !bundles(below.port) {
		return nil, err
	}
	master, err := c.ByIndex(ctx, below.Master)
	if err != nil {
		return nil, err
	}
	return &Obstacle{
		Use:     Use{Kind: UseUnfit, Evidence: fmt.Sprintf("it is VLAN %d of %s, a port of %s %s", d.VLANID, parent.Name, below.port, master.Name)},
		Instead: master.Name,
		Advice:  fmt.Sprintf("it has no other way when this port fails: use VLAN %d of %s", d.VLANID, master.Name),
	}, nil
}

// bundles reports whether a kind of master makes one device of several ports.
func bundles(port string) bool { return port == "bond" || port == "team" }

// upperObstacle is what a device that stands on another is to one more macvtap there.
func upperObstacle(u Use, kind, mode string, whole bool) *Obstacle {
	switch {
	case carriesGuests(kind) && u.Device != "":
		return &Obstacle{Use: u, Errno: unix.EBUSY, Instead: u.Device, Advice: "use " + u.Device}
	case takesFrames(kind):
		return &Obstacle{Use: u, Errno: unix.EBUSY, Advice: kind + " and macvtap exclude each other; use another device"}
	case macvlan(kind) && mode == "passthrough":
		return &Obstacle{Use: u, Errno: unix.EINVAL, Advice: "it has the device alone, by mode passthrough; use another device"}
	case macvlan(kind) && whole:
		return &Obstacle{Use: u, Errno: unix.EINVAL, Advice: "a macvtap in mode passthrough needs the device alone"}
	}
	return nil
}

// maxNesting is more than the kernel stacks devices (MAX_NEST_DEV of
// include/linux/netdevice.h).
const maxNesting = 8

// portObstacle says what a guest uses in place of a port: a bond of two cards can itself be a
// bridge's port, and only the last of them can carry a macvtap.
func (c *Conn) portObstacle(ctx context.Context, d device, u Use) (*Obstacle, error) {
	o := &Obstacle{Use: u, Errno: unix.EBUSY}
	if bundles(d.port) {
		o.bundle = u.Device
	}
	top, name, chain := d.port, u.Device, []string{u.Device}
	for range maxNesting {
		if top == "openvswitch" {
			break
		}
		above, err := c.device(ctx, name)
		if errors.Is(err, ErrNotFound) {
			break // gone in this moment
		}
		if err != nil {
			return nil, err
		}
		uses, err := c.masterUse(ctx, above)
		if err != nil {
			return nil, err
		}
		if len(uses) == 0 || leavesFrames(above.port) {
			break
		}
		chain = append(chain, uses[0].Device)
		top, name = above.port, uses[0].Device
	}
	through := ""
	if len(chain) > 1 {
		through = ", which has " + strings.Join(chain[:len(chain)-1], ", ") + " as a port"
	}
	switch top {
	case "bridge":
		o.Instead = name
		o.Advice = fmt.Sprintf("use the bridge%s: <interface type='bridge'> with <source bridge='%s'/>", through, name)
	case "openvswitch":
		o.Advice = "use the bridge" + through + ": <interface type='bridge'> with <virtualport type='openvswitch'/>"
	default:
		o.Instead = name
		o.Advice = "use " + name + through
	}
	return o, nil
}
