#!/bin/busybox sh
# PID 1 of the test guest. guest.go tells what it reads and reports.
busybox=/bin/busybox
PATH=/bin
$busybox --install -s /bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1

say() {
	read -r uptime _ </proc/uptime
	echo "guest: $* $uptime"
}

load() {
	for module in /modules/"$1"/*; do
		insmod "$module"
	done
}

device() { # MAC
	for address in /sys/class/net/*/address; do
		read -r a <"$address" || continue
		# A VLAN device has its lower device's address.
		if [ "$a" = "$1" ] && [ -e "${address%/*}/device" ]; then
			address=${address%/*}
			dev=${address##*/}
			return 0
		fi
	done 2>/dev/null
	return 1
}

reach() { # PEER
	if ping -c 1 -W 1 "$1" >/dev/null 2>&1; then
		say "ping $1 ok"
	else
		say "ping $1 lost"
	fi
}

# udhcpc's script: what the lease is, with the route that the server names.
cat >/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
[ -z "$router" ] || ip route add default via "${router%% *}"
echo "$ip/$mask" >"/lease.$interface"
END
chmod 755 /lease

serve() { # MAC VLAN ADDRESS PEER ADDRESS6 PEER6
	while :; do
		until device "$1"; do usleep 100000; done
		nic=$dev
		# Duplicate address detection would cost a second.
		echo 0 >"/proc/sys/net/ipv6/conf/$nic/accept_dad"
		ip link set "$nic" up
		if [ "$2" != 0 ]; then
			nic=$dev.$2
			ip link add link "$dev" name "$nic" type vlan id "$2"
			echo 0 >"/proc/sys/net/ipv6/conf/$nic/accept_dad"
			ip link set "$nic" up
		fi
		for address in "$3" "$5"; do
			[ -z "$address" ] && continue
			if [ "$address" = dhcp ]; then
				until udhcpc -i "$nic" -n -q -T 1 -s /lease >/dev/null 2>&1; do :; done
				say "nic $1 $(cat "/lease.$nic")"
				continue
			fi
			ip addr add "$address" dev "$nic"
			say "nic $1 $address"
		done
		[ -z "$3$5" ] && say "nic $1 none"
		while [ -e "/sys/class/net/$dev" ]; do
			for peer in "$4" "$6"; do
				[ -n "$peer" ] && reach "$peer"
			done
			usleep 500000
		done
		say "gone $1"
	done
}

load base
case $(cat /proc/cmdline) in *guest.vlans*) load vlan ;; esac
ip link set lo up
say up

for event in /sys/class/input/event*; do
	read -r name <"$event/device/name"
	[ "$name" = "Power Button" ] || continue
	{
		dd if="/dev/input/${event##*/}" of=/dev/null bs=24 count=1 2>/dev/null
		say poweroff
		poweroff -f
	} &
done

for word in $(cat /proc/cmdline); do
	case $word in
	guest.nic=*)
		IFS=,
		set -- ${word#guest.nic=}
		unset IFS
		serve "$1" "$2" "$3" "$4" "$5" "$6" &
		;;
	esac
done
while :; do
	wait
	sleep 3600
done
