// SPDX-License-Identifier: GPL-2.0-only
/*
 * testnic: a network card for tests, which answers as the test wants it.
 *
 * Its PF implements every per-VF operation of rtnetlink, those that QEMU's igb refuses
 * and 802.1Qbh port profiles, which in Linux only enic has, included. It checks a port
 * profile's lengths as enic does since 2024. It moves no frames.
 *
 * It takes the functions of QEMU's igb (8086:10c9 and 8086:10ca) in igb's place: SR-IOV,
 * physfn and virtfn links, VFIO and IOMMU groups are real there. With soft_vfs=N it also
 * makes a PF of its own, on a bus of its own, that has N VFs without devices.
 *
 * What it answers is chosen in /sys/module/testnic/parameters, see below.
 */
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/if_vlan.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <net/netlink.h>

#define MAX_VFS 256

static int soft_vfs;
module_param(soft_vfs, int, 0444);
MODULE_PARM_DESC(soft_vfs, "VFs of a PF without hardware, named testnic0");

static bool enic;
module_param(enic, bool, 0444);
MODULE_PARM_DESC(enic, "have only what enic has: VF MACs, port profiles, no reading of VFs");

static bool strict = true;
module_param(strict, bool, 0644);
MODULE_PARM_DESC(strict, "refuse profiles that are not 40 octets and UUIDs that are not 16");

static char refuse[128];
module_param_string(refuse, refuse, sizeof(refuse), 0644);
MODULE_PARM_DESC(refuse, "attributes to refuse with EOPNOTSUPP: mac vlan rate spoofchk trust rss state port");

static char ignore[128];
module_param_string(ignore, ignore, sizeof(ignore), 0644);
MODULE_PARM_DESC(ignore, "attributes to acknowledge and not to set");

static int busy;
module_param(busy, int, 0644);
MODULE_PARM_DESC(busy, "how many of the next writes to refuse with EBUSY");

static int lag_ms;
module_param(lag_ms, int, 0644);
MODULE_PARM_DESC(lag_ms, "after how long a read shows what was written");

static int hole = -1;
module_param(hole, int, 0644);
MODULE_PARM_DESC(hole, "the VF that cannot be read");

static int writes;
module_param(writes, int, 0644);
MODULE_PARM_DESC(writes, "counts the writes, refused ones included");

static int delay_ms = 100;
module_param(delay_ms, int, 0644);
MODULE_PARM_DESC(delay_ms, "how long a port profile is in progress");

static int response = PORT_PROFILE_RESPONSE_SUCCESS;
module_param(response, int, 0644);
MODULE_PARM_DESC(response, "what the switch says after that; 0x101 is in progress for ever");

static int port_errno;
module_param(port_errno, int, 0644);
MODULE_PARM_DESC(port_errno, "with which error to refuse port profiles, but for disassociations");

static int disassociations;
module_param(disassociations, int, 0644);
MODULE_PARM_DESC(disassociations, "counts the disassociations");

struct port {
	bool set;
	u8 request;
	char profile[PORT_PROFILE_MAX];
	u8 instance[PORT_UUID_MAX], host[PORT_UUID_MAX];
	unsigned long decided;
	int response;
};

struct vf {
	struct ifla_vf_info now, before;
	unsigned long shown;	/* from when a read shows now, not before */
	struct port port;
};

struct testnic {
	struct device *dev;
	struct port self;
	struct vf vf[];
};

static int num_vf(struct testnic *t)
{
	return min(dev_num_vf(t->dev), MAX_VFS);
}

static struct vf *vf_of(struct net_device *dev, int n)
{
	struct testnic *t = netdev_priv(dev);

	return n >= 0 && n < num_vf(t) ? &t->vf[n] : NULL;
}

/* The common part of every write: NULL and an error, or the VF to change. */
static struct vf *write_vf(struct net_device *dev, int n, const char *what, int *err)
{
	struct vf *v = vf_of(dev, n);
	static struct vf nowhere;

