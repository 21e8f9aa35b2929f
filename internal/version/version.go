// Package version is the release that all programs report.
package version

// Version is the release.
const Version = "0.1.0"
