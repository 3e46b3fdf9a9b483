//go:build hosttest || vmtest || firecracker

package fctest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

// realKernel is a target with a real guest. Its kernel is in the directory
// that BANGER_TEST_KERNEL names, else where banger keeps its default one, and
// BANGER_TEST_GUEST names the guest's program where there is no Go to build it.
func realKernel(t *testing.T, bin string) fctest.Target {
	t.Helper()
	dir := os.Getenv("BANGER_TEST_KERNEL")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(home, ".local/share/banger/kernels/generic-6.12")
	}
	target := fctest.Target{
		Bin: bin, Kernel: filepath.Join(dir, "vmlinux"), Initrd: filepath.Join(dir, "initramfs"),
		Guest: os.Getenv("BANGER_TEST_GUEST"), BootTimeout: 3 * time.Minute,
	}
	if _, err := os.Stat(target.Kernel); err != nil {
		t.Fatalf("these tests boot guests: let banger fetch its default kernel first, or name another kernel's directory in BANGER_TEST_KERNEL (%v)", err)
	}
	return target
}

// inNetns runs a test in this program started anew, in a network namespace
// of its own with a tap. It needs root.
func inNetns(t *testing.T, test func(t *testing.T, tap string)) {
	t.Helper()
	if os.Getenv("FCTEST_NETNS") == t.Name() {
		test(t, makeTap(t))
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "FCTEST_NETNS="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	output, err := cmd.CombinedOutput()
	t.Logf("%s", output)
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Errorf("in a network namespace: %v", err)
	}
}

// makeTap makes a tap as banger's network does: up, and with one queue.
func makeTap(t *testing.T) string {
	t.Helper()
	const name = "fctest0"
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
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
	return name
}
