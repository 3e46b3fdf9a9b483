//go:build hosttest

package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// run runs a program that must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// startRegistry starts Debian's docker-registry on the loopback and gives its
// host. With a password, its user "u" needs it.
func startRegistry(t *testing.T, password string) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	config := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %s}\n", dir, host)
	if password != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, "htpasswd", "u:"+string(hash)+"\n")
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", dir)
	}
	put(t, dir, "config.yml", config)
	server := exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	said, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "listening on") {
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	return host
}

// workbench is where the images of the tests are made: an OCI layout, and a
// registry that they are pushed to.
type workbench struct {
	t      *testing.T
	layout string
	host   string
}

func newWorkbench(t *testing.T, host string) *workbench {
	t.Helper()
	config := t.TempDir()
	put(t, config, "config.json", "{}")
	t.Setenv("DOCKER_CONFIG", config)
	w := &workbench{t: t, layout: filepath.Join(t.TempDir(), "layout"), host: host}
	run(t, "umoci", "init", "--layout", w.layout)
	return w
}

// layers makes an image of layers by umoci.
func (w *workbench) layers(name string, layers ...[]byte) {
	w.t.Helper()
	run(w.t, "umoci", "new", "--image", w.layout+":"+name)
	for _, l := range layers {
		file := filepath.Join(w.t.TempDir(), "layer.tar")
		if err := os.WriteFile(file, l, 0o600); err != nil {
			w.t.Fatal(err)
		}
		run(w.t, "umoci", "raw", "add-layer", "--image", w.layout+":"+name, file)
	}
}

// push copies an image to the registry and gives its reference there.
func (w *workbench) push(name string, args ...string) string {
	w.t.Helper()
	reference := w.host + "/" + name + ":1"
	run(w.t, "skopeo", append(append([]string{"copy", "-q", "--dest-tls-verify=false"}, args...), "oci:"+w.layout+":"+name, "docker://"+reference)...)
	return reference
}

// reference is what umoci makes of an image.
func (w *workbench) reference(name string) map[string]string {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "rootfs")
	run(w.t, "umoci", "raw", "unpack", "--image", w.layout+":"+name, dir)
	return listing(w.t, dir)
}

// mounted mounts a filesystem, read-only.
func mounted(t *testing.T, rootfs string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-o", "loop,ro", rootfs, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// listing is one line for each entry of a tree, by its path: type and mode,
// owner, device, size, time, links, target, extended attributes, hash.
func listing(t *testing.T, root string) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		if err != nil || name == "" || name == "/lost+found" {
			if name == "/lost+found" {
				return fs.SkipDir
			}
			return err
		}
		list[name], err = line(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func line(path string) (string, error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%o %d:%d", s.Mode, s.Uid, s.Gid)
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer content.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, content); err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d bytes %x, %d links", s.Size, sum.Sum(nil)[:8], s.Nlink)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += " -> " + target
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" %d:%d", unix.Major(s.Rdev), unix.Minor(s.Rdev))
	}
	attributes, err := xattrs(path)
	return fmt.Sprintf("%s at %d.%09d%s", line, s.Mtim.Sec, s.Mtim.Nsec, attributes), err
}

func xattrs(path string) (string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return "", err
	}
	var list []string
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", err
		}
		list = append(list, fmt.Sprintf(" %s=%x", name, value[:n]))
	}
	slices.Sort(list)
	return strings.Join(list, ""), nil
}

// compare holds an image's tree against the reference's.
func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	wrong := 0
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if got[path] != want[path] {
			if wrong++; wrong <= 10 {
				t.Errorf("%s:\n got %s\nwant %s", path, got[path], want[path])
			}
		}
	}
	if wrong > 10 {
		t.Errorf("and %d more of %d", wrong-10, len(all))
	}
	if len(want) == 0 {
		t.Error("the reference is empty")
	}
}

// hdr is an entry of a hand-made layer; content is a file's.
type hdr struct {
	tar.Header
	content string
}

var then = time.Unix(1_234_567_890, 987_654_321)

func entry(flag byte, name string, mode int64) hdr {
	return hdr{Header: tar.Header{Typeflag: flag, Name: name, Mode: mode, ModTime: then}}
}

func tarFile(name, content string) hdr {
	h := entry(tar.TypeReg, name, 0o644)
	h.content = content
	return h
}

func tarLink(flag byte, name, target string) hdr {
	h := entry(flag, name, 0o777)
	h.Linkname = target
	return h
}

