//go:build hosttest

package doctor_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/doctor"
	"github.com/banger-vm/banger/internal/firecracker"
)

// inMountNamespace gives the test's thread mounts of its own. The thread ends
// with the test.
func inMountNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	must(t, unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// real asks the real host, in a home of the test's own.
func (h *host) real(t *testing.T) doctor.Options {
	t.Helper()
	o := h.options(t)
	o.Host = doctor.Host{}
	o.EndIn = firecracker.Sweep
	return o
}

func TestAReadOnlyAndAFullStateDirectory(t *testing.T) {
	inMountNamespace(t)
	h := good(t)
	o := h.real(t)
	state := o.Config.Paths.State
	must(t, os.MkdirAll(state, 0o700))
	must(t, unix.Mount("tmpfs", state, "tmpfs", 0, "size=64k"))
	defer unix.Unmount(state, unix.MNT_DETACH)
	if f := find(t, doctor.Run(t.Context(), o), "directories")[0]; f.Level != api.LevelOK {
		t.Errorf("an empty filesystem: %+v", f)
	}
	if left, err := os.ReadDir(state); err != nil || len(left) > 0 {
		t.Errorf("doctor left %v, %v", left, err)
	}

	must(t, os.WriteFile(filepath.Join(state, "fill"), make([]byte, 64<<10), 0o600))
	d := doctor.Run(t.Context(), o)
	if f := find(t, d, "directories")[0]; d.OK || f.Level != api.LevelError || !strings.Contains(f.Detail, state+": no space left") || f.Hint == "" {
		t.Errorf("a full filesystem: %+v", f)
	}
	if f := find(t, d, "disk space")[1]; f.Level != api.LevelError || !strings.Contains(f.Detail, "0.0 GiB free for "+state) {
		t.Errorf("a full filesystem: %+v", f)
	}

	must(t, unix.Mount("", state, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	d = doctor.Run(t.Context(), o)
	if f := find(t, d, "directories")[0]; d.OK || f.Level != api.LevelError || !strings.Contains(f.Detail, state+": read-only file system") || f.Hint == "" {
		t.Errorf("a read-only filesystem: %+v", f)
	}
}

func TestAVMMThatNoVMOwnsIsEnded(t *testing.T) {
	h := good(t)
	o := h.real(t)
	dir := filepath.Join(o.Config.Paths.Runtime, "vm", "0badcafe")
	must(t, os.MkdirAll(dir, 0o700))
	vmm := exec.Command("sh", "-c", "echo up; exec sleep 100000")
	vmm.Dir = dir
	out, err := vmm.StdoutPipe()
	must(t, err)
	must(t, vmm.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- vmm.Wait() }() // or it would stay a zombie, which Sweep waits for
	fixed := doctor.Fix(t.Context(), o)
	if len(fixed.Failed) > 0 || len(fixed.Done) != 1 || !strings.Contains(fixed.Done[0], dir) {
		t.Errorf("fixed %+v", fixed)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the program ended with %v", err)
	}
}

func TestSubordinateIDsThatVMMsRunUnder(t *testing.T) {
	inMountNamespace(t)
	layer := t.TempDir()
	must(t, unix.Mount("tmpfs", layer, "tmpfs", 0, ""))
	defer unix.Unmount(layer, unix.MNT_DETACH)
	must(t, os.Mkdir(layer+"/upper", 0o755))
	must(t, os.Mkdir(layer+"/work", 0o755))
	must(t, unix.Mount("etc", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+layer+"/upper,workdir="+layer+"/work"))
	defer unix.Unmount("/etc", unix.MNT_DETACH)
	o := good(t).real(t)
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		must(t, os.WriteFile(file, []byte("alice:100000:65536\n"), 0o644))
	}
	if f := find(t, doctor.Run(t.Context(), o), "subordinate ids")[0]; f.Level == api.LevelWarning {
		t.Errorf("others are no harm: %+v", f)
	}
	must(t, os.WriteFile("/etc/subgid", []byte("alice:100000:65536\nbob:720000:65536\n"), 0o644))
	f := find(t, doctor.Run(t.Context(), o), "subordinate ids")[0]
	if f.Level != api.LevelWarning || !strings.Contains(f.Detail, "720000 to 785535 of bob in /etc/subgid") || f.Hint == "" {
		t.Errorf("got %+v", f)
	}
}
