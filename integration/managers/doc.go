// Package managers holds the tests with the programs by which a Debian host names and
// configures its network devices: udev, systemd-networkd, NetworkManager, ifupdown, and lldpd. They run
// inside the test machine of package vm, whose kernel has VLANs, out of trees of Debian's
// packages; nothing is installed.
package managers