func tarLayer(t *testing.T, entries ...hdr) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		e.Size, e.Format = int64(len(e.content)), tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// dirs gives entries for directories: umoci gives those that no entry is there
// for the time of the unpacking.
func dirs(names ...string) []hdr {
	var list []hdr
	for _, name := range names {
		list = append(list, entry(tar.TypeDir, name+"/", 0o755))
	}
	return list
}

// legal are layers with all that an image may have.
func legal(t *testing.T) [][]byte {
	t.Helper()
	attributes := tarFile("caps", "may ping")
	attributes.Mode, attributes.Uid, attributes.Gid = 0o4755, 100, 70_000
	attributes.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.note":           strings.Repeat("long ", 100),
		"SCHILY.xattr.trusted.x":           "y",
	}
	null, disk := entry(tar.TypeChar, "null", 0o666), entry(tar.TypeBlock, "disk", 0o660)
	null.Devmajor, null.Devminor, disk.Devmajor, disk.Devminor = 1, 3, 259, 70_000
	sticky := entry(tar.TypeDir, "tmp/", 0o1777)
	setgid := entry(tar.TypeDir, "mail/", 0o2775)
	setgid.Gid = 8
	lower := append(dirs("usr", "usr/lib", "etc", "opaque", "opaque/a", "gone", "gone/b", "both", "file-later", "a", "a/b", "redone", "latin"),
		sticky, setgid, attributes, null, disk, entry(tar.TypeFifo, "pipe", 0o600),
		tarLink(tar.TypeSymlink, "lib", "usr/lib"), tarLink(tar.TypeSymlink, "abs", "/usr/lib"), tarLink(tar.TypeSymlink, "out", "../../../etc/passwd"),
		tarLink(tar.TypeSymlink, "loop", "loop"), tarLink(tar.TypeSymlink, "deep", strings.Repeat("x/", 1000)+"y"), tarLink(tar.TypeSymlink, "a/b/up", "../../usr/lib"),
		tarFile("etc/passwd", "root"), tarFile("/etc/absolute", "absolute"), tarFile("./etc/dotted", "dotted"),
		tarFile("opaque/a/old", "old"), tarFile("opaque/old", "old"), tarFile("gone/b/c", "c"), tarFile("both/kept", "kept"), tarFile("both/hidden", "hidden"),
		tarFile("twice", "first"), tarFile("twice", "second"), tarFile("file-later/x", "x"), tarFile("dir-later", "x"), tarFile("redone/old", "old"),
		tarLink(tar.TypeLink, "etc/hard", "etc/passwd"), tarLink(tar.TypeLink, "abs-hard", "/etc/passwd"), tarLink(tar.TypeLink, "hard-to-link", "lib"),
		tarFile(strings.Repeat("n", 255), "long name"), tarFile("latin/\xe9t\xe9", "not UTF-8"), tarFile("empty", ""),
		tarFile("big", strings.Repeat("0123456789abcdef", 100_000)), tarFile("zeros", strings.Repeat("\x00", 300_000)+"end"))
	middle := append(dirs("opaque"), tarFile("opaque/new", "new"), tarFile("opaque/.wh..wh..opq", ""), tarFile(".wh.gone", ""), tarFile("both/.wh.hidden", ""),
		tarFile("lib/through-link", "x"), tarFile("abs/through-absolute", "x"), tarFile("a/b/up/through-relative", "x"), tarFile("file-later", "now a file"))
	middle = append(middle, dirs("dir-later", "redone")...)
	middle = append(middle, tarFile("dir-later/y", "y"), tarFile(".wh.redone", ""), tarFile("redone/new", "new"), tarLink(tar.TypeLink, "lower-hard", "etc/dotted"))
	upper := []hdr{tarFile("etc/passwd", "changed"), tarFile(".wh.never-there", ""), tarFile("lib/.wh.through-link", ""), tarLink(tar.TypeSymlink, "twice", "now/a/link")}
	upper = append(upper, dirs("file-later", "lib", "redone")...) // umoci gives redone another time when it takes things out of it
	upper = append(upper, tarFile("file-later/back", "a directory again"), tarFile("lib/own", "no link any more"))
	return [][]byte{tarLayer(t, lower...), tarLayer(t, middle...), tarLayer(t, upper...)}
}

