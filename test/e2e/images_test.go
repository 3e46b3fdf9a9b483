//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/testenv"
)

// serveFolder DIR serves a folder on loopback and puts the address into $URL.
func serveFolder(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	server := &http.Server{Handler: http.FileServer(http.Dir(ts.MkAbs(args[0])))}
	go server.Serve(l)
	ts.Defer(func() { server.Close() })
	ts.Setenv("URL", "http://"+l.Addr().String())
}

// publish DIR PORT serves a folder in the tests' internet.
func publishFolder(ts *testscript.TestScript, neg bool, args []string) {
	var l net.Listener
	ts.Check(world.Inside(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(testenv.ServerAddr, args[1]))
		return err
	}))
	server := &http.Server{Handler: http.FileServer(http.Dir(ts.MkAbs(args[0])))}
	go server.Serve(l)
	ts.Defer(func() { server.Close() })
}

// gatedApt FILE ROOTFS PORT copies an image of a Debian, whose apt then waits until
// something is written into /gate, and takes packages from that port of the
// tests' internet.
func gatedApt(ts *testscript.TestScript, neg bool, args []string) {
	image, sources, gate := ts.MkAbs(args[0]), ts.MkAbs("sources.list"), ts.MkAbs("gate")
	must(ts, "cp", "--sparse=always", args[1], image)
	ts.Check(os.WriteFile(sources, fmt.Appendf(nil, "deb [trusted=yes] http://%s:%s ./\n", testenv.ServerName, args[2]), 0o644))
	ts.Check(os.WriteFile(gate, []byte(`APT::Update::Pre-Invoke {"read word < /gate";};`), 0o644))
	for _, change := range []string{
		"rm /etc/apt/sources.list",
		"write " + sources + " /etc/apt/sources.list",
		"write " + gate + " /etc/apt/apt.conf.d/gate",
		"mknod gate p",
	} {
		must(ts, "/sbin/debugfs", "-w", "-R", change, image)
	}
}

// checkDisk VM looks, with e2fsck, for errors in the filesystem of a VM that is
// stopped.
func checkDisk(ts *testscript.TestScript, neg bool, args []string) {
	var vm api.VM
	ask(ts, &vm, "vm", "show", args[0])
	var image api.Image
	ask(ts, &image, "image", "show", vm.Image)
	base, err := os.Stat(image.Rootfs)
	ts.Check(err)
	whole := ts.MkAbs("whole.ext4")
	spec := disk.Spec{Path: filepath.Join(vm.Dir, "disk.cow"), Virtual: vm.DiskMiB << 20, Base: base.Size()}
	ts.Check(disk.Merge(context.Background(), spec, image.Rootfs, whole))
	must(ts, "e2fsck", "-fn", whole)
	ts.Check(os.Remove(whole))
}

// spoilBundles DIR turns a bit around in each bundle of a folder.
func spoilBundles(ts *testscript.TestScript, neg bool, args []string) {
	bundles, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*.tar.zst"))
	ts.Check(err)
	if len(bundles) == 0 {
		ts.Fatalf("there is no bundle in %s", args[0])
	}
	for _, path := range bundles {
		data, err := os.ReadFile(path)
		ts.Check(err)
		data[len(data)/2] ^= 1
		ts.Check(os.WriteFile(path, data, 0o644))
	}
}

// emptyStore KERNEL gives the script a store of its own that has that kernel
// and no image.
func emptyStore(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs("store")
	kernels := filepath.Join(dir, "banger", "kernels")
	ts.Check(os.MkdirAll(kernels, 0o700))
	out, err := exec.Command("cp", "-a", "--reflink=auto", filepath.Join(storeDir, "banger", "kernels", args[0]), kernels).CombinedOutput()
	if err != nil {
		ts.Fatalf("cannot copy the kernel: %v\n%s", err, out)
	}
	ts.Setenv("XDG_DATA_HOME", dir)
}

// modulesOf KERNEL DIR WITHOUT… writes the modules of a kernel of the store
// into DIR, but those named, as a host has them in /lib/modules.
func modulesOf(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o755))
	drive := filepath.Join(storeDir, "banger", "kernels", args[0], "modules.ext4")
	out, err := exec.Command("/sbin/debugfs", "-R", "rdump / "+dir, drive).CombinedOutput()
	if err != nil {
		ts.Fatalf("cannot unpack the modules: %v\n%s", err, out)
	}
	ts.Check(filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		for _, name := range args[2:] {
			if err == nil && filepath.Base(path) == name+".ko" {
				return os.Remove(path)
			}
		}
		return err
	}))
}

// The scripts run beside each other on one store: an image that two of them made by
// one name would be there already, or gone, as their times fall. Each deletes what
// it made.
func TestNoTwoScriptsMakeOneImage(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	maker := map[string]string{}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range deletesImages.FindAllStringSubmatch(string(text), -1) {
			for _, image := range strings.Fields(line[1]) {
				if other, made := maker[image]; made && other != script {
					t.Errorf("%s and %s both make an image %s", other, script, image)
				}
				maker[image] = script
			}
		}
	}
	if len(maker) == 0 {
		t.Error("no script makes an image")
	}
}

var deletesImages = regexp.MustCompile(`(?m)^exec banger image delete (.+)$`)
