// Package agree holds what bangerd says of its VMs against what is on the host.
package agree

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// Host is where one bangerd has its VMs. It keeps no taps in stock.
type Host struct {
	VMs     string // a directory for each VM
	Runtime string // a directory for each VM that runs
	Bridge  string
	// Patience is how long the kernel may take to remove a tap.
	Patience time.Duration
}

// Check asks for the list of VMs, twice, and compares it with the processes, taps,
// rules, sockets and files that there are.
func (h Host) Check(ask func() ([]api.VM, error)) ([]api.VM, error) {
	list, err := ask()
	if err != nil {
		return nil, err
	}
	again, err := ask()
	if err != nil {
		return nil, err
	}
	if a, b := Brief(list), Brief(again); !slices.Equal(a, b) {
		return nil, fmt.Errorf("two lists in a row differ:\n%q\n%q", a, b)
	}
	var ids, running, taps []string
	var wrong []error
	for _, v := range list {
		ids = append(ids, v.ID)
		wrong = append(wrong, exist(filepath.Join(h.VMs, v.ID), "vm.json", "disk.cow", "ssh_host_ed25519_key"))
		if v.State != api.StateRunning && v.State != api.StatePaused {
			if v.VMM != nil {
				wrong = append(wrong, fmt.Errorf("VM %s is %s and has a VMM", v.Name, v.State))
			}
			continue
		}
		tap, err := TapOf(filepath.Join(h.VMs, v.ID))
		wrong = append(wrong, err, exist(filepath.Join(h.Runtime, v.ID), "api.sock", "v.sock", "v.sock_1022", "console"))
		running, taps = append(running, v.ID), append(taps, tap)
		if pids := PIDsIn(filepath.Join(h.Runtime, v.ID)); !slices.Contains(pids, fmt.Sprint(v.VMM.PID)) {
			wrong = append(wrong, fmt.Errorf("VM %s runs, and its VMM %d does not: there are %q", v.Name, v.VMM.PID, pids))
		}
	}
	rules, err := h.tapsInRules()
	return list, errors.Join(append(wrong, err,
		Same("directories of VMs", Names(h.VMs), ids),
		Same("runtime directories", Names(h.Runtime), running),
		Same("VMMs", h.placesOfVMMs(), running),
		Same("taps in the rules", rules, taps),
		h.awaitTaps(taps))...)
}

// Brief is what two lists of VMs have in common unless something happens.
func Brief(vms []api.VM) []string {
	var all []string
	for _, v := range vms {
		all = append(all, fmt.Sprintln(v.ID, v.Name, v.State, v.Reason, v.VMM))
	}
	return all
}

// Same tells of a difference between what there is and what there should be.
func Same(what string, got, want []string) error {
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: there are %q, there should be %q", what, got, want)
	}
	return nil
}

// Names are those of what is in a directory, which need not be there.
func Names(dir string) []string {
	var found []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

// TapOf is the tap of the VM in dir.
func TapOf(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "vm.json"))
	if err != nil {
		return "", err
	}
	var record struct{ Lease struct{ Tap string } }
	err = json.Unmarshal(data, &record)
	return record.Lease.Tap, err
}

func exist(dir string, files ...string) error {
	var missing []error
	for _, name := range files {
		_, err := os.Lstat(filepath.Join(dir, name))
		missing = append(missing, err)
	}
	return errors.Join(missing...)
}

// PIDsIn are the processes whose working directories are in dir.
func PIDsIn(dir string) []string {
	var pids []string
	for _, line := range testenv.ProcessesIn(dir) {
		pid, _, _ := strings.Cut(line, " ")
		pids = append(pids, pid)
	}
	return pids
}

// placesOfVMMs are the names of the runtime directories in which a process runs.
func (h Host) placesOfVMMs() []string {
	var found []string
	for _, pid := range PIDsIn(h.Runtime) {
		cwd, err := os.Readlink(filepath.Join("/proc", pid, "cwd"))
		if err == nil && !slices.Contains(found, filepath.Base(cwd)) {
			found = append(found, filepath.Base(cwd))
		}
	}
	return found
}

// tapsInRules are those from which frames are let in.
func (h Host) tapsInRules() ([]string, error) {
	kernel, err := nftables.New()
	if err != nil {
		return nil, err
	}
	const ifNameSize = 16
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: "banger-" + h.Bridge}
	guests, err := kernel.GetSetByName(table, "guests")
	if err != nil {
		return nil, nil // no VM, no table
	}
	elements, err := kernel.GetSetElements(guests)
	var taps []string
	for _, e := range elements {
		taps = append(taps, strings.TrimRight(string(e.Key[:ifNameSize]), "\x00"))
	}
	return taps, err
}

// awaitTaps waits until there are these taps and no others: those that a VM had go
// a moment after it.
func (h Host) awaitTaps(want []string) error {
	changes, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(changes, done); err != nil {
		return err
	}
	for late := time.After(h.Patience); ; {
		got, err := h.Taps()
		if err != nil {
			return err
		}
		wrong := Same("taps", got, want)
		if wrong == nil {
			return nil
		}
		select {
		case <-changes:
		case <-late:
			return wrong
		}
	}
}

// Taps are those there are.
func (h Host) Taps() ([]string, error) {
	links, err := netlink.LinkList()
	var taps []string
	for _, l := range links {
		if name := l.Attrs().Name; l.Type() == "tuntap" && strings.HasPrefix(name, h.Bridge+"t") {
			taps = append(taps, name)
		}
	}
	return taps, err
}
