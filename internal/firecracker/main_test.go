package firecracker_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// fcmem is a VMM's program.
var fcmem string

// TestMain builds fcmem. This program is also two VMMs of little use, chosen
// by the last argument.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "--api-sock") {
		switch os.Args[len(os.Args)-1] {
		case "deaf":
			beDeaf()
		case "parent":
			beParent()
		}
	}
	os.Exit(withPrograms(m))
}

// beDeaf never serves an API.
func beDeaf() {
	fmt.Println("up")
	select {}
}

// beParent has a child, whose pid it prints, and an API that says nothing.
func beParent() {
	child := exec.Command("/bin/sleep", "1000")
	if err := child.Start(); err != nil {
		panic(err)
	}
	fmt.Println(child.Process.Pid)
	if _, err := net.Listen("unix", "api.sock"); err != nil {
		panic(err)
	}
	select {}
}

func withPrograms(m *testing.M) int {
	dir, err := os.MkdirTemp("", "firecracker-bin")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	fcmem = filepath.Join(dir, "fcmem")
	build := exec.Command("go", "build", "-o", fcmem, "./fctest/fcmem")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	return m.Run()
}
