// Package registry keeps count of the devices that were handed out, so that a profile's limits hold.
//
// A claim is written before the device is made, never after, and whether it still counts is asked of the kernel: it does
// as long as the device exists. A caller who kills or stops the helper at any point can therefore not get more than his
// share, and nothing has to be cleaned up. Claims are guarded by open-file-description locks (fcntl(2), F_OFD_SETLK) on
// single octets, which are never waited for: a caller who stops the helper with a lock in its hands blocks only his own
// slot.
//
// There is a file for each network namespace of a host, since interface indexes are a namespace's own. It is called
// claims and the inode number of the namespace (proc_pid_ns(5)), and is an array of 64-octet records in host byte order:
//
//	 0  uint32    interface index of the device; 0: never used
//	 4  uint32    user id
//	 8  uint32    interface index of the lower device or bridge
//	12  uint8     slot of the user in the profile
//	13  uint8     kind, as in package policy
//	14  [6]uint8  MAC address; zero if unknown
//	20  uint32    process id of the peer, for people
//	24  [32]uint8 profile, padded with NUL
//	56  uint8     1: the claim lives as long as the namespace with the index for its id, not the device of that index
//	57  uint8     1: it is for the whole lower device
//	58  [6]uint8  zero
package registry

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
)

// Dir and File are where the claims are: File is followed by the inode number. The directory is root's, on a file system
// that a reboot empties.
const (
	Dir  = "/run/libvirt-direct"
	File = "claims."
)

// MaxRecords is how many devices there may be on the host.
const MaxRecords = 4096

const recordSize = 64

// Reasons for which a claim is refused, matched with errors.Is.
var (
	ErrUserLimit    = errors.New("you have as many devices of this profile as you may have at once")
	ErrProfileLimit = errors.New("the profile has as many devices as it may have at once")
	ErrFull         = errors.New("the host has as many devices as the helper keeps track of")
	ErrMACInUse     = errors.New("another guest has this MAC address")
	ErrLowerInUse   = errors.New("another guest has the lower device to itself")
	ErrUntrusted    = errors.New(Dir + " or a file in it is not root's alone")
)

// Record is one claim.
type Record struct {
	Index   uint32
	UID     uint32
	Link    uint32
	Slot    uint8
	Kind    policy.Kind
	MAC     ether.MAC
	Peer    uint32
	Profile [32]byte
	Pinned  bool // the claim lives as long as the namespace that Index names
	Whole   bool // the lower device is for nobody else
	_       [6]byte
}

func (r *Record) of(profile string) bool {
	n := len(profile)
	return n < len(r.Profile) && string(r.Profile[:n]) == profile && r.Profile[n] == 0
}

// Registry is the open file.
type Registry struct {
	fd     int
	exists func(*Record) bool
	held   []int64 // octets locked for the claim
}

// Open opens the file of the network namespace with the inode number ns, and makes it and its directory if they are not
// there. exists asks the kernel for what a record lives as long as.
func Open(dir string, ns uint64, exists func(*Record) bool) (*Registry, error) {
	file := File + strconv.FormatUint(ns, 10)
	fd, err := openIn(dir, file)
	if errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdir(dir, 0o755); err == nil || err == unix.EEXIST {
			fd, err = openIn(dir, file)
		}
	}
	if err != nil {
		return nil, err
	}
	return &Registry{fd: fd, exists: exists}, nil
}

