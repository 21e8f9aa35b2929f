// Package domaintest makes libvirt domains for tests: documents as people, management
// programs and libvirt itself write them, the hosts on which they are defined, and what
// libvirt makes of a document that it is given.
package domaintest

import "libvirt-direct/hooks/hooktest"

// tapeLength suffices for nearly all documents.
const tapeLength = 1024

// SeedTape returns the bytes of a tape drawn from a seed.
func SeedTape(seed uint64) []byte { return hooktest.Seeded(seed, tapeLength) }

// one is true in one of n cases.
func (g *generator) one(n int) bool { return g.Next(n) == n-1 && n > 1 }

// of returns one of some texts; the first is the dullest.
func (g *generator) of(texts ...string) string { return texts[g.Next(len(texts))] }
