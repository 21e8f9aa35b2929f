#!/bin/sh
# Second stage, PID 1: what an operating system's start would have set up for
# the command; then the command, its exit status, power off.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

fresh() { # DIRECTORY...: empty, whatever the host has there
	for dir; do
		mkdir -p "$dir"
		mount -t tmpfs -o mode=755 fresh "$dir"
	done
}

share() { # TAG DIRECTORY: written through to the host
	mkdir -p "$2"
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none "$1" "$2"
}

fresh /run /var/log /var/lib/libvirt /var/cache/libvirt /etc/libvirt/qemu \
	/var/lib/lldpad /var/lib/openvswitch /etc/openvswitch
mkdir -p /run/lock /run/netns /run/libvirt /run/openvswitch /var/log/openvswitch /var/log/libvirt/qemu \
	/var/lib/libvirt/qemu /var/lib/libvirt/images /var/lib/libvirt/network /var/lib/libvirt/boot
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t debugfs debugfs /sys/kernel/debug
. /mnt/testvm/mounts

# There is no udev: load the drivers of the network cards, which are of PCI
# class 02 or virtio device type 1.
for card in /sys/bus/pci/devices/* /sys/bus/virtio/devices/*; do
	read -r alias <"$card/modalias"
	case $alias in
	pci:*bc02* | virtio:d00000001v*) modprobe "$alias" ;;
	esac
done
hostname testvm
ip link set lo up

for port in /sys/class/virtio-ports/*; do
	read -r name <"$port/name"
	[ "$name" = output ] && output=/dev/${port##*/}
done
setsid -w sh /mnt/testvm/command </dev/null >"$output" 2>&1
echo $? >/mnt/testvm/status
busybox poweroff -f
