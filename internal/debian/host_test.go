//go:build hosttest

package debian

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/filelock"
	"github.com/banger-vm/banger/internal/progress"
)

// minimal is a system of the essential and required packages, bootstrapped
// once for all tests, from the mirror that the host's own apt uses.
var minimal = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "banger-bootstrap-")
	if err != nil {
		return "", err
	}
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	ctx := context.Background()
	a, err := Open(ctx, Options{Cache: filepath.Join(dir, "cache")}, progress.Discard, "bookworm", "bookworm-updates", "bookworm-security")
	if err != nil {
		return "", err
	}
	return tree, Bootstrap(ctx, a, Spec{Dir: tree, Packages: []string{"usr-is-merged", "openssh-server", "systemd-sysv"}}, progress.Discard)
})

func TestMain(m *testing.M) {
	status := m.Run()
	if tree, err := minimal(); err == nil {
		os.RemoveAll(filepath.Dir(tree))
	}
	os.Exit(status)
}

func bootstrapped(t *testing.T) string {
	t.Helper()
	tree, err := minimal()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// inside runs a shell command in the system and gives what it wrote.
func inside(t *testing.T, tree, command string) string {
	t.Helper()
	var out bytes.Buffer
	if err := (Chroot{Dir: tree, Output: &out}).Run(t.Context(), "sh", "-c", command); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

func TestBootstrap(t *testing.T) {
	tree := bootstrapped(t)
	if odd := inside(t, tree, `dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | grep -v '^ii ' || true; dpkg --audit`); odd != "" {
		t.Errorf("not installed well: %s", odd)
	}
	if got := inside(t, tree, `dpkg --verify | grep -v ' c ' || true`); got != "" {
		t.Errorf("files differ from their packages: %s", got)
	}
	if got := inside(t, tree, `passwd -S root | cut -d' ' -f2; head -1 /etc/shadow | cut -d: -f1`); got != "L\nroot" {
		t.Errorf("root's password: %q", got)
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if to, err := os.Readlink(filepath.Join(tree, name)); err != nil || to != "usr/"+name {
			t.Errorf("/%s leads to %q, %v", name, to, err)
		}
	}
	info, err := os.Stat(filepath.Join(tree, "usr/bin/passwd"))
	if err != nil || info.Mode()&fs.ModeSetuid == 0 {
		t.Errorf("passwd: %v, %v", info, err)
	}
}

func TestBootstrapLeavesNothingUnique(t *testing.T) {
	tree := bootstrapped(t)
	for _, pattern := range []string{
		"etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id", "usr/sbin/policy-rc.d",
		"var/lib/apt/lists/*_*", "var/cache/apt/*.bin", "var/log/apt/*", "var/log/dpkg.log", "tmp/*", "run/*", "dev/*", "proc/*", "sys/*",
	} {
		if left, _ := filepath.Glob(filepath.Join(tree, pattern)); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if id, err := os.ReadFile(filepath.Join(tree, "etc/machine-id")); err != nil || len(id) > 0 {
		t.Errorf("machine-id is %q, %v", id, err)
	}
}

func TestChrootIsApart(t *testing.T) {
	tree := bootstrapped(t)
	t.Setenv("SECRET", "of the host")
	got := inside(t, tree, `
		set -- /proc/[0-9]*; echo $#
		ls /sys/class/net
		hostname
		echo "${SECRET-none}"
		ls /proc/self/fd | wc -l
		touch /sys/x 2>/dev/null || echo sys is read-only
		echo x > /dev/null && head -c1 /dev/urandom | wc -c`)
	// The processes are the first one and the shell.
	if want := "2\nlo\nlocalhost\nnone\n4\nsys is read-only\n1"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(tree)) {
		t.Errorf("the host sees its mounts (%v)", err)
	}
}

func TestChrootStatus(t *testing.T) {
	tree := bootstrapped(t)
	tests := map[string]struct {
		argv   []string
		status int
	}{
		"exit":       {[]string{"sh", "-c", "echo why; exit 7"}, 7},
		"signal":     {[]string{"sh", "-c", "echo why; kill -9 $$"}, 128 + 9},
		"no program": {[]string{"no-such-program"}, notStarted},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := Chroot{Dir: tree}.Run(t.Context(), test.argv...)
			var failed *ChrootError
			if !errors.As(err, &failed) || failed.Status != test.status {
				t.Fatalf("got %v", err)
			}
			if test.status != notStarted && failed.Tail != "why" {
				t.Errorf("its output was %q", failed.Tail)
			}
		})
	}
}

// TestChrootEndsAll starts a daemon that wants to live on; it holds the pipe
// of its output, so Run could not even return if it lived.
func TestChrootEndsAll(t *testing.T) {
	inside(t, bootstrapped(t), `setsid sh -c 'trap "" HUP TERM; sleep 1000' & echo started`)
}

func TestChrootCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	err := Chroot{Dir: bootstrapped(t), Output: started}.Run(ctx, "sh", "-c", "echo started; sleep 1000")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

const chrootChild = "BANGER_TEST_CHROOT_CHILD"

// TestChrootDiesWithItsParent kills a process that runs a chroot: what runs
// inside must end, and only then is the lock that it holds free.
func TestChrootDiesWithItsParent(t *testing.T) {
	if dir := os.Getenv(chrootChild); dir != "" {
		lock := lockFile(t, filepath.Join(dir, "lock"))
		err := Chroot{Dir: os.Getenv(chrootChild + "_TREE"), Hold: []*os.File{lock}, Output: os.Stdout}.Run(t.Context(), "sh", "-c", "echo started; sleep 1000")
		t.Fatalf("it returned: %v", err)
	}
	tree, dir := bootstrapped(t), t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChrootDiesWithItsParent$")
	cmd.Env = append(os.Environ(), chrootChild+"="+dir, chrootChild+"_TREE="+tree)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	file, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := filelock.Wait(ctx, file); err != nil {
		t.Fatalf("the chroot lives on: %v", err)
	}
}

func lockFile(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := filelock.Try(file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestUnpackAsRoot(t *testing.T) {
	dir := t.TempDir()
	h := file("a/b", 0o6750, "x")
	h.Uid, h.Gid = 12, 34
	node := file("dev", 0o620, "")
	node.Typeflag, node.Devmajor, node.Devminor, node.Uid = '3', 1, 3, 7
	if err := unpackInto(t, dir, makeDeb(t, ".xz", h, node)); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "a/b"), &stat); err != nil || stat.Uid != 12 || stat.Gid != 34 || stat.Mode&0o7777 != 0o6750 {
		t.Errorf("file: %+v, %v", stat, err)
	}
	if err := unix.Stat(filepath.Join(dir, "dev"), &stat); err != nil || stat.Mode != unix.S_IFCHR|0o620 || stat.Rdev != unix.Mkdev(1, 3) || stat.Uid != 7 {
		t.Errorf("device: %+v, %v", stat, err)
	}
}
