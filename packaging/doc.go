// Package packaging holds what the programs are delivered in, for Debian's package
// managers and for RPM's; its tests build, judge, install, upgrade and remove that.
package packaging