// crowd is a layer with 100,000 entries in one directory.
func crowd(t *testing.T) []byte {
	t.Helper()
	entries := dirs("crowd")
	for i := range 100_000 {
		entries = append(entries, entry(tar.TypeReg, fmt.Sprintf("crowd/member-number-%d", i), 0o644))
	}
	return tarLayer(t, entries...)
}

// extracted unpacks Debian packages into a tree whose /bin, /sbin and /lib are
// links, as those of Debian are.
func extracted(t *testing.T, packages ...string) string {
	t.Helper()
	archive, err := debian.Open(t.Context(), debian.Options{Cache: filepath.Join(sharedCache(), "debian")}, progress.Discard, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	debs, err := archive.Fetch(t.Context(), progress.Discard, packages...)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "usr", name), 0o755), os.Symlink("usr/"+name, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, deb := range debs {
		run(t, "sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar x --keep-directory-symlink -C "$2"`, "sh", deb, dir)
	}
	return dir
}

// debianImage makes an image of two layers by buildah: a Debian out of
// packages, and what a Dockerfile does to such.
func (w *workbench) debianImage(name string) {
	w.t.Helper()
	tree := extracted(w.t, "base-files", "bash", "coreutils", "libc6", "login", "passwd", "util-linux", "mount", "perl-base", "dpkg", "iputils-ping", "openssh-client")
	b := newBuildah(w.t)
	b.run("from", "--name", "one", "scratch")
	root := b.mount("one")
	run(w.t, "cp", "-a", tree+"/.", root)
	b.run("umount", "one")
	b.run("commit", "-q", "one", "base")
	b.run("from", "--name", "two", "--pull-never", "base")
	root = b.mount("two")
	for _, step := range [][]string{
		{"rm", "-r", filepath.Join(root, "usr/share/doc"), filepath.Join(root, "usr/share/man")},
		{"mkdir", filepath.Join(root, "usr/share/doc")},
		{"cp", filepath.Join(root, "usr/bin/ls"), filepath.Join(root, "usr/share/doc/ls")},
		{"chmod", "2755", filepath.Join(root, "usr/share/doc/ls")},
		{"chown", "-R", "1000:1000", filepath.Join(root, "usr/share/doc")},
	} {
		run(w.t, step[0], step[1:]...)
	}
	if err := unix.Setxattr(filepath.Join(root, "usr/share/doc/ls"), "user.note", []byte("x"), 0); err != nil {
		w.t.Fatal(err)
	}
	b.run("umount", "two")
	b.run("config", "--env", "A=b", "--workingdir", "/srv", "--user", "nobody", "--entrypoint", `["/bin/sh"]`, "--cmd", "-i", "two")
	b.run("commit", "-q", "two", "oci:"+w.layout+":"+name)
}

// buildah is one store of its own.
type buildah struct {
	t    *testing.T
	args []string
}

func newBuildah(t *testing.T) *buildah {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "banger-buildah-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(filepath.Join(dir, "root", "overlay"), unix.MNT_DETACH)
		os.RemoveAll(dir)
	})
	b := &buildah{t, []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "overlay"}}
	t.Cleanup(func() { b.run("rm", "--all") })
	return b
}

func (b *buildah) run(args ...string) string {
	b.t.Helper()
	return strings.TrimSpace(run(b.t, "buildah", append(slices.Clone(b.args), args...)...))
}

func (b *buildah) mount(container string) string { b.t.Helper(); return b.run("mount", container) }

