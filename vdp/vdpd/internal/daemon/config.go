// Package daemon is vdpd: 802.1Qbg stations on a host's uplinks, driven by
// libvirt's rtnetlink messages in lldpad's place.
package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/tomltext"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// Default paths. libvirt has lldpad's pid file compiled in.
const (
	DefaultConfigFile = "/etc/libvirt-direct/vdpd.toml"
	DefaultStateFile  = "/run/vdpd/state.json"
	DefaultPidFile    = "/run/lldpad.pid"
)

// A Config is the contents of vdpd.toml.
type Config struct {
	StateFile string `toml:"state_file"`
	PidFile   string `toml:"pid_file"`
	// Deassociate, at a graceful stop, takes all VSIs back. Otherwise they
	// stay as they are, to be taken over by the next vdpd.
	Deassociate bool     `toml:"deassociate_on_stop"`
	Uplinks     []Uplink `toml:"uplink"`
	// ControlSocket is for package control's clients: root, and the members
	// of ControlGroup unless that is empty.
	ControlSocket string `toml:"control_socket"`
	ControlGroup  string `toml:"control_group"`
}

// An Uplink is an interface that a station runs on.
type Uplink struct {
	Name    string `toml:"name"`
	Edition string `toml:"edition"` // auto, draft or 2012; empty is auto
	// ReflectiveRelay asks the switch to reflect; unset is true.
	ReflectiveRelay *bool `toml:"reflective_relay"`
	// Exponents and retries of the EVB TLV; all unset: 3, 8, 20, 20.
	Retries uint8 `toml:"ecp_retries"`
	RTE     uint8 `toml:"ecp_rte"`
	RWD     uint8 `toml:"vdp_rwd"`
	RKA     uint8 `toml:"vdp_rka"`
	MaxVSIs int   `toml:"max_vsis"`
	// GroupIDs offers the switch to use group ids.
	GroupIDs bool `toml:"group_ids"`
	// Neighbor says who may be the switch, each as vdp.ParsePin reads it.
	Neighbor []string `toml:"neighbor"`
}

// ErrConfig: a configuration that cannot be used.
var ErrConfig = errors.New("bad configuration")

// ReadConfig reads a configuration file. Unknown keys are errors. A file that
// does not exist gives the defaults, without uplinks.
func ReadConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{}, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads a configuration and fills in the defaults.
func ParseConfig(b []byte) (Config, error) {
	c := Config{StateFile: DefaultStateFile, PidFile: DefaultPidFile, ControlSocket: control.DefaultPath}
	b, err := tomltext.Plain(b)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			row, _ := strict.Errors[0].Position()
			return c, fmt.Errorf("%w: line %d: unknown key %q", ErrConfig, row, strings.Join(strict.Errors[0].Key(), "."))
		}
		row, msg := tomltext.Fault(err, nil)
		return c, fmt.Errorf("%w: line %d: %s", ErrConfig, row, msg)
	}
	return c, c.check()
}

func (c *Config) check() error {
	seen := make(map[string]bool)
	for _, u := range c.Uplinks {
		if !link.ValidName(u.Name) {
			return fmt.Errorf("%w: uplink name %q: want a network device's name, no altname", ErrConfig, u.Name)
		}
		if seen[u.Name] {
			return fmt.Errorf("%w: uplink %s twice", ErrConfig, u.Name)
		}
		seen[u.Name] = true
		if _, err := u.station(vdp.MAC{2}); err != nil {
			return fmt.Errorf("%w: uplink %s: %w", ErrConfig, u.Name, err)
		}
	}
	return nil
}

// station returns the configuration of the uplink's station.
func (u *Uplink) station(mac vdp.MAC) (vdp.Config, error) {
	c := vdp.Config{
		MAC: mac,
		EVB: vdp.EVBConfig{
			ReflectiveRelay: u.ReflectiveRelay == nil || *u.ReflectiveRelay,
			GroupIDs:        u.GroupIDs,
			Retries:         u.Retries, RTE: u.RTE, RWD: u.RWD, RKA: u.RKA,
		},
		MaxVSIs: u.MaxVSIs,
	}
	if u.Edition != "" {
		var err error
		if c.Edition, err = vdp.ParseEdition(u.Edition); err != nil {
			return c, err
		}
	}
	for _, text := range u.Neighbor {
		pin, err := vdp.ParsePin(text)
		if err != nil {
			return c, err
		}
		c.Pins = append(c.Pins, pin)
	}
	_, err := vdp.NewStation(c)
	return c, err
}
