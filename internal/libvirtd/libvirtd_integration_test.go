//go:build integration

package libvirtd

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

func TestRealDaemon(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := hosttest.New(ctx, t, host.Options{Name: "h"})
	uri := "qemu:///system?socket=" + h.Path("/run/libvirt/libvirt-sock")
	_, err := Dial(ctx, uri)
	require.ErrorIs(t, err, ErrUnreachable)
	require.NoError(t, h.StartLibvirtd(ctx))
	c, err := Dial(ctx, uri)
	require.NoError(t, err)
	defer c.Close()

	_, err = c.Lookup(ctx, "g")
	require.ErrorIs(t, err, ErrNoDomain)
	require.EqualError(t, err, `no such domain: "g"`)

	defined, err := c.Defined(ctx)
	require.NoError(t, err)
	const uuid = "aaaaaaaa-0000-4000-8000-000000000001"
	xml := host.Domain{Name: "g", UUID: uuid, Interfaces: []string{"<graphics type='vnc' passwd='s3cret'/>"}}.XML()
	require.NoError(t, c.Define(ctx, xml))
	d := <-defined
	require.Equal(t, "g", d.Name)
	require.Equal(t, uuid, d.UUID)

	found, err := c.Lookup(ctx, "g")
	require.NoError(t, err)
	require.Equal(t, d, found)
	text, err := c.XML(ctx, d)
	require.NoError(t, err)
	require.Contains(t, text, "passwd='s3cret'")
	require.Error(t, c.Define(ctx, "<domain/>"))

	active := func(uuid string) bool {
		t.Helper()
		a, err := c.Active(ctx, uuid)
		require.NoError(t, err)
		return a
	}
	require.False(t, active(uuid))
	require.False(t, active("aaaaaaaa-0000-4000-8000-000000000002"), "not known")
	_, err = h.Virsh(ctx, "start", "g")
	require.NoError(t, err)
	require.True(t, active(uuid))
	_, err = c.Active(ctx, "no-uuid")
	require.Error(t, err)
	persistent, err := c.Persistent(ctx, d)
	require.NoError(t, err)
	require.True(t, persistent)

	// A running domain that is undefined is transient.
	_, err = h.Virsh(ctx, "undefine", "g")
	require.NoError(t, err)
	persistent, err = c.Persistent(ctx, d)
	require.NoError(t, err)
	require.False(t, persistent)
	all, err := c.Domains(ctx)
	require.NoError(t, err)
	require.Empty(t, all, "only what has a definition is listed")
	_, err = h.Virsh(ctx, "destroy", "g")
	require.NoError(t, err)
	for _, err := range []error{
		func() error { _, err := c.XML(ctx, d); return err }(),
		func() error { _, err := c.Persistent(ctx, d); return err }(),
	} {
		require.ErrorIs(t, err, ErrNoDomain)
	}

	// A daemon that hangs holds up neither a call nor the leave-taking.
	_, err = h.Run(ctx, "sh", "-c", "kill -STOP $(cat /run/libvirtd.pid)")
	require.NoError(t, err)
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = c.Domains(soon)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	begin := time.Now()
	other, err := Dial(soon, uri)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Nil(t, other)
	require.Less(t, time.Since(begin), 2*closeTime)

	select {
	case <-c.Lost():
		t.Fatal("it is there")
	default:
	}
	require.NoError(t, h.KillLibvirtd(ctx, unix.SIGKILL))
	<-c.Lost()
	_, open := <-defined
	require.False(t, open)
}

func TestCloseOfAHungDaemon(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := hosttest.New(ctx, t, host.Options{Name: "h"})
	require.NoError(t, h.StartLibvirtd(ctx))
	c, err := Dial(ctx, "qemu:///system?socket="+h.Path("/run/libvirt/libvirt-sock"))
	require.NoError(t, err)
	_, err = h.Run(ctx, "sh", "-c", "kill -STOP $(cat /run/libvirtd.pid)")
	require.NoError(t, err)
	begin := time.Now()
	c.Close()
	require.Less(t, time.Since(begin), 2*closeTime)
}
