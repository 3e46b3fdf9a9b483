package vmm_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/vmm"
)

func TestChoose(t *testing.T) {
	const good, bad = "processor : 0\nflags\t\t: fpu vmx sse\n", "processor : 0\nflags\t\t: fpu vmx_not sse svm_\n"
	tests := []struct {
		name        string
		want        string
		firecracker bool
		kvm         bool
		cpuinfo     string
		arch        string
		expect      string // name, or the error's text
		why         string
		accelerated bool
	}{
		{"all there", "auto", true, true, good, "amd64", "firecracker", "KVM works", true},
		{"AMD", "auto", true, true, "flags : svm\n", "amd64", "firecracker", "KVM works", true},
		{"kvm_pvm host", "auto", true, true, bad, "amd64", "fcqemu", "neither vmx nor svm", false},
		{"no kvm", "auto", true, false, good, "amd64", "fcqemu", "/dev/kvm does not open", false},
		{"no firecracker", "auto", false, true, good, "amd64", "fcqemu", "cannot find firecracker", true},
		{"nothing", "auto", false, false, bad, "amd64", "fcqemu", "/dev/kvm", false},
		{"arm", "auto", true, true, "Features : fp\n", "arm64", "firecracker", "KVM works", true},
		{"forced", "firecracker", true, false, bad, "amd64", "firecracker", "configured", false},
		{"forced and missing", "firecracker", false, true, good, "amd64", "cannot find firecracker", "", false},
		{"forced fcqemu", "fcqemu", true, true, good, "amd64", "fcqemu", "configured", true},
		{"nonsense", "xen", true, true, good, "amd64", `"xen" is none`, "", false},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			got, err := vmm.Choose(vmm.Options{Want: c.want, Companions: "/lib/banger", Host: vmm.Host{
				LookPath: func(name string) (string, error) {
					if name == "firecracker" && !c.firecracker {
						return "", os.ErrNotExist
					}
					return filepath.Join("/usr/bin", filepath.Base(name)), nil
				},
				OpenKVM: func() error {
					if !c.kvm {
						return fmt.Errorf("no such device")
					}
					return nil
				},
				Processor: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(c.cpuinfo)), nil },
				Arch:      c.arch,
			}})
			if err != nil {
				if !strings.Contains(err.Error(), c.expect) {
					t.Errorf("error %q, want %q", err, c.expect)
				}
				return
			}
			if got.Name != c.expect || !strings.Contains(got.Why, c.why) || got.Accelerated != c.accelerated {
				t.Errorf("got %+v, want %s because of %q, accelerated %v", got, c.expect, c.why, c.accelerated)
			}
			if got.Path != "/usr/bin/"+c.expect {
				t.Errorf("path is %s", got.Path)
			}
		})
	}
}
