package debian

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxUnpacked bounds what one .deb may unpack to.
const maxUnpacked = 16 << 30

// Unpack puts the files of a .deb (deb(5)) into dir, which must exist: owners,
// modes, times, links and device nodes as in the package. No name in the
// package leads outside of dir. Owners and devices need root; another user
// gets all files as their own, and no devices.
//
// It runs no maintainer script and writes nothing of dpkg's database.
func Unpack(ctx context.Context, deb, dir string) error {
	file, err := os.Open(deb)
	if err != nil {
		return fmt.Errorf("cannot open a package: %w", err)
	}
	defer file.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot open the directory to unpack into: %w", err)
	}
	defer root.Close()
	data, suffix, err := debMember(bufio.NewReaderSize(file, 1<<16), "data.tar")
	if err != nil {
		return fmt.Errorf("cannot read package %s: %w", deb, err)
	}
	plain, err := decompress(data, suffix)
	if err != nil {
		return fmt.Errorf("cannot read package %s: %w", deb, err)
	}
	defer plain.Close()
	if err := unpackTar(ctx, io.LimitReader(plain, maxUnpacked), root); err != nil {
		return fmt.Errorf("cannot unpack package %s: %w", deb, err)
	}
	return nil
}

// debMember finds the member "<stem><suffix>" of a .deb: an ar archive of
// 60-byte headers, whose first member is "debian-binary" and says "2.0".
func debMember(r io.Reader, stem string) (member io.Reader, suffix string, err error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, "", errors.New("it is no .deb file")
	}
	for first := true; ; first = false {
		name, size, err := arHeader(r)
		if err != nil {
			return nil, "", err
		}
		if first {
			if err := checkFormat(r, name, size); err != nil {
				return nil, "", err
			}
			continue
		}
		if suffix, ok := strings.CutPrefix(name, stem); ok {
			return io.LimitReader(r, size), suffix, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, "", err
		}
	}
}

func checkFormat(r io.Reader, name string, size int64) error {
	if name != "debian-binary" || size > 64 {
		return errors.New("it is no .deb file: debian-binary is missing")
	}
	text := make([]byte, size+size%2)
	if _, err := io.ReadFull(r, text); err != nil {
		return err
	}
	if !strings.HasPrefix(string(text), "2.") {
		return fmt.Errorf("its format is %.10q, not 2.0", text)
	}
	return nil
}

// arHeader reads name[16] mtime[12] uid[6] gid[6] mode[8] size[10] "`\n".
func arHeader(r io.Reader) (name string, size int64, err error) {
	header := make([]byte, 60)
	if _, err := io.ReadFull(r, header); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it has no such member")
		}
		return "", 0, err
	}
	if string(header[58:]) != "`\n" {
		return "", 0, errors.New("its ar header is broken")
	}
	size, err = strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
	if err != nil || size < 0 {
		return "", 0, errors.New("its ar header has no size")
	}
	return strings.TrimSuffix(strings.TrimSpace(string(header[:16])), "/"), size, nil
}

// unpackTar writes the entries of a tar stream below root.
func unpackTar(ctx context.Context, r io.Reader, root *os.Root) error {
	u := &unpacker{root: root, owners: os.Geteuid() == 0, buf: make([]byte, 1<<17)}
	for entries := tar.NewReader(r); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := u.entry(h, entries); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

type unpacker struct {
	root   *os.Root
	owners bool
	buf    []byte
}

// entry writes one entry; os.Root refuses names that lead outside.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	if name == "." {
		return nil
	}
	if h.Typeflag == tar.TypeDir {
		return u.directory(name, h)
	}
	if err := u.clear(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.regular(name, h, content)
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.lchown(name, h)
	case tar.TypeLink:
		return u.root.Link(path.Clean(strings.TrimLeft(h.Linkname, "/")), name)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(name, h)
	}
	return fmt.Errorf("entry of unknown type %q", h.Typeflag)
}

// directory makes a directory. A link to one (/bin, in the merged layout)
// stays; one that is there gets owner and mode, since the package unpacked
// beside this one may have made it on its way to a file.
func (u *unpacker) directory(name string, h *tar.Header) error {
	err := u.root.Mkdir(name, 0o755)
	if errors.Is(err, fs.ErrNotExist) { // a package that leaves the parents out
		err = u.root.MkdirAll(name, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		info, err := u.root.Lstat(name)
		if err != nil {
			return err
		}
		if info.Mode().Type() == fs.ModeSymlink {
			return u.checkLink(name)
		}
		if !info.IsDir() {
			return errors.New("a directory would replace a file")
		}
	} else if err != nil {
		return err
	}
	if err := u.lchown(name, h); err != nil {
		return err
	}
	return u.root.Chmod(name, mode(h))
}

// checkLink wants the link in a directory's place to lead to a directory.
func (u *unpacker) checkLink(name string) error {
	if info, err := u.root.Stat(name); err != nil || !info.IsDir() {
		return errors.New("a directory would replace a link")
	}
	return nil
}

// clear makes room for a file, and makes the directories above it.
func (u *unpacker) clear(name string) error {
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return u.root.MkdirAll(path.Dir(name), 0o755)
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("a file would replace a directory")
	}
	return u.root.Remove(name)
}

// regular writes a file; the owner comes before the mode, since chown drops
// the set-user-id bit.
func (u *unpacker) regular(name string, h *tar.Header, content io.Reader) error {
	file, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{file}, content, u.buf); err != nil {
		return err
	}
	if u.owners {
		if err := file.Chown(h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if err := file.Chmod(mode(h)); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

func (u *unpacker) lchown(name string, h *tar.Header) error {
	if !u.owners {
		return nil
	}
	return u.root.Lchown(name, h.Uid, h.Gid)
}

// node makes a device or a FIFO. os.Root has no mknod, but it gives the
// directory above, which no name inside can lead out of.
func (u *unpacker) node(name string, h *tar.Header) error {
	if !u.owners && h.Typeflag != tar.TypeFifo {
		return nil
	}
	parent, err := u.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	device := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if err := unix.Mknodat(int(parent.Fd()), path.Base(name), kind|0o600, int(device)); err != nil {
		return fmt.Errorf("cannot make a node: %w", err)
	}
	if err := u.lchown(name, h); err != nil {
		return err
	}
	return u.root.Chmod(name, mode(h))
}

// mode is the permission bits with set-user-id, set-group-id and sticky.
func mode(h *tar.Header) fs.FileMode {
	return h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}
