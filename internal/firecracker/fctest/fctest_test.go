package fctest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

var fcmem string

func TestMain(m *testing.M) {
	os.Exit(withPrograms(m))
}

func withPrograms(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fctest-bin")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	fcmem = filepath.Join(dir, "fcmem")
	build := exec.Command("go", "build", "-o", fcmem, "./fcmem")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	return m.Run()
}

func TestMemory(t *testing.T) {
	fctest.Run(t, fctest.Target{Bin: fcmem, Memory: true})
}

func TestMemoryGuest(t *testing.T) {
	fctest.RunGuest(t, fctest.Target{Bin: fcmem, Memory: true})
}
