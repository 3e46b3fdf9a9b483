package fcqemu_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

// lacks are the API's names of what QEMU does not do as Firecracker does.
var lacks = []string{
	"cpu_template", "track_dirty_pages", "huge_pages", "io_engine", "rate_limiter",
	"rx_rate_limiter", "tx_rate_limiter", "network_interfaces", "path_on_host", "action_type",
}

// fcqemuProgram builds fcqemu.
func fcqemuProgram(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "fcqemu")
	build := exec.Command("go", "build", "-o", bin, "../../cmd/fcqemu")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestConformance(t *testing.T) {
	fctest.Run(t, fctest.Target{Bin: fcqemuProgram(t), Lacks: lacks})
}
