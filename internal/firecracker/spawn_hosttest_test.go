//go:build hosttest

package firecracker_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker"
	"golang.org/x/sys/unix"
)

// These tests need root: they hold how a VMM is confined.

// aUID is nobody on any host.
const aUID = 720123

// confined is a VMM as the daemon starts it: another user, in a directory
// below one that only root may enter, with files from elsewhere.
func confined(t *testing.T) firecracker.Spawn {
	t.Helper()
	s := plain(t)
	top := s.Dir
	s.UID, s.GID = aUID, aUID
	s.Dir = filepath.Join(top, "vm")
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.Dir, aUID, aUID); err != nil {
		t.Fatal(err)
	}
	for name, owner := range map[string]int{"base.ext4": 0, "disk.cow": aUID} {
		path := filepath.Join(top, name)
		if err := os.WriteFile(path, []byte("this is "+name), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	s.Binds = []firecracker.Bind{
		{Source: filepath.Join(top, "base.ext4"), Name: "base", ReadOnly: true},
		{Source: filepath.Join(top, "disk.cow"), Name: "cow"},
	}
	s.Devices = []string{"/dev/net/tun"}
	return s
}

func mounts(t *testing.T) string { return procFile(t, os.Getpid(), "mountinfo") }

func TestTheVMMSeesWhatIsBound(t *testing.T) {
	before := mounts(t)
	s := confined(t)
	p := mustStart(t, s)
	if mounts(t) != before {
		t.Error("the daemon's own mounts have changed")
	}
	// The VMM opens its files by itself, as that user, when they are named.
	ctx := patient(t)
	for _, d := range []firecracker.Drive{
		{DriveID: "base", PathOnHost: "base", IsReadOnly: new(true)},
		{DriveID: "cow", PathOnHost: "cow", CacheType: firecracker.CacheWriteback},
	} {
		if err := p.Client().PutDrive(ctx, d); err != nil {
			t.Error(err)
		}
	}
	err := p.Client().PutDrive(ctx, firecracker.Drive{DriveID: "base", PathOnHost: "base"})
	if message := firecracker.FaultMessage(err); !strings.Contains(message, "Read-only file system") && !strings.Contains(message, "Permission denied") {
		t.Errorf("writing to what is bound read-only: %v", err)
	}
	for name, text := range map[string]string{"base": "this is base.ext4", "cow": "this is disk.cow"} {
		inside := fmt.Sprintf("/proc/%d/root%s/%s", p.Identity().PID, s.Dir, name)
		if got, err := os.ReadFile(inside); err != nil || string(got) != text {
			t.Errorf("the VMM sees %q (%v) as %s", got, err, name)
		}
		if got, err := os.ReadFile(filepath.Join(s.Dir, name)); err != nil || len(got) != 0 {
			t.Errorf("everybody sees %q (%v) as %s", got, err, name)
		}
	}
	if err := p.Client().PutVsock(ctx, firecracker.Vsock{GuestCID: 3, UDSPath: "v.sock"}); err != nil {
		t.Error(err)
	}
}

func TestTheVMMIsNobody(t *testing.T) {
	p := mustStart(t, confined(t))
	status := procFile(t, p.Identity().PID, "status")
	for _, line := range []string{
		fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", aUID), fmt.Sprintf("Gid:\t%d\t%[1]d\t%[1]d\t%[1]d", aUID),
		"Groups:\t \n", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1",
	} {
		if !strings.Contains(status, line) {
			t.Errorf("its status has no line %q:\n%s", line, status)
		}
	}
	var socket unix.Stat_t
	if err := unix.Stat(filepath.Join(p.Dir(), firecracker.APISocket), &socket); err != nil {
		t.Fatal(err)
	}
	if socket.Uid != aUID || socket.Mode&0o077 != 0 {
		t.Errorf("its API socket belongs to %d and has mode %o", socket.Uid, socket.Mode&0o777)
	}
}

func TestTheVMMHasDevicesOfItsOwn(t *testing.T) {
	p := mustStart(t, confined(t))
	var host, own unix.Stat_t
	if err := unix.Stat("/dev/net/tun", &host); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root/dev/net/tun", p.Identity().PID), &own); err != nil {
		t.Fatal(err)
	}
	if own.Rdev != host.Rdev || own.Uid != aUID || own.Mode&0o777 != 0o600 {
		t.Errorf("its /dev/net/tun is device %x of user %d, mode %o; the host's is device %x", own.Rdev, own.Uid, own.Mode&0o777, host.Rdev)
	}
	if own.Ino == host.Ino && own.Dev == host.Dev {
		t.Error("its /dev/net/tun is the host's")
	}
}

func TestAPlantedLinkIsNotFollowed(t *testing.T) {
	s := confined(t)
	target := filepath.Join(filepath.Dir(s.Dir), "victim")
	if err := os.WriteFile(target, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"base", firecracker.Log, firecracker.ErrorLog, "dev"} {
		planted := filepath.Join(s.Dir, name)
		if err := os.RemoveAll(planted); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, planted); err != nil {
			t.Fatal(err)
		}
		if p, err := firecracker.Start(patient(t), s); err == nil {
			p.Kill(patient(t))
			p.Release()
		}
		info, err := os.Stat(target)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(target)
		if err != nil || string(text) != "untouched" || info.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("with a link for %s: %q %v, of user %d", name, text, err, info.Sys().(*syscall.Stat_t).Uid)
		}
		os.Remove(planted)
	}
}

func TestABindGoesIntoTheDirectoryOnly(t *testing.T) {
	s := confined(t)
	s.Binds[0].Name = "../base"
	if _, err := firecracker.Start(patient(t), s); err == nil || !strings.Contains(err.Error(), "../base") {
		t.Errorf("the error is %v", err)
	}
}

// TestInAUserNamespace runs the tests of this file in a user namespace with
// a network namespace, where root may not make device nodes.
func TestInAUserNamespace(t *testing.T) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 20}}
	cmd := exec.Command(self(t), "-test.run", "^(TestTheVMMSeesWhatIsBound|TestTheVMMIsNobody|TestTheHostsDevicesServe|TestAdoptFindsItAgain|TestKillEndsWhatItStarted)$", "-test.v")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
	}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	if n := strings.Count(string(output), "--- PASS"); n != 5 {
		t.Errorf("%d tests passed there, not 5:\n%s", n, output)
	}
}

// TestTheHostsDevicesServe holds in a user namespace, where nodes of its own
// cannot be had; elsewhere that is TestTheVMMHasDevicesOfItsOwn's matter.
func TestTheHostsDevicesServe(t *testing.T) {
	p := mustStart(t, confined(t))
	var host, own unix.Stat_t
	if err := unix.Stat("/dev/net/tun", &host); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root/dev/net/tun", p.Identity().PID), &own); err != nil {
		t.Fatal(err)
	}
	if own.Rdev != host.Rdev {
		t.Errorf("its /dev/net/tun is device %x, the host's is %x", own.Rdev, host.Rdev)
	}
}
