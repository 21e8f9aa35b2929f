//go:build integration && !vm

package main

// headersStay are the devices behind whose filter the kernel writes no checksum into a header.
var headersStay = []string{"macvtap", "macvtap plain", "bridge", "bridge with tap"}
