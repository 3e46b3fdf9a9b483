package firecracker_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/firecracker"
)

// fcmem is a VMM's program.
var fcmem string

// TestMain builds fcmem. This program is also some VMMs of little use, chosen
// by the last argument.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "--api-sock") {
		switch os.Args[len(os.Args)-1] {
		case "deaf":
			beDeaf()
		case "parent":
			beParent()
		case "chatty":
			beChatty()
			serveNothing()
		case "wordy":
			beWordy()
			serveNothing()
		case "chatty, once":
			beChatty()
			os.Exit(3)
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
	serveNothing()
}

func serveNothing() {
	if _, err := net.Listen("unix", "api.sock"); err != nil {
		panic(err)
	}
	select {}
}

// beChatty writes much into its log, which it opens as firecracker does; what
// does not go in is dropped.
func beChatty() {
	log, err := unix.Open(firecracker.Log, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	if err != nil {
		panic(err)
	}
	for n := range 100_000 {
		_, _ = unix.Write(log, fmt.Appendf(nil, "line %d: the guest does what it must not\n", n))
	}
}

// beWordy says more than a pipe holds, and waits where it is full.
func beWordy() {
	log, err := os.OpenFile(firecracker.Log, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	for n := range 3000 {
		fmt.Fprintf(log, "line %d: the guest does what it must not\n", n)
	}
	fmt.Fprintln(log, "the last of all lines")
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