	writes++;
	*err = 0;
	if (!v)
		*err = -EINVAL;
	else if (strstr(refuse, what))
		*err = -EOPNOTSUPP;
	else if (busy > 0 && busy--)
		*err = -EBUSY;
	if (*err)
		return NULL;
	if (strstr(ignore, what))
		return &nowhere;
	if (lag_ms) {
		if (time_after_eq(jiffies, v->shown))
			v->before = v->now;
		v->shown = jiffies + msecs_to_jiffies(lag_ms);
	} else {
		v->shown = jiffies;
	}
	return v;
}

static int set_vf_mac(struct net_device *dev, int n, u8 *mac)
{
	int err;
	struct vf *v = write_vf(dev, n, "mac", &err);

	if (v && is_multicast_ether_addr(mac))
		return -EINVAL;
	if (v)
		ether_addr_copy(v->now.mac, mac);
	return err;
}

static int set_vf_vlan(struct net_device *dev, int n, u16 vlan, u8 qos, __be16 proto)
{
	int err;
	struct vf *v;

	if (vlan > 4094 || qos > 7)
		return -EINVAL;
	if (proto != htons(ETH_P_8021Q) && proto != htons(ETH_P_8021AD))
		return -EPROTONOSUPPORT;
	v = write_vf(dev, n, "vlan", &err);
	if (v) {
		v->now.vlan = vlan;
		v->now.qos = qos;
		v->now.vlan_proto = proto;
	}
	return err;
}

static int set_vf_rate(struct net_device *dev, int n, int low, int high)
{
	int err;
	struct vf *v;

	if (!netif_running(dev) || (high && high < low) || high > 10000 || low > 10000)
		return -EINVAL;	/* like igb, which knows no speed while it is down */
	v = write_vf(dev, n, "rate", &err);
	if (v) {
		v->now.min_tx_rate = low;
		v->now.max_tx_rate = high;
	}
	return err;
}

#define SET_VF(op, what, type, field)					\
static int set_vf_##op(struct net_device *dev, int n, type value)	\
{									\
	int err;							\
	struct vf *v = write_vf(dev, n, what, &err);			\
									\
	if (v)								\
		v->now.field = value;					\
	return err;							\
}
SET_VF(spoofchk, "spoofchk", bool, spoofchk)
SET_VF(trust, "trust", bool, trusted)
SET_VF(rss, "rss", bool, rss_query_en)
SET_VF(link_state, "state", int, linkstate)

static int get_vf_config(struct net_device *dev, int n, struct ifla_vf_info *info)
{
	struct vf *v = vf_of(dev, n);

	if (!v || n == hole)
		return -EINVAL;
	*info = time_before(jiffies, v->shown) ? v->before : v->now;
	info->vf = n;
	/* A driver that lacks an operation does not report it either. */
	if (strstr(refuse, "spoofchk"))
		info->spoofchk = -1;
	if (strstr(refuse, "trust"))
		info->trusted = -1;
	if (strstr(refuse, "rss"))
		info->rss_query_en = -1;
	return 0;
}

static struct port *port_of(struct net_device *dev, int n)
{
	struct testnic *t = netdev_priv(dev);
	struct vf *v = vf_of(dev, n);

	if (strstr(refuse, "port"))
		return ERR_PTR(-EOPNOTSUPP);
	if (n == PORT_SELF_VF)
		return &t->self;
	return v ? &v->port : ERR_PTR(-EINVAL);
}

static bool bad_length(struct nlattr *a, int want)
{
	return strict && a && nla_len(a) != want;
}

