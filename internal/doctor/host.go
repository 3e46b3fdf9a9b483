package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"

	nft "github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/vmm"
)

// Host is what the checks ask. A nil field asks the real host.
type Host struct {
	VMM        vmm.Host
	UID        int // read only beside a LookPath, else the caller's
	LookPath   func(name string) (string, error)
	Output     func(ctx context.Context, path string, args ...string) ([]byte, error)
	ReadFile   func(path string) ([]byte, error)
	ReadDir    func(path string) ([]fs.DirEntry, error)
	Writable   func(path string) bool
	Free       func(path string) (bytes, device uint64, err error)
	MakeTap    func() error
	ListTables func() error
	Addresses  func() ([]Link, error)
}

func (h Host) real() Host {
	if h.LookPath != nil {
		return h
	}
	return Host{
		VMM:        h.VMM,
		UID:        os.Geteuid(),
		LookPath:   exec.LookPath,
		Output:     output,
		ReadFile:   os.ReadFile,
		ReadDir:    os.ReadDir,
		Writable:   func(path string) bool { return unix.Access(path, unix.W_OK) == nil },
		Free:       free,
		MakeTap:    makeTap,
		ListTables: listTables,
		Addresses:  addresses,
	}
}

func free(path string) (bytes, device uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), st.Dev, nil
}

// makeTap makes a tap that is gone when its descriptor is closed.
func makeTap() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("bangerdoc%d")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	return nil
}

func listTables() error {
	conn, err := nft.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTables()
	return err
}

func addresses() ([]Link, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, device := range devices {
		addrs, err := device.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				links = append(links, Link{device.Name, prefix.Masked()})
			}
		}
	}
	return links, nil
}
