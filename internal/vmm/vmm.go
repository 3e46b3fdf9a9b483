// Package vmm picks the program that VMs run on. The daemon and doctor ask the
// same question, so that doctor never tells of another choice than the one
// that is made.
package vmm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The two programs, as the vmm setting names them; Auto chooses.
const (
	Auto        = "auto"
	Firecracker = "firecracker"
	FCQEMU      = "fcqemu"
)

// Options say what is wanted and where to look.
type Options struct {
	Want           string // Auto, Firecracker or FCQEMU
	FirecrackerBin string // the configured firecracker; "" looks in PATH
	Companions     string // directory that fcqemu is in
	Host           Host
}

// Host is what is asked of the host. A nil field asks the real one.
type Host struct {
	LookPath  func(name string) (string, error) // finds an executable file
	OpenKVM   func() error                      // opens /dev/kvm read-write
	Processor func() (io.ReadCloser, error)     // /proc/cpuinfo
	Arch      string                            // GOARCH; "" is this program's
}

// Choice is the program that VMs will run on.
type Choice struct {
	Name        string // Firecracker or FCQEMU
	Path        string // absolute
	Why         string // one sentence for people
	Accelerated bool   // by KVM; else fcqemu emulates in software
}

// Choose decides by the rule of the documentation: with Auto it is firecracker
// when its binary is found, /dev/kvm opens read-write and the processor has vmx
// or svm (on x86-64), else fcqemu. The processor's flag counts because there
// are hosts whose /dev/kvm opens, answers and still can't run an ordinary
// guest.
func Choose(o Options) (Choice, error) {
	host := o.Host.real()
	firecracker, missing := findFirecracker(host, o.FirecrackerBin)
	noKVM := host.whyNoKVM()
	switch o.Want {
	case Firecracker:
		if missing != nil {
			return Choice{}, missing
		}
		return Choice{Name: Firecracker, Path: firecracker, Why: "configured with vmm = \"firecracker\"", Accelerated: noKVM == ""}, nil
	case FCQEMU:
		return chooseFCQEMU(host, o.Companions, "configured with vmm = \"fcqemu\"", noKVM)
	case Auto, "":
	default:
		return Choice{}, fmt.Errorf("cannot choose a VMM: %q is none", o.Want)
	}
	if noKVM != "" {
		return chooseFCQEMU(host, o.Companions, noKVM, noKVM)
	}
	if missing != nil {
		return chooseFCQEMU(host, o.Companions, missing.Error(), noKVM)
	}
	return Choice{Name: Firecracker, Path: firecracker, Why: firecracker + " is there and KVM works", Accelerated: true}, nil
}

// chooseFCQEMU says of the two reasons the one for fcqemu; noKVM alone decides
// about acceleration.
func chooseFCQEMU(host Host, companions, why, noKVM string) (Choice, error) {
	path, err := host.LookPath(filepath.Join(companions, FCQEMU))
	if err != nil {
		return Choice{}, fmt.Errorf("cannot find banger's own fcqemu: %w", err)
	}
	return Choice{Name: FCQEMU, Path: path, Why: why, Accelerated: noKVM == ""}, nil
}

func findFirecracker(host Host, configured string) (string, error) {
	if configured == "" {
		configured = Firecracker
	}
	path, err := host.LookPath(configured)
	if err != nil {
		return "", fmt.Errorf("cannot find firecracker: %w", err)
	}
	return filepath.Abs(path)
}

// whyNoKVM is "" where KVM can run an ordinary guest.
func (h Host) whyNoKVM() string {
	if err := h.OpenKVM(); err != nil {
		return fmt.Sprintf("/dev/kvm does not open: %v", err)
	}
	if h.Arch != "amd64" {
		return ""
	}
	has, err := h.virtualizes()
	switch {
	case err != nil:
		return fmt.Sprintf("the processor's flags can't be read: %v", err)
	case !has:
		return "the processor has neither vmx nor svm, so that /dev/kvm can't run an ordinary guest"
	}
	return ""
}

func (h Host) virtualizes() (bool, error) {
	info, err := h.Processor()
	if err != nil {
		return false, err
	}
	defer info.Close()
	lines := bufio.NewScanner(info)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, flags, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) == "flags" {
			all := strings.Fields(flags)
			return slices.Contains(all, "vmx") || slices.Contains(all, "svm"), nil
		}
	}
	return false, lines.Err()
}

// real fills the gaps with the real host.
func (h Host) real() Host {
	if h.LookPath == nil {
		h.LookPath = exec.LookPath
	}
	if h.OpenKVM == nil {
		h.OpenKVM = openKVM
	}
	if h.Processor == nil {
		h.Processor = func() (io.ReadCloser, error) { return os.Open("/proc/cpuinfo") }
	}
	if h.Arch == "" {
		h.Arch = runtime.GOARCH
	}
	return h
}

func openKVM() error {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