static int set_vf_port(struct net_device *dev, int n, struct nlattr *attr[])
{
	struct port *p = port_of(dev, n), want = { .set = true };

	writes++;
	if (IS_ERR(p))
		return PTR_ERR(p);
	if (!attr[IFLA_PORT_REQUEST])
		return -EOPNOTSUPP;
	want.request = nla_get_u8(attr[IFLA_PORT_REQUEST]);
	if (bad_length(attr[IFLA_PORT_PROFILE], PORT_PROFILE_MAX) ||
	    bad_length(attr[IFLA_PORT_INSTANCE_UUID], PORT_UUID_MAX) ||
	    bad_length(attr[IFLA_PORT_HOST_UUID], PORT_UUID_MAX)) {
		netdev_info(dev, "port %d: profile of %d octets refused\n", n,
			    attr[IFLA_PORT_PROFILE] ? nla_len(attr[IFLA_PORT_PROFILE]) : 0);
		return -EINVAL;
	}
	if (busy > 0 && busy--)
		return -EBUSY;
	switch (want.request) {
	case PORT_REQUEST_DISASSOCIATE:
		disassociations++;
		want.response = PORT_PROFILE_RESPONSE_SUCCESS;
		want.decided = jiffies;
		break;
	case PORT_REQUEST_ASSOCIATE:
	case PORT_REQUEST_PREASSOCIATE_RR:
		if (port_errno)
			return -port_errno;
		if (!attr[IFLA_PORT_PROFILE])
			return -EINVAL;
		nla_strscpy(want.profile, attr[IFLA_PORT_PROFILE], sizeof(want.profile));
		if (!want.profile[0])
			return -EINVAL;
		want.response = response;
		want.decided = jiffies + msecs_to_jiffies(delay_ms);
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (attr[IFLA_PORT_INSTANCE_UUID])
		nla_memcpy(want.instance, attr[IFLA_PORT_INSTANCE_UUID], PORT_UUID_MAX);
	if (attr[IFLA_PORT_HOST_UUID])
		nla_memcpy(want.host, attr[IFLA_PORT_HOST_UUID], PORT_UUID_MAX);
	*p = want;
	netdev_info(dev, "port %d: request %u profile '%s' instance %pUb\n", n, p->request, p->profile, p->instance);
	return 0;
}

static int get_vf_port(struct net_device *dev, int n, struct sk_buff *skb)
{
	struct port *p = port_of(dev, n);
	u16 now;

	if (IS_ERR(p))
		return PTR_ERR(p);
	if (!p->set)
		return -ENODATA;
	now = time_before(jiffies, p->decided) ? PORT_PROFILE_RESPONSE_INPROGRESS : p->response;
	if (nla_put_u16(skb, IFLA_PORT_REQUEST, p->request) ||
	    nla_put_u16(skb, IFLA_PORT_RESPONSE, now) ||
	    nla_put(skb, IFLA_PORT_PROFILE, PORT_PROFILE_MAX, p->profile) ||
	    nla_put(skb, IFLA_PORT_INSTANCE_UUID, PORT_UUID_MAX, p->instance) ||
	    nla_put(skb, IFLA_PORT_HOST_UUID, PORT_UUID_MAX, p->host))
		return -EMSGSIZE;
	return 0;
}

static netdev_tx_t xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static void get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, "testnic", sizeof(info->driver));
}

static const struct ethtool_ops ethtool_ops = { .get_drvinfo = get_drvinfo };

#define COMMON_OPS						\
	.ndo_start_xmit = xmit,					\
	.ndo_set_mac_address = eth_mac_addr,			\
	.ndo_validate_addr = eth_validate_addr

#define PORT_OPS						\
	.ndo_set_vf_mac = set_vf_mac,				\
	.ndo_set_vf_port = set_vf_port,				\
	.ndo_get_vf_port = get_vf_port

static const struct net_device_ops vf_ops = { COMMON_OPS };
static const struct net_device_ops enic_ops = { COMMON_OPS, PORT_OPS };
static const struct net_device_ops pf_ops = {
	COMMON_OPS, PORT_OPS,
	.ndo_set_vf_vlan = set_vf_vlan,
	.ndo_set_vf_rate = set_vf_rate,
	.ndo_set_vf_spoofchk = set_vf_spoofchk,
	.ndo_set_vf_trust = set_vf_trust,
	.ndo_set_vf_rss_query_en = set_vf_rss,
	.ndo_set_vf_link_state = set_vf_link_state,
	.ndo_get_vf_config = get_vf_config,
};

static struct net_device *make(struct device *parent, int vfs, const struct net_device_ops *ops)
{
	struct testnic *t;
	struct net_device *dev = alloc_etherdev(struct_size(t, vf, vfs));
	int i;

	if (!dev)
		return ERR_PTR(-ENOMEM);
	t = netdev_priv(dev);
	t->dev = parent;
	for (i = 0; i < vfs; i++) {
		t->vf[i].now.spoofchk = 1;
		t->vf[i].now.vlan_proto = htons(ETH_P_8021Q);
		t->vf[i].shown = jiffies;
	}
	dev->netdev_ops = ops;
	dev->ethtool_ops = &ethtool_ops;
	dev->max_mtu = 9216;
	eth_hw_addr_random(dev);
	SET_NETDEV_DEV(dev, parent);
	return dev;
}

