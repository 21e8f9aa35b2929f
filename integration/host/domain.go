package host

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// A Domain is a small guest under software emulation, without disks.
type Domain struct {
	Name string
	// UUID may be empty: libvirt then makes one.
	UUID string
	// MemoryMiB is 64 if zero.
	MemoryMiB int
	// Kernel, Initrd and Cmdline boot Linux directly. Without a Kernel the
	// firmware runs, which boots from the NIC that has <boot order='1'/>.
	Kernel, Initrd, Cmdline string
	// SerialLog is a file that gets what the guest writes to ttyS0.
	SerialLog string
	// OnPoweroff, OnReboot and OnCrash are libvirt's actions; empty means
	// destroy.
	OnPoweroff, OnReboot, OnCrash string
	// Interfaces are whole <interface> elements.
	Interfaces []string
	// Metadata is what <metadata> has inside; its elements need namespaces.
	Metadata string
}

// XML is the domain in libvirt's format. What Interfaces and Metadata hold is
// put in as it stands.
func (d Domain) XML() string {
	var b strings.Builder
	element := func(indent, name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%s<%s>%s</%s>\n", indent, name, escape(text), name)
		}
	}
	b.WriteString("<domain type='qemu'>\n")
	element("  ", "name", d.Name)
	element("  ", "uuid", d.UUID)
	if d.Metadata != "" {
		fmt.Fprintf(&b, "  <metadata>\n%s\n  </metadata>\n", d.Metadata)
	}
	memory := d.MemoryMiB
	if memory == 0 {
		memory = 64
	}
	fmt.Fprintf(&b, "  <memory unit='MiB'>%d</memory>\n  <vcpu>1</vcpu>\n", memory)
	b.WriteString("  <os>\n    <type arch='x86_64' machine='q35'>hvm</type>\n")
	element("    ", "kernel", d.Kernel)
	element("    ", "initrd", d.Initrd)
	element("    ", "cmdline", d.Cmdline)
	b.WriteString("  </os>\n  <features><acpi/></features>\n")
	for _, on := range [...]struct{ event, action string }{
		{"on_poweroff", d.OnPoweroff}, {"on_reboot", d.OnReboot}, {"on_crash", d.OnCrash},
	} {
		if on.action == "" {
			on.action = "destroy"
		}
		element("  ", on.event, on.action)
	}
	b.WriteString("  <devices>\n    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n    <controller type='usb' model='none'/>\n")
	for _, nic := range d.Interfaces {
		fmt.Fprintf(&b, "%s\n", nic)
	}
	if d.SerialLog != "" {
		fmt.Fprintf(&b, "    <serial type='file'><source path='%s'/></serial>\n", escape(d.SerialLog))
	}
	b.WriteString("    <memballoon model='none'/>\n  </devices>\n</domain>\n")
	return b.String()
}

// escape makes s fit for text and for a quoted attribute.
func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a Builder does not fail
	return b.String()
}

// DirectNIC is an <interface type='direct'> on an uplink, with a virtio model.
// More elements may follow, such as <boot order='1'/>.
func DirectNIC(mac, uplink, mode string, more ...string) string {
	return fmt.Sprintf(`    <interface type='direct'>
      <mac address='%s'/>
      <source dev='%s' mode='%s'/>
      <model type='virtio'/>%s
    </interface>`, escape(mac), escape(uplink), escape(mode), strings.Join(more, ""))
}
