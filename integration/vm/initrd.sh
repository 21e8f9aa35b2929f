#!/bin/busybox sh
# First stage: makes the host's root file system, below a tmpfs, the root, and
# leaves to the second stage, which vm.Machine puts into the run's directory.
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
mkdir -p /root/mnt/testvm /root/proc /root/sys /root/dev
mount -t 9p -o $p9,cache=none testvm /root/mnt/testvm
for fs in proc sys dev; do
	mount -o move /$fs /root/$fs
done
exec switch_root /root /mnt/testvm/init