/* A VF's own driver takes the MAC that the PF has given the VF, like igbvf. */
static void take_mac(struct net_device *dev, struct pci_dev *pdev)
{
	struct pci_dev *pf = pci_physfn(pdev);
	struct net_device *pf_dev = pf->driver == pdev->driver ? pci_get_drvdata(pf) : NULL;
	struct vf *v = pf_dev ? vf_of(pf_dev, pci_iov_vf_id(pdev)) : NULL;

	if (v && is_valid_ether_addr(v->now.mac))
		eth_hw_addr_set(dev, v->now.mac);
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct net_device *dev;
	int err = pci_enable_device_mem(pdev);

	if (err)
		return err;
	dev = make(&pdev->dev, pdev->is_virtfn ? 0 : pci_sriov_get_totalvfs(pdev),
		   pdev->is_virtfn ? &vf_ops : enic ? &enic_ops : &pf_ops);
	if (IS_ERR(dev)) {
		err = PTR_ERR(dev);
		goto disable;
	}
	if (pdev->is_virtfn)
		take_mac(dev, pdev);
	err = register_netdev(dev);
	if (err)
		goto release;
	pci_set_drvdata(pdev, dev);
	return 0;
release:
	free_netdev(dev);
disable:
	pci_disable_device(pdev);
	return err;
}

static void remove(struct pci_dev *pdev)
{
	struct net_device *dev = pci_get_drvdata(pdev);

	if (!pdev->is_virtfn)
		pci_disable_sriov(pdev);
	unregister_netdev(dev);
	free_netdev(dev);
	pci_disable_device(pdev);
}

static const struct pci_device_id ids[] = {
	{ PCI_VDEVICE(INTEL, 0x10c9) }, { PCI_VDEVICE(INTEL, 0x10ca) }, {}
};

static struct pci_driver pci = {
	.name = "testnic",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.sriov_configure = pci_sriov_configure_simple,
};

static int soft_num_vf(struct device *dev)
{
	return soft_vfs;
}

static struct bus_type soft_bus = { .name = "testnic", .num_vf = soft_num_vf };

static void soft_release(struct device *dev)
{
	kfree(dev);
}

static struct net_device *soft;

static int soft_add(void)
{
	struct device *parent;
	int err;

	soft_vfs = min(soft_vfs, MAX_VFS);
	err = bus_register(&soft_bus);
	if (err)
		return err;
	parent = kzalloc(sizeof(*parent), GFP_KERNEL);
	if (!parent) {
		err = -ENOMEM;
		goto no_device;
	}
	parent->bus = &soft_bus;
	parent->release = soft_release;
	dev_set_name(parent, "testnic0");
	err = device_register(parent);
	if (err) {
		put_device(parent);
		goto no_device;
	}
	soft = make(parent, soft_vfs, enic ? &enic_ops : &pf_ops);
	if (IS_ERR(soft)) {
		err = PTR_ERR(soft);
		goto no_netdev;
	}
	strscpy(soft->name, "testnic0", IFNAMSIZ);
	err = register_netdev(soft);
	if (!err)
		return 0;
	free_netdev(soft);
no_netdev:
	device_unregister(parent);
no_device:
	soft = NULL;
	bus_unregister(&soft_bus);
	return err;
}

static void soft_del(void)
{
	struct device *parent;

	if (!soft)
		return;
	parent = soft->dev.parent;
	unregister_netdev(soft);
	free_netdev(soft);
	device_unregister(parent);
	bus_unregister(&soft_bus);
}

static int __init testnic_init(void)
{
	int err = soft_vfs > 0 ? soft_add() : 0;

	if (!err) {
		err = pci_register_driver(&pci);
		if (err)
			soft_del();
	}
	return err;
}

static void __exit testnic_exit(void)
{
	pci_unregister_driver(&pci);
	soft_del();
}

module_init(testnic_init);
module_exit(testnic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Network card for tests of SR-IOV and 802.1Qbh");