func openIn(dir, file string) (int, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(d)
	if err := mine(d, unix.S_IFDIR); err != nil {
		return -1, err
	}
	fd, err := unix.Openat(d, file, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return -1, err
	}
	if err := mine(fd, unix.S_IFREG); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func mine(fd int, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind || st.Uid != 0 || st.Mode&0o022 != 0 {
		return ErrUntrusted
	}
	return nil
}

// Want is a claim to be made.
type Want struct {
	Profile    *policy.Profile
	UID        uint32
	Link       uint32
	Candidates []policy.Candidate
	Index      uint32 // of the device that will be made
	Start      uint32 // any number: where to look for a free record first
	Peer       uint32
	Pinned     bool
	Whole      bool
}

// Claim takes the first of w's candidates that is free. The claim is safe from other callers until the process ends or
// the device exists.
func (g *Registry) Claim(w Want) (Record, error) {
	rs, err := g.read()
	if err != nil {
		return Record{}, err
	}
	refused := ErrUserLimit
	for _, c := range w.Candidates {
		slot, err := g.claimSlot(w, rs, c.Slot)
		if err != nil {
			return Record{}, err
		}
		if slot < 0 {
			continue
		}
		r, at, err := g.claimRecord(w, rs, slot, c.MAC)
		if err == nil {
			g.held = []int64{int64(at), slotByte(w, slot)}
			return r, nil
		}
		g.unlock(slotByte(w, slot))
		if !errors.Is(err, ErrMACInUse) {
			return Record{}, err
		}
		refused = ErrMACInUse
	}
	return Record{}, refused
}

// Close closes the file, and gives up the claim unless its device exists.
func (g *Registry) Close() { unix.Close(g.fd) }

// Release takes the claim back, for whose device there is no use.
func (g *Registry) Release() {
	if len(g.held) == 0 {
		return
	}
	_ = g.write(int(g.held[0]), &Record{}) // otherwise it ends with the process, for want of a device
	for _, at := range g.held {
		g.unlock(at)
	}
	g.held = nil
}

// Find returns a living claim of which that holds, other than Claim's own.
func (g *Registry) Find(is func(*Record) bool) (Record, bool) {
	rs, err := g.read()
	if err != nil {
		return Record{}, false
	}
	for i := range rs {
		r := &rs[i]
		own := len(g.held) > 0 && int64(i) == g.held[0]
		if !own && r.Index != 0 && is(r) && g.live(i, r) {
			return *r, true
		}
	}
	return Record{}, false
}

// claimSlot locks the slot, or any free one for -1. It returns -1 if there is none.
func (g *Registry) claimSlot(w Want, rs []Record, slot int) (int, error) {
	taken, live := [policy.LimitPerUser]bool{}, 0
	for i := range rs {
		if r := &rs[i]; r.Index != 0 && r.UID == w.UID && r.of(w.Profile.Name) && g.live(i, r) {
			taken[r.Slot] = true
			live++
		}
	}
	if live >= w.Profile.MaxPerUser {
		return -1, nil
	}
	first, last := slot, slot
	if slot < 0 {
		first, last = 0, w.Profile.MaxPerUser-1
	}
	for s := first; s <= last; s++ {
		if taken[s] {
			continue
		}
		if ok, err := g.lock(slotByte(w, s)); err != nil || ok {
			return s, err
		}
	}
	return -1, nil
}

// claimRecord writes the claim and then looks whether it may stand. Of two that collide, both see the other.
func (g *Registry) claimRecord(w Want, rs []Record, slot int, mac ether.MAC) (Record, int, error) {
	r := Record{
		Index: w.Index, UID: w.UID, Link: w.Link, Slot: uint8(slot), Kind: w.Profile.Kind, MAC: mac, Peer: w.Peer,
		Pinned: w.Pinned, Whole: w.Whole,
	}
	copy(r.Profile[:len(r.Profile)-1], w.Profile.Name)
	at, err := g.freeRecord(rs, w.Start)
	if err != nil {
		return Record{}, 0, err
	}
	err = g.write(at, &r)
	if err == nil {
		if err = g.mayStand(w, &r, at); err == nil {
			return r, at, nil
		}
		_ = g.write(at, &Record{}) // otherwise it ends with the process, for want of a device
	}
	g.unlock(int64(at))
	return Record{}, 0, err
}

func (g *Registry) mayStand(w Want, mine *Record, at int) error {
	rs, err := g.read()
	if err != nil {
		return err
	}
	total := 1
	for i := range rs {
		r := &rs[i]
		same := r.MAC == mine.MAC && mine.MAC != ether.MAC{} && r.Link == mine.Link
		whole := r.Link == mine.Link && (r.Whole || mine.Whole)
		ours := r.of(w.Profile.Name)
		if i == at || r.Index == 0 || !same && !whole && !ours || !g.live(i, r) {
			continue
		}
		switch {
		case whole:
			return ErrLowerInUse
		case same:
			return ErrMACInUse
		case r.UID == mine.UID && r.Slot == mine.Slot:
			return ErrUserLimit // it came and went between reading and locking
		}
		total++
		if total > w.Profile.Max {
			return ErrProfileLimit
		}
	}
	return nil
}

// freeRecord locks a record that nothing lives in: an unused one, one whose device is gone, or a new one. It looks at a
// few places that differ from call to call and then appends, so that a registry of many living records does not have
// to be walked through.
func (g *Registry) freeRecord(rs []Record, start uint32) (int, error) {
	for k := range uint32(4) {
		i := int((start + k) % uint32(len(rs)+1))
		if ok, err := g.take(rs, i); ok || err != nil {
			return i, err
		}
	}
	for k := range MaxRecords {
		i := (len(rs) + k) % MaxRecords
		if ok, err := g.take(rs, i); ok || err != nil {
			return i, err
		}
	}
	return 0, ErrFull
}

func (g *Registry) take(rs []Record, i int) (bool, error) {
	if i >= MaxRecords || i < len(rs) && rs[i].Index != 0 && g.exists(&rs[i]) {
		return false, nil
	}
	if ok, err := g.lock(int64(i)); !ok {
		return false, err
	}
	now, err := g.readOne(i) // somebody may have used and left it since it was read
	if err == nil && (now.Index == 0 || !g.exists(&now)) {
		return true, nil
	}
	g.unlock(int64(i))
	return false, err
}

// live reports whether the record's device exists, or is just being made.
func (g *Registry) live(i int, r *Record) bool {
	return g.exists(r) || g.locked(int64(i))
}

// Locks: octet i guards record i; octets far behind the end guard the users' slots.
const slotBase = int64(1) << 62

func slotByte(w Want, slot int) int64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(w.Profile.Name); i++ {
		h = (h ^ uint64(w.Profile.Name[i])) * 1099511628211
	}
	for i := 0; i < 32; i += 8 {
		h = (h ^ uint64(w.UID>>i&0xff)) * 1099511628211
	}
	return slotBase | int64(h&(1<<53-1))<<8 | int64(slot)
}

