package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// addTap makes the slot's tap, with the flags that a VMM asks for when it opens
// it, belonging to the slot's user, and makes it a port of the bridge that
// speaks to the host alone. On one that is there it only sets all of that
// again.
func addTap(c Config, slot int) error {
	name := c.tap(slot)
	if err := openTap(name, c.UIDBase+slot); err != nil {
		return err
	}
	tap, err := indexOf(name)
	if err != nil {
		return err
	}
	bridge, err := indexOf(c.Bridge)
	if err != nil {
		return err
	}
	if err := enslave(tap, bridge); err != nil {
		return fmt.Errorf("cannot make it a port of %s: %w", c.Bridge, err)
	}
	if err := confine(tap); err != nil {
		return fmt.Errorf("cannot confine it on %s: %w", c.Bridge, err)
	}
	if err := disableIPv6(name); err != nil {
		return err
	}
	return raise(tap)
}

// openTap makes a tap that stays when it is closed. A VMM that has it open
// already is its maker, and it is well.
func openTap(name string, uid int) error {
	tun, err := os.OpenFile(tunDevice, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer tun.Close()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	fd := int(tun.Fd())
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return nil
		}
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, uid); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
}

// enslave is one message for what else would be two.
func enslave(tap, bridge int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(tap)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	return execute(req)
}

// confine sets the port so that nothing is learned from it, nothing reaches it
// but what is addressed to its MAC, and nothing goes from it to another port of
// its kind.
func confine(tap int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(tap)
	req.AddData(msg)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for attr, on := range map[int]byte{
		nl.IFLA_BRPORT_ISOLATED:      1,
		nl.IFLA_BRPORT_PROTECT:       1, // never a root port
		nl.IFLA_BRPORT_LEARNING:      0,
		nl.IFLA_BRPORT_UNICAST_FLOOD: 0,
		nl.IFLA_BRPORT_MCAST_FLOOD:   0,
		nl.IFLA_BRPORT_BCAST_FLOOD:   0,
	} {
		port.AddRtAttr(attr, []byte{on})
	}
	req.AddData(port)
	return execute(req)
}

func raise(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	return execute(req)
}

func execute(req *nl.NetlinkRequest) error {
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
