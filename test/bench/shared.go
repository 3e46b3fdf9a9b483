package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// secondVM shows what a second VM of an image takes: of the page cache, which
// has the image once, and of the disk.
func secondVM(_ context.Context, h *host) ([]row, error) {
	base := filepath.Join(h.store, "images", "debian-bookworm", "rootfs.ext4")
	if err := evict(base); err != nil {
		return nil, err
	}
	first, err := h.started("first")
	if err != nil {
		return nil, err
	}
	defer h.run("vm", "delete", "first")
	before, err := cachedFor(first)
	if err != nil {
		return nil, err
	}
	second, err := h.started("second")
	if err != nil {
		return nil, err
	}
	defer h.run("vm", "delete", "second")
	after, err := cachedFor(first, second)
	if err != nil {
		return nil, err
	}
	took, written, err := h.writes(second)
	if err != nil {
		return nil, err
	}
	mib := func(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
	return []row{
		{
			name: "page cache of all that two VMs of an image read", value: mib(after),
			against: "of what one alone reads: " + mib(before), ratio: float64(after) / float64(before), limit: 1.2,
		},
		{
			name: "disk that a second VM of an image takes", value: mib(took),
			against: "what its guest has written: " + mib(written), ratio: float64(took) / float64(written), limit: 1,
		},
	}, nil
}

// started makes a VM and tells of it when its system is up.
func (h *host) started(name string) (api.VM, error) {
	var vm api.VM
	if err := h.run("vm", "create", "--name", name, "--wait", "system"); err != nil {
		return vm, err
	}
	out, err := h.banger("vm", "show", "--json", name).Output()
	if err != nil {
		return vm, fmt.Errorf("cannot ask for VM %s: %w", name, err)
	}
	return vm, json.Unmarshal(out, &vm)
}

// evict takes a file out of the page cache.
func evict(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// cachedFor is how much of the files that VMs have open is in the page cache,
// each file counted once: but for the guests' memory and their own writes.
func cachedFor(vms ...api.VM) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var sum int64
	for _, vm := range vms {
		for _, path := range openFiles(vm.VMM.PID) {
			var stat unix.Stat_t
			name, _ := os.Readlink(path)
			if unix.Stat(path, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG || seen[inode{stat.Dev, stat.Ino}] ||
				strings.HasPrefix(name, "/memfd:") || isOwn(vm, stat) {
				continue
			}
			seen[inode{stat.Dev, stat.Ino}] = true
			cached, err := resident(path)
			if err != nil {
				return 0, fmt.Errorf("cannot look at the page cache of %s: %w", name, err)
			}
			sum += cached
		}
	}
	return sum, nil
}

// isOwn says whether a file is the VM's copy-on-write disk.
func isOwn(vm api.VM, file unix.Stat_t) bool {
	var own unix.Stat_t
	return unix.Stat(cowOf(vm), &own) == nil && own.Dev == file.Dev && own.Ino == file.Ino
}

func cowOf(vm api.VM) string { return filepath.Join(vm.Dir, "disk.cow") }

// openFiles are the files that a process and its children have open.
func openFiles(pid int) []string {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, child := range children(pid) {
		files = append(files, openFiles(child)...)
	}
	return files
}

// resident is how many bytes of a file are in the page cache.
func resident(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	mapped, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_NONE, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(mapped) }()
	page := os.Getpagesize()
	pages := make([]byte, (len(mapped)+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		return 0, errno
	}
	var sum int64
	for _, p := range pages {
		sum += int64(p&1) * int64(page)
	}
	return sum, nil
}

// writes is what a VM's copy-on-write disk takes of the host's, and what the
// guest has written to it.
func (h *host) writes(vm api.VM) (took, written int64, err error) {
	out, err := h.banger("vm", "exec", vm.Name, "--", "sh", "-c", "sync; cat /sys/block/vdb/stat").Output()
	if err != nil {
		return 0, 0, fmt.Errorf("cannot ask the guest what it wrote: %w", err)
	}
	fields := strings.Fields(string(out))
	const sectorsWritten = 6 // see Documentation/block/stat.rst of the Linux kernel
	if len(fields) <= sectorsWritten {
		return 0, 0, fmt.Errorf("the guest's disk says %q of itself", out)
	}
	sectors, err := strconv.ParseInt(fields[sectorsWritten], 10, 64)
	if err != nil {
		return 0, 0, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(cowOf(vm), &stat); err != nil {
		return 0, 0, err
	}
	return stat.Blocks * 512, sectors * 512, nil
}
