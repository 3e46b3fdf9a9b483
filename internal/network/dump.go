package network

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// consistent lists again when something changed while the kernel listed, which
// on a host with much coming and going is every now and then.
func consistent[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 30
	for range tries {
		found, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
	return list()
}

func allRoutes() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) }

func allAddresses() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) }