func flock(kind int16, at int64) unix.Flock_t { return unix.Flock_t{Type: kind, Start: at, Len: 1} }

func (g *Registry) lock(at int64) (bool, error) {
	l := flock(unix.F_WRLCK, at)
	err := unix.FcntlFlock(uintptr(g.fd), unix.F_OFD_SETLK, &l)
	if err == unix.EAGAIN || err == unix.EACCES {
		return false, nil
	}
	return err == nil, err
}

func (g *Registry) unlock(at int64) {
	l := flock(unix.F_UNLCK, at)
	_ = unix.FcntlFlock(uintptr(g.fd), unix.F_OFD_SETLK, &l)
}

// locked reports a lock of another process. An error counts as one.
func (g *Registry) locked(at int64) bool {
	l := flock(unix.F_WRLCK, at)
	err := unix.FcntlFlock(uintptr(g.fd), unix.F_OFD_GETLK, &l)
	return err != nil || l.Type != unix.F_UNLCK
}

func (g *Registry) read() ([]Record, error) {
	var st unix.Stat_t
	if err := unix.Fstat(g.fd, &st); err != nil {
		return nil, err
	}
	n := min(int(st.Size/recordSize), MaxRecords)
	if n == 0 {
		return nil, nil
	}
	rs := make([]Record, n)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&rs[0])), n*recordSize)
	got, err := unix.Pread(g.fd, b, 0)
	if err != nil {
		return nil, err
	}
	return rs[:got/recordSize], nil
}

func (g *Registry) readOne(i int) (Record, error) {
	var r Record
	b := unsafe.Slice((*byte)(unsafe.Pointer(&r)), recordSize)
	_, err := unix.Pread(g.fd, b, int64(i)*recordSize)
	return r, err
}

func (g *Registry) write(i int, r *Record) error {
	b := unsafe.Slice((*byte)(unsafe.Pointer(r)), recordSize)
	n, err := unix.Pwrite(g.fd, b, int64(i)*recordSize)
	if err == nil && n != recordSize {
		err = unix.ENOSPC
	}
	return err
}

// Size of a record is part of the format.
var _ = [1]struct{}{}[unsafe.Sizeof(Record{})-recordSize]
