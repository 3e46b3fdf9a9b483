package firewall

import (
	"context"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/nftables"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// firewalld's names on D-Bus, of firewalld.dbus(5), and its zone that lets
// everything through.
const (
	firewalldName = "org.fedoraproject.FirewallD1"
	firewalldPath = "/org/fedoraproject/FirewallD1"
	zoneInterface = firewalldName + ".zone"
	trustedZone   = "trusted"
)

// answerTime bounds a call: a reload of firewalld takes a second or two, and
// calls wait for its end.
const answerTime = 10 * time.Second

// firewalldTable is the table of firewalld's nftables backend. That it is
// there, in this network namespace, is what says that firewalld filters here:
// its bus can be reached from other namespaces too.
var firewalldTable = ruleset.TableID{Family: nftables.TableFamilyINet, Name: "firewalld"}

// ConcernsFirewalld says whether a change of rules by another program is one
// after which [OpenFirewalld] must be called again, such as a reload.
func ConcernsFirewalld(c ruleset.Change) bool { return c.Lost || c.Tables[firewalldTable] }

// OpenFirewalld puts the bridge into firewalld's zone "trusted", for as long as
// firewalld runs, where firewalld filters in this network namespace. It says
// whether it does.
func OpenFirewalld(ctx context.Context, bridge string) (bool, error) {
	there, err := filtersHere()
	if !there || err != nil {
		return false, err
	}
	err = withFirewalld(ctx, func(f firewalld) error {
		zone, err := f.zoneOf(bridge)
		if err != nil || zone == trustedZone {
			return err
		}
		return f.call("changeZoneOfInterface", trustedZone, bridge)
	})
	if err != nil {
		return true, fmt.Errorf("cannot put %s into firewalld's zone %s: %w", bridge, trustedZone, err)
	}
	return true, nil
}

// CloseFirewalld takes the bridge out of the zone again.
func CloseFirewalld(ctx context.Context, bridge string) error {
	there, err := filtersHere()
	if !there || err != nil {
		return err
	}
	err = withFirewalld(ctx, func(f firewalld) error {
		zone, err := f.zoneOf(bridge)
		if err != nil || zone != trustedZone {
			return err
		}
		return f.call("removeInterface", trustedZone, bridge)
	})
	if err != nil {
		return fmt.Errorf("cannot take %s out of firewalld's zone %s: %w", bridge, trustedZone, err)
	}
	return nil
}

func filtersHere() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("cannot open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(firewalldTable.Family)
	if err != nil {
		return false, fmt.Errorf("cannot list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == firewalldTable.Name {
			return true, nil
		}
	}
	return false, nil
}

// firewalld is a connection to it.
type firewalld struct {
	ctx    context.Context
	object dbus.BusObject
}

func withFirewalld(ctx context.Context, do func(firewalld) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot reach the system's D-Bus: %w", err)
	}
	defer conn.Close()
	return do(firewalld{ctx, conn.Object(firewalldName, firewalldPath)})
}

// zoneOf gives the interface's zone, "" for none.
func (f firewalld) zoneOf(link string) (string, error) {
	var zone string
	err := f.object.CallWithContext(f.ctx, zoneInterface+".getZoneOfInterface", dbus.FlagNoAutoStart, link).Store(&zone)
	return zone, err
}

func (f firewalld) call(method, zone, link string) error {
	return f.object.CallWithContext(f.ctx, zoneInterface+"."+method, dbus.FlagNoAutoStart, zone, link).Err
}
