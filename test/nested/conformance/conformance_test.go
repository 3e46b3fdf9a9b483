//go:build nested

// Package conformance runs the suite that every VMM passes on the firecracker
// that FIRECRACKER_BIN names. It is a program of its own because it runs where
// there is no Go: BANGER_TEST_KERNEL names the kernel's directory,
// BANGER_TEST_INITRAMFS its initramfs and BANGER_TEST_GUEST the guest's program.
package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
	"github.com/banger-vm/banger/internal/testenv"
)

func TestMain(m *testing.M) {
	if err := testenv.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestAPI(t *testing.T) {
	fctest.Run(t, fctest.Target{Bin: os.Getenv("FIRECRACKER_BIN")})
}

func TestGuest(t *testing.T) {
	fctest.RunGuest(t, fctest.Target{
		Bin:         os.Getenv("FIRECRACKER_BIN"),
		Kernel:      filepath.Join(os.Getenv("BANGER_TEST_KERNEL"), "vmlinux"),
		Initrd:      os.Getenv("BANGER_TEST_INITRAMFS"),
		Guest:       os.Getenv("BANGER_TEST_GUEST"),
		Tap:         makeTap(t),
		BootTimeout: 3 * time.Minute,
	})
}

// makeTap makes a tap as banger's network does: up, and with one queue.
func makeTap(t *testing.T) string {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "fctest0"
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
	for _, f := range tap.Fds {
		f.Close()
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		t.Fatal(err)
	}
	return attrs.Name
}
