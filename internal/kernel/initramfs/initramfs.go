// Package initramfs writes the little root filesystem that a guest's kernel
// starts with: banger-init, the agent, and the modules that the root disk and
// the link to the host need.
//
// The archive is a "newc" cpio (kernel documentation,
// driver-api/early-userspace/buffer-format.rst) and is not compressed: reading
// a few more megabytes from the host's page cache costs less than unpacking
// them in a guest that runs in software.
package initramfs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// Contents says what goes into an initramfs.
type Contents struct {
	Init    string // path of the banger-init binary
	Agent   string // path of the banger-vsock-agent binary
	Modules []Module
}

// Module is a kernel module that is loaded before the root disk is mounted or
// the agent is started.
type Module struct {
	Path string   // of the uncompressed file
	Name string   // its file name in the initramfs: "virtio_blk.ko"
	Deps []string // the file names of those that must be loaded before it
}

// directories are the mount points that banger-init expects.
var directories = []string{"dev", "proc", "sys", "run", "mnt", "modules"}

// Write writes the initramfs to w. The same contents give the same bytes.
func Write(w io.Writer, c Contents) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	a := &archive{w: buffered}
	for _, dir := range directories {
		a.entry(entry{name: dir, mode: modeDir | 0o755})
	}
	// The kernel opens the console for its first process before that process
	// can mount anything.
	a.entry(entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})
	a.file("init", 0o755, c.Init)
	a.file("agent", 0o755, c.Agent)
	a.data("modules/order", 0o644, order(c.Modules))
	for _, m := range c.Modules {
		a.file("modules/"+m.Name, 0o644, m.Path)
	}
	a.entry(entry{name: trailer})
	a.pad(512)
	if a.err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", a.err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", err)
	}
	return nil
}

// order is the text of /modules/order: a line for each module, its file name
// and then those that it waits for.
func order(modules []Module) []byte {
	var text strings.Builder
	for _, m := range modules {
		text.WriteString(strings.Join(append([]string{m.Name}, m.Deps...), " ") + "\n")
	}
	return []byte(text.String())
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000

	trailer = "TRAILER!!!"
)

// entry is one file of the archive.
type entry struct {
	name         string
	mode         uint32
	size         int64
	major, minor uint32 // of a device
}

// archive writes entries until the first error.
type archive struct {
	w     io.Writer
	err   error
	at    int64  // bytes written
	inode uint32 // of the last entry: two files with the same would be links
}

func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.at += int64(n)
	a.err = err
}

func (a *archive) pad(to int64) {
	a.write(make([]byte, (to-a.at%to)%to))
}

// entry writes a header: the magic, then thirteen fields of eight hexadecimal
// digits, then the name and its NUL, all padded to four bytes.
func (a *archive) entry(e entry) {
	a.inode++
	fields := []uint32{
		a.inode, e.mode, 0, 0, // inode, mode, uid, gid
		1, 0, uint32(e.size), 0, // links, mtime, size, device major
		0, e.major, e.minor, // device minor, rdev major, rdev minor
		uint32(len(e.name) + 1), 0, // length of the name, checksum
	}
	header := "070701"
	for _, f := range fields {
		header += fmt.Sprintf("%08X", f)
	}
	a.write([]byte(header + e.name + "\x00"))
	a.pad(4)
}

func (a *archive) data(name string, perm uint32, data []byte) {
	a.entry(entry{name: name, mode: modeFile | perm, size: int64(len(data))})
	a.write(data)
	a.pad(4)
}

// file writes the file at path.
func (a *archive) file(name string, perm uint32, path string) {
	if a.err != nil {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		a.err = err
		return
	}
	a.data(name, perm, data)
}
