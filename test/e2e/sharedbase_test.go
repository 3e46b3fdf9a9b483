//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// sharedBase VM… checks that the running VMs have their image's file itself
// open, by device and inode: read-only and through the page cache, which is one
// for all that have it so, and no file beside it that could be a copy.
func sharedBase(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		var vm api.VM
		ask(ts, &vm, "vm", "show", name)
		var image api.Image
		ask(ts, &image, "image", "show", vm.Image)
		var base unix.Stat_t
		ts.Check(unix.Stat(image.Rootfs, &base))
		ts.Check(checkBase(vm, base))
	}
}

// checkBase looks at all files that the processes of a VM's VMM have open.
func checkBase(vm api.VM, base unix.Stat_t) error {
	found := false
	for _, file := range openFiles(family(vm.VMM.PID)) {
		same := file.Dev == base.Dev && file.Ino == base.Ino
		switch {
		case same && file.flags&(unix.O_ACCMODE|unix.O_DIRECT) != unix.O_RDONLY:
			return fmt.Errorf("VM %s: process %d has the image's file open with the flags %#o", vm.Name, file.pid, file.flags)
		case same:
			found = true
		case file.Mode&unix.S_IFMT == unix.S_IFREG && file.Blocks >= base.Blocks:
			return fmt.Errorf("VM %s: process %d has %s open, which is as large as the image", vm.Name, file.pid, file.name)
		}
	}
	if !found {
		return fmt.Errorf("VM %s: no process of its VMM has the image's file open", vm.Name)
	}
	return nil
}

// family is a process and all that come of it.
func family(pid int) []int {
	all := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may have ended
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, family(child)...)
			}
		}
	}
	return all
}

// openFile is a file that a process has open. What /proc leads to is the file
// itself, whatever the name means in the process's mount namespace.
type openFile struct {
	unix.Stat_t
	pid   int
	name  string // for people
	flags int64
}

func openFiles(pids []int) []openFile {
	var files []openFile
	for _, pid := range pids {
		descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, path := range descriptors {
			file := openFile{pid: pid, flags: flagsOf(strings.Replace(path, "/fd/", "/fdinfo/", 1))}
			if unix.Stat(path, &file.Stat_t) != nil {
				continue // closed meanwhile
			}
			file.name, _ = os.Readlink(path)
			files = append(files, file)
		}
	}
	return files
}

// flagsOf reads the flags of an open file; of one that is closed they are 0.
func flagsOf(info string) int64 {
	file, err := os.Open(info)
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if octal, ok := strings.CutPrefix(lines.Text(), "flags:"); ok {
			flags, _ := strconv.ParseInt(strings.TrimSpace(octal), 8, 64)
			return flags
		}
	}
	return 0
}
