package registry

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
)

// kernel is the set of devices that exist.
type kernel map[uint32]bool

func (k kernel) exists(r *Record) bool { return k[r.Index] }

func open(t *testing.T, dir string, k kernel) *Registry {
	t.Helper()
	fd, err := unix.Open(dir+"/"+File, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return &Registry{fd: fd, exists: k.exists}
}

func want(p *policy.Profile, uid, index uint32, mac ether.MAC) Want {
	return Want{Profile: p, UID: uid, Link: 5, Index: index, Start: index, Candidates: []policy.Candidate{{MAC: mac, Slot: -1}}}
}

func mac(n byte) ether.MAC { return ether.MAC{2, 0, 0, 0, 0, n} }

func TestClaim(t *testing.T) {
	dir, k := t.TempDir(), kernel{}
	p := &policy.Profile{Name: "lan", Kind: policy.Macvtap, MaxPerUser: 2, Max: 3}
	claim := func(uid, index uint32, m ether.MAC) error {
		g := open(t, dir, k) // one per process, as locks are
		r, err := g.Claim(want(p, uid, index, m))
		if err == nil {
			require.Equal(t, index, r.Index)
			k[index] = true
			unix.Close(g.fd)
		}
		return err
	}
	require.NoError(t, claim(1, 101, mac(1)))
	require.ErrorIs(t, claim(1, 102, mac(1)), ErrMACInUse)
	require.NoError(t, claim(1, 102, mac(2)))
	require.ErrorIs(t, claim(1, 103, mac(3)), ErrUserLimit)
	require.NoError(t, claim(2, 104, mac(4)))
	require.ErrorIs(t, claim(3, 105, mac(5)), ErrProfileLimit)
	delete(k, 101)
	require.NoError(t, claim(3, 106, mac(1)), "the kernel says that the device is gone")

	st, err := os.Stat(dir + "/" + File)
	require.NoError(t, err)
	require.LessOrEqual(t, st.Size(), int64(8*recordSize), "dead records are used again")
}

func TestClaimInProgressCounts(t *testing.T) {
	dir, k := t.TempDir(), kernel{}
	p := &policy.Profile{Name: "lan", Kind: policy.Bridge, MaxPerUser: 1, Max: 9}
	first, second := open(t, dir, k), open(t, dir, k)
	_, err := first.Claim(want(p, 1, 11, mac(1)))
	require.NoError(t, err)
	_, err = second.Claim(want(p, 1, 12, mac(2)))
	require.ErrorIs(t, err, ErrUserLimit)
	_, err = second.Claim(want(p, 2, 12, mac(1)))
	require.ErrorIs(t, err, ErrMACInUse)
	_, err = second.Claim(want(p, 2, 12, mac(2)))
	require.NoError(t, err, "another user's slot is his own")
	unix.Close(first.fd) // killed before the device was made
	third := open(t, dir, k)
	_, err = third.Claim(want(p, 1, 13, mac(1)))
	require.NoError(t, err)
}

func TestManyLivingRecords(t *testing.T) {
	dir, k := t.TempDir(), kernel{}
	asked := 0
	g := open(t, dir, k)
	g.exists = func(r *Record) bool { asked++; return k[r.Index] }
	other := Record{UID: 9, Profile: [32]byte{'o'}}
	for i := range 2000 {
		other.Index = uint32(1000 + i)
		k[other.Index] = true
		require.NoError(t, g.write(i, &other))
	}
	p := &policy.Profile{Name: "lan", MaxPerUser: 4, Max: 64}
	_, err := g.Claim(want(p, 1, 1, mac(1)))
	require.NoError(t, err)
	require.Less(t, asked, 20, "the cost must not grow with the number of devices")
}

func TestSlotOfADerivedAddress(t *testing.T) {
	dir, k := t.TempDir(), kernel{}
	p := &policy.Profile{Name: "lan", MaxPerUser: 3, Max: 9}
	g := open(t, dir, k)
	w := want(p, 1, 1, mac(7))
	w.Candidates = []policy.Candidate{{MAC: mac(7), Slot: 2}}
	r, err := g.Claim(w)
	require.NoError(t, err)
	require.Equal(t, uint8(2), r.Slot)
	w = want(p, 1, 2, mac(0))
	w.Candidates = []policy.Candidate{{MAC: mac(7), Slot: 2}, {MAC: mac(5), Slot: 0}}
	r, err = open(t, dir, k).Claim(w)
	require.NoError(t, err)
	require.Equal(t, mac(5), r.MAC)
}

func TestWholeLowerDevice(t *testing.T) {
	dir, k := t.TempDir(), kernel{}
	p := &policy.Profile{Name: "vf", Kind: policy.Macvtap, MaxPerUser: 4, Max: 9}
	whole := func(uid, index, link uint32, m ether.MAC) error {
		w := want(p, uid, index, m)
		w.Link, w.Whole = link, true
		_, err := open(t, dir, k).Claim(w)
		k[index] = err == nil
		return err
	}
	require.NoError(t, whole(1, 11, 5, mac(1)))
	require.ErrorIs(t, whole(2, 12, 5, mac(2)), ErrLowerInUse, "whatever address it has now")
	require.NoError(t, whole(2, 13, 6, mac(1)), "an address is one of a lower device")
	_, err := open(t, dir, k).Claim(want(&policy.Profile{Name: "lan", MaxPerUser: 1, Max: 1}, 3, 14, mac(9)))
	require.ErrorIs(t, err, ErrLowerInUse, "not for another profile either")
}

func TestReleaseAndFind(t *testing.T) {
	dir, k := t.TempDir(), kernel{}
	p := &policy.Profile{Name: "lan", MaxPerUser: 1, Max: 9}
	has := func(m ether.MAC) func(*Record) bool { return func(r *Record) bool { return r.MAC == m } }
	first, second := open(t, dir, k), open(t, dir, k)
	_, err := first.Claim(want(p, 1, 11, mac(1)))
	require.NoError(t, err)
	_, found := first.Find(has(mac(1)))
	require.False(t, found, "its own claim")
	r, found := second.Find(has(mac(1)))
	require.True(t, found)
	require.EqualValues(t, 11, r.Index)
	_, found = second.Find(has(mac(2)))
	require.False(t, found)
	first.Release()
	_, found = second.Find(has(mac(1)))
	require.False(t, found)
	_, err = second.Claim(want(p, 1, 12, mac(1)))
	require.NoError(t, err, "slot and record are free again")
}
