//go:build hosttest

package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/killtest"
	"github.com/banger-vm/banger/internal/progress"
)

// small is an image that takes seconds: sshd on the required packages.
var small = catalog.Entry{
	Name: "small", Detail: "for tests", Kernel: "k", BuildBytes: 1 << 30,
	Suites:   []string{"bookworm", "bookworm-updates", "bookworm-security"},
	Packages: []string{"usr-is-merged", "openssh-server"},
}

// buildStore is a store that can build the small image, from the mirror that
// the host's own apt uses. All tests share one cache.
func buildStore(t *testing.T, dir string) *Store {
	t.Helper()
	return &Store{Dir: dir, Cache: sharedCache(), entries: []catalog.Entry{small}}
}

var sharedCache = sync.OnceValue(func() string {
	if dir := os.Getenv(cacheOfParent); dir != "" {
		return dir
	}
	dir, err := os.MkdirTemp("", "banger-image-cache-")
	if err != nil {
		panic(err)
	}
	return dir
})

const cacheOfParent = "BANGER_TEST_CACHE"

func TestMain(m *testing.M) {
	status := m.Run()
	if os.Getenv(cacheOfParent) == "" {
		os.RemoveAll(sharedCache())
	}
	os.Exit(status)
}

// TestEnsureShares asks for an image twice at once: one build, two answers,
// and an image that has what its VMs count on.
func TestEnsureShares(t *testing.T) {
	s := buildStore(t, t.TempDir())
	builds := 0
	s.AtStep = func(step string) {
		switch step {
		case StepOpen:
			builds++
		case StepFilesystem: // the tree is complete now
			askSSHD(t, filepath.Join(unfinished(t, s)[0], "tree"))
		}
	}
	var group errgroup.Group
	images := make([]Image, 2)
	for i := range images {
		group.Go(func() (err error) {
			images[i], err = s.Ensure(t.Context(), "small", progress.Discard)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if builds != 1 || !reflect.DeepEqual(images[0], images[1]) || !images[0].Local || !images[0].Managed {
		t.Errorf("%d builds: %+v", builds, images)
	}
	if left := unfinished(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	checkRootfs(t, images[0].Rootfs)
}

// checkRootfs looks into the filesystem without mounting it.
func checkRootfs(t *testing.T, rootfs string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", rootfs).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	for request, want := range map[string]string{
		"stat /usr/bin/su":           "Mode:  04755",
		"stat /etc/shadow":           "Group:    42",
		"stat /bin":                  `Fast link dest: "usr/bin"`,
		"cat /etc/hostname":          "banger\n",
		"stat /etc/machine-id":       "Size: 0",
		"stat /sbin/policy-rc.d":     "File not found",
		"cat /etc/apt/sources.list":  " bookworm-security main\n",
		"stat /etc/ssh/ssh_host_rsa": "File not found",
	} {
		out, err := exec.Command("debugfs", "-R", request, rootfs).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", request, err, out)
		}
	}
}

// TestKilledBuild kills a build at a step, dpkg running below it or the image
// nearly done; the next build must clean up after it and succeed.
func TestKilledBuild(t *testing.T) {
	if v := killtest.Self(); v != nil {
		s := buildStore(t, v.Args[0])
		s.AtStep = v.AtStep
		_, err := s.Ensure(t.Context(), "small", progress.Discard)
		v.Lives(t, err)
	}
	t.Setenv(cacheOfParent, sharedCache())
	s := buildStore(t, t.TempDir())
	for _, step := range []string{debian.StepDownload, debian.StepInstall, StepKeep} {
		killtest.Kill(t, step, s.Dir)
		if _, err := os.Stat(filepath.Join(s.Dir, "small")); err == nil {
			t.Fatalf("at %s: there is an image", step)
		}
		if left := unfinished(t, s); len(left) != 1 {
			t.Errorf("at %s: left %v", step, left)
		}
	}
	if _, err := s.Ensure(t.Context(), "small", progress.Discard); err != nil {
		t.Fatal(err)
	}
	if left := unfinished(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// askSSHD asks sshd itself what it makes of a provisioned system.
func askSSHD(t *testing.T, tree string) {
	t.Helper()
	var out bytes.Buffer
	ask := "mkdir /run/sshd && ssh-keygen -q -N '' -t ed25519 -f /tmp/key && sshd -T -h /tmp/key && passwd -S root"
	if err := (debian.Chroot{Dir: tree, Output: &out}).Run(t.Context(), "sh", "-c", ask); err != nil {
		t.Error(err)
		return
	}
	said := strings.Split(out.String(), "\n")
	for _, want := range []string{"permitrootlogin yes", "strictmodes no", "passwordauthentication no", "kbdinteractiveauthentication no", "pubkeyauthentication yes"} {
		if !slices.Contains(said, want) {
			t.Errorf("sshd does not say %q", want)
		}
	}
	if !slices.ContainsFunc(said, func(line string) bool { return strings.HasPrefix(line, "root L ") }) {
		t.Errorf("root's password is not locked")
	}
}