// TestPullIsWhatUmociUnpacks pushes images that others made to a registry that
// others wrote, and compares what comes out with what comes out of umoci.
func TestPullIsWhatUmociUnpacks(t *testing.T) {
	w := newWorkbench(t, startRegistry(t, ""))
	busybox := extracted(t, "busybox-static")
	program, err := os.ReadFile(filepath.Join(busybox, "bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	shell := append(dirs("bin", "etc"), tarFile("bin/busybox", string(program)), tarLink(tar.TypeSymlink, "bin/sh", "busybox"), tarFile("etc/alpine-release", "3.20.0\n"))
	w.layers("busybox", tarLayer(t, shell...))
	w.layers("static", tarLayer(t, tarFile("server", string(program))))
	w.layers("legal", legal(t)...)
	w.layers("crowd", crowd(t))
	w.debianImage("debian")

	s := &Store{Dir: t.TempDir(), Cache: t.TempDir()}
	for name, compress := range map[string]string{"busybox": "gzip", "static": "gzip", "legal": "zstd", "crowd": "gzip", "debian": "zstd"} {
		t.Run(name, func(t *testing.T) {
			reference := w.push(name, "--dest-compress-format", compress)
			image, err := s.Pull(t.Context(), api.PullImage{Reference: reference, Name: name, Kernel: "k"}, progress.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if image.Reference != reference || image.Kernel != "k" || !image.Managed || image.Source != SourceOCI {
				t.Errorf("got %+v", image)
			}
			run(t, "e2fsck", "-fn", image.Rootfs)
			compare(t, listing(t, mounted(t, image.Rootfs)), w.reference(name))
			again, err := s.Pull(t.Context(), api.PullImage{Reference: reference, Name: name}, progress.Discard)
			if err != nil || !again.Created.Equal(image.Created) {
				t.Errorf("pulled again: %v", err)
			}
		})
	}
	image, err := s.local("debian")
	if err != nil {
		t.Fatal(err)
	}
	if c := image.Config; !slices.Contains(c.Env, "A=b") || c.WorkingDir != "/srv" || c.User != "nobody" || fmt.Sprint(c.Entrypoint, c.Cmd) != "[/bin/sh] [-i]" {
		t.Errorf("its configuration: %+v", c)
	}
	t.Run("archives", func(t *testing.T) { archives(t, w, s) })
	t.Run("index", func(t *testing.T) { index(t, w, s) })
}

// archives pulls from the files that skopeo makes, in both forms.
func archives(t *testing.T, w *workbench, s *Store) {
	want := w.reference("legal")
	for _, form := range []string{"docker-archive", "oci-archive"} {
		file := filepath.Join(t.TempDir(), form+".tar")
		run(t, "skopeo", "copy", "-q", "oci:"+w.layout+":legal", form+":"+file+":example.test/app:1")
		image, err := s.Pull(t.Context(), api.PullImage{Archive: file, Name: form}, progress.Discard)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		if image.renewable() {
			t.Errorf("%s: an image of a file can be had again", form)
		}
		compare(t, listing(t, mounted(t, image.Rootfs)), want)
	}
}

// index pulls by a digest, and from an index that buildah made.
func index(t *testing.T, w *workbench, s *Store) {
	b := newBuildah(t)
	reference := w.host + "/legal:1"
	b.run("manifest", "create", "list")
	b.run("manifest", "add", "--tls-verify=false", "--os", "linux", "--arch", "s390x", "list", "docker://"+w.host+"/busybox:1")
	b.run("manifest", "add", "--tls-verify=false", "list", "docker://"+reference)
	b.run("manifest", "push", "--all", "--tls-verify=false", "list", "docker://"+w.host+"/list:1")
	image, err := s.Pull(t.Context(), api.PullImage{Reference: w.host + "/list:1"}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if image.Name != "list-1" || image.Platform != "linux/amd64" {
		t.Errorf("got %+v", image)
	}
	s.entries = []catalog.Entry{{Name: "pinned", Type: catalog.TypeOCI, Kernel: "k", Reference: w.host + "/list@" + image.Digest}}
	pinned, err := s.Ensure(t.Context(), "pinned", progress.Discard)
	if err != nil || pinned.Digest != image.Digest || pinned.Kernel != "k" {
		t.Errorf("an entry of a catalog, by digest: %+v, %v", pinned, err)
	}
	_, err = s.Pull(t.Context(), api.PullImage{Reference: w.host + "/list:1", Platform: "linux/riscv64", Name: "riscv"}, progress.Discard)
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindNotFound || !strings.Contains(told.Hint, "linux/s390x") {
		t.Errorf("no such platform: %v", err)
	}
}

// TestPullWithPassword asks a registry that wants credentials.
func TestPullWithPassword(t *testing.T) {
	w := newWorkbench(t, startRegistry(t, "secret"))
	w.layers("app", tarLayer(t, tarFile("a", "a")))
	reference := w.push("app", "--dest-creds", "u:secret")
	s := &Store{Dir: t.TempDir(), Cache: t.TempDir()}
	_, err := s.Pull(t.Context(), api.PullImage{Reference: reference}, progress.Discard)
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindUnauthorized || !strings.Contains(told.Hint, "docker login "+w.host) {
		t.Errorf("without: %v", err)
	}
	run(t, "skopeo", "login", "--tls-verify=false", "--authfile", filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), "-u", "u", "-p", "secret", w.host)
	if _, err := s.Pull(t.Context(), api.PullImage{Reference: reference}, progress.Discard); err != nil {
		t.Errorf("with: %v", err)
	}
	put(t, os.Getenv("DOCKER_CONFIG"), "config.json", "{}")
	image, err := s.Ensure(t.Context(), reference, progress.Discard)
	if err != nil || image.Name != "app-1" {
		t.Errorf("what is here is asked for again: %+v, %v", image, err)
	}
	if left := unfinished(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestKillAtEveryStepOfAnOCIPull: the next one finishes, and leaves nothing twice.
func TestKillAtEveryStepOfAnOCIPull(t *testing.T) {
	cache := t.TempDir()
	killAtEveryStep(t, "app", PullSteps, func() []string {
		w := newWorkbench(t, startRegistry(t, ""))
		w.layers("app", legal(t)...)
		return []string{t.TempDir(), cache, w.push("app")}
	}, func(args []string) (*Store, making) {
		s := &Store{Dir: args[0], Cache: args[1]}
		return s, func(ctx context.Context) (Image, error) {
			return s.Pull(ctx, api.PullImage{Reference: args[2], Name: "app"}, progress.Discard)
		}
	})
	if left, _ := filepath.Glob(filepath.Join(cache, "oci/sha256/*.partial")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPullFillsTheDisk pulls where there is no room: it is told before the work,
// where that can be known, and nothing is left.
func TestPullFillsTheDisk(t *testing.T) {
	w := newWorkbench(t, startRegistry(t, ""))
	noise := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	w.layers("noise", tarLayer(t, tarFile("noise", string(noise))))
	w.layers("text", tarLayer(t, tarFile("text", strings.Repeat("all work and no play ", 400_000))))
	for name, say := range map[string]string{"noise": "disk space", "text": "no space is left"} {
		s := &Store{Dir: t.TempDir(), Cache: t.TempDir()}
		if err := unix.Mount("tmpfs", s.Dir, "tmpfs", 0, "size=4m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(s.Dir, unix.MNT_DETACH) })
		_, err := s.Pull(t.Context(), api.PullImage{Reference: w.push(name)}, progress.Discard)
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindNoSpace || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", name, err)
		}
		if left := unfinished(t, s); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// TestPullMemory pulls an image of two gigabytes and 100,000 files in a process
// of its own, and looks at the most memory that it had.
func TestPullMemory(t *testing.T) {
	if file := os.Getenv(pullAlone); file != "" {
		s := &Store{Dir: t.TempDir(), Cache: t.TempDir()}
		if _, err := s.Pull(t.Context(), api.PullImage{Archive: file, Name: "big"}, progress.Discard); err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.Write(status)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPullMemory$")
	cmd.Env = append(os.Environ(), pullAlone+"="+bigArchive(t, 100_000, 21<<10), cacheOfParent+"="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Not its rusage: that begins with what this process has, whose memory it
	// shares until it is a program of its own.
	_, peak, _ := strings.Cut(string(out), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(peak, &kib); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if kib > 200<<10 {
		t.Errorf("it took %d MiB at its peak, want at most 200", kib>>10)
	}
}

const pullAlone = "BANGER_TEST_PULL"

// bigArchive writes an OCI archive with one layer of files that have a block of
// bytes each, the rest zeros.
func bigArchive(t *testing.T, files, size int) string {
	t.Helper()
	dir := t.TempDir()
	layer, err := os.Create(filepath.Join(dir, "layer"))
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	packed, plain := sha256.New(), sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(layer, packed), gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	entries := tar.NewWriter(io.MultiWriter(z, plain))
	content := make([]byte, size)
	copy(content, strings.Repeat("a block ", 512))
	for i := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/file-number-%d", i/500, i), Mode: 0o644, Size: int64(size), ModTime: then}
		if err := entries.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := entries.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(entries.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	length, err := layer.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, plain.Sum(nil))
	manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%x","size":%d},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%x","size":%d}]}`,
		sha256.Sum256([]byte(config)), len(config), packed.Sum(nil), length)
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%x","size":%d}]}`,
		sha256.Sum256([]byte(manifest)), len(manifest))
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "index.json", index)
	for _, text := range []string{config, manifest} {
		put(t, dir, fmt.Sprintf("blobs/sha256/%x", sha256.Sum256([]byte(text))), text)
	}
	if err := os.Rename(layer.Name(), filepath.Join(dir, fmt.Sprintf("blobs/sha256/%x", packed.Sum(nil)))); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-c", "-f", filepath.Join(dir, "archive.tar"), "-C", dir, "index.json", "blobs")
	return filepath.Join(dir, "archive.tar")
}
