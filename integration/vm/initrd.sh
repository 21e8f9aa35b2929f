#!/bin/busybox sh
# First stage: makes the host's root file system, below a tmpfs, the root and
# sets up what an operating system's start would have; all with busybox, since
# every program loaded over 9p takes TCG a tenth of a second.
PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /upper /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
	insmod "$module"
done
case $(cat /proc/cmdline) in
*testvm.probe*)
	echo "testvm: alive"
	poweroff -f
	;;
esac
p9=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $p9,cache=loose,ro root /host
mount -t tmpfs -o mode=755,size=80% upper /upper
mkdir /upper/upper /upper/work
mount -t overlay -o lowerdir=/host,upperdir=/upper/upper,workdir=/upper/work overlay /root
cd /root
mkdir -p mnt/testvm proc sys dev lib/modules
mount -t 9p -o $p9,cache=none testvm mnt/testvm

fresh() { # DIRECTORY...: empty, whatever the host has there
	for dir; do
		mkdir -p "/root$dir"
		mount -t tmpfs -o mode=755 fresh "/root$dir"
	done
}

modules() { # DIRECTORY
	mount -o bind "/root$1" /root/lib/modules
}

share() { # TAG DIRECTORY: written through to the host
	mkdir -p "/root$2"
	mount -t 9p -o $p9,cache=none "$1" "/root$2"
}

fresh /run /var/log /var/lib/libvirt /etc/libvirt/qemu \
	/var/lib/lldpad /var/lib/openvswitch /etc/openvswitch
mkdir -p run/lock run/netns run/libvirt run/openvswitch var/log/openvswitch var/log/libvirt/qemu \
	var/lib/libvirt/qemu var/lib/libvirt/images var/lib/libvirt/network var/lib/libvirt/boot
mkdir /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t debugfs debugfs /sys/kernel/debug
. /root/mnt/testvm/mounts
hostname testvm
ip link set lo up

for fs in proc sys dev; do
	mount -o move /$fs /root/$fs
done
exec switch_root /root /mnt/testvm/init
