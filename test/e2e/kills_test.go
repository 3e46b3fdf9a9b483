//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/testenv"
)

// killAt STEP PROGRAM ARGS… kills the daemon just before that step, to which the
// program brings it. The program says so and ends with 125.
func killAt(ts *testscript.TestScript, neg bool, args []string) {
	program, halted := haltAt(ts, args)
	killDaemon(ts, false, nil)
	halted.Open()
	var exit *exec.ExitError
	if err := program.Wait(); !asExit(err, &exit) || exit.ExitCode() != 125 {
		ts.Fatalf("%s ended without its daemon: %v", strings.Join(args[1:], " "), err)
	}
	agrees(ts, false, nil)
}

// killOn is killAt for a program that is none of banger's, and goes well.
func killOn(ts *testscript.TestScript, neg bool, args []string) {
	program, halted := haltAt(ts, args)
	ts.Check(program.Wait())
	killDaemon(ts, false, nil)
	halted.Open()
}

// killClientAt STEP PROGRAM ARGS… kills the program just before that step, to which
// it brings the daemon, and waits until the daemon has done what it then does.
func killClientAt(ts *testscript.TestScript, neg bool, args []string) {
	program, halted := haltAt(ts, args)
	past, err := command(ts, []string{"banger", "daemon", "logs"}).Output()
	ts.Check(err)
	ts.Check(program.Process.Kill())
	_ = program.Wait()
	log, first := []string{"banger", "daemon", "logs", "-f"}, bytes.Count(past, []byte("\n"))
	op := awaitLines(ts, first, log, `msg="its client is gone" op=(\w+)`)[1]
	halted.Open()
	awaitLines(ts, first, log, `msg=(done|failed) op=`+op)
	agrees(ts, false, nil)
}

// killVMMsAt STEP PROGRAM ARGS… kills whatever VMM there is just before that step,
// to which the program brings the daemon. Before some steps there is none, and all
// must go well.
func killVMMsAt(ts *testscript.TestScript, neg bool, args []string) {
	program, halted := haltAt(ts, args)
	dead := map[int]bool{}
	for _, process := range testenv.ProcessesIn(filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger/vm")) {
		var pid int
		fmt.Sscan(process, &pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			ts.Fatalf("cannot kill %s: %v", process, err)
		}
		ts.Check(testenv.AwaitEnd(pid, patience))
		dead[pid] = true
	}
	halted.Open()
	if err := program.Wait(); err != nil && len(dead) == 0 {
		ts.Fatalf("%s failed and nobody was killed: %v", strings.Join(args[1:], " "), err)
	}
	var vms []api.VM
	ask(ts, &vms, "vm", "list")
	for _, v := range vms {
		if lost := func(v api.VM) bool { return v.VMM == nil || !dead[v.VMM.PID] }; !lost(v) {
			awaitVM(ts, v.Name, "without its VMM", lost)
		}
	}
	agrees(ts, false, nil)
}

// haltAt STEP PROGRAM ARGS… starts a program that brings the daemon to that step,
// and waits until it halts there.
func haltAt(ts *testscript.TestScript, args []string) (*exec.Cmd, *testenv.Gate) {
	if len(args) < 2 {
		ts.Fatalf("a step and a program are wanted, not %q", args)
	}
	ts.Check(ts.Exec("banger", "vm", "list")) // the daemon runs
	halted, err := testenv.CloseGate(ts.Getenv("BANGERD_HALT"), args[0])
	ts.Check(err)
	program := command(ts, args[1:])
	var said bytes.Buffer
	program.Stdout, program.Stderr = &said, &said
	ts.Check(program.Start())
	if err := halted.Await(patience); err != nil {
		_ = program.Process.Kill()
		_ = program.Wait()
		ts.Fatalf("%v\n%s", err, said.String())
	}
	return program, halted
}

// awaitState VM STATE follows a VM's log until the VM is in that state.
func awaitState(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("banger", "vm", "list")) // the daemon runs
	want := api.State(args[1])
	awaitVM(ts, args[0], args[1], func(v api.VM) bool { return v.State == want })
}

// awaitVM follows a VM's log until the VM is as wanted.
func awaitVM(ts *testscript.TestScript, name, how string, wanted func(api.VM) bool) {
	c := client.New(client.Options{Runtime: filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger")}).AnyVersion()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found := errors.New("found")
	var v api.VM
	err := c.Logs(ctx, name, true, func(api.LogLine) error {
		var err error
		if v, err = c.VM(ctx, name); err == nil && wanted(v) {
			err = found
		}
		return err
	})
	if !errors.Is(err, found) {
		ts.Fatalf("VM %s does not come to be %s: %v; it is %s: %s", name, how, err, v.State, v.Reason)
	}
}

// awaitHalted VM waits until a VM's processors stand still: its VMM says so, or
// is stopped itself.
func awaitHalted(ts *testscript.TestScript, neg bool, args []string) {
	var v api.VM
	ask(ts, &v, "vm", "show", args[0])
	vmm := firecracker.NewClient(filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger/vm", v.ID, "api.sock"))
	defer vmm.Close()
	for late := time.Now().Add(patience); ; {
		if stopped(v.VMM.PID) {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		info, err := vmm.Describe(ctx)
		cancel()
		if err == nil && info.State == firecracker.StatePaused {
			return
		}
		if time.Now().After(late) {
			ts.Fatalf("the VMM of %s runs on: it is %q, %v", args[0], info.State, err)
		}
	}
}

func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, behindName, _ := strings.Cut(string(stat), ") ")
	return err == nil && strings.HasPrefix(behindName, "T")
}

// agrees holds what bangerd says, twice in a row, against the processes, taps,
// rules, sockets and files that there are. It needs BANGER_TAP_POOL_SIZE=0.
func agrees(ts *testscript.TestScript, neg bool, args []string) {
	var list, again []api.VM
	ask(ts, &list, "vm", "list")
	ask(ts, &again, "vm", "list")
	if a, b := brief(list), brief(again); !slices.Equal(a, b) {
		ts.Fatalf("two lists in a row differ:\n%q\n%q", a, b)
	}
	state, runtime := filepath.Join(ts.Getenv("XDG_STATE_HOME"), "banger/vms"), filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger/vm")
	var ids, running, taps []string
	for _, v := range list {
		ids = append(ids, v.ID)
		exist(ts, filepath.Join(state, v.ID), "vm.json", "disk.cow", "ssh_host_ed25519_key")
		if v.State != api.StateRunning && v.State != api.StatePaused {
			if v.VMM != nil {
				ts.Fatalf("VM %s is %s and has a VMM", v.Name, v.State)
			}
			continue
		}
		running = append(running, v.ID)
		taps = append(taps, tapOf(ts, filepath.Join(state, v.ID)))
		exist(ts, filepath.Join(runtime, v.ID), "api.sock", "v.sock", "v.sock_1022", "console")
		if !slices.ContainsFunc(testenv.ProcessesIn(filepath.Join(runtime, v.ID)), func(p string) bool {
			return strings.HasPrefix(p, strconv.Itoa(v.VMM.PID)+" ")
		}) {
			ts.Fatalf("VM %s runs, and its VMM %d does not", v.Name, v.VMM.PID)
		}
	}
	same(ts, "directories of VMs", names(state), ids)
	same(ts, "runtime directories", names(runtime), running)
	same(ts, "VMMs", placesOfVMMs(runtime), running)
	same(ts, "taps in the rules", tapsInRules(ts), taps)
	awaitTaps(ts, taps)
}

func brief(vms []api.VM) []string {
	var all []string
	for _, v := range vms {
		all = append(all, fmt.Sprintln(v.ID, v.Name, v.State, v.Reason, v.VMM))
	}
	return all
}

func exist(ts *testscript.TestScript, dir string, files ...string) {
	for _, name := range files {
		_, err := os.Lstat(filepath.Join(dir, name))
		ts.Check(err)
	}
}

func same(ts *testscript.TestScript, what string, got, want []string) {
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		ts.Fatalf("%s: there are %q, there should be %q", what, got, want)
	}
}

func names(dir string) []string {
	var found []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

func tapOf(ts *testscript.TestScript, dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "vm.json"))
	ts.Check(err)
	var record struct{ Lease struct{ Tap string } }
	ts.Check(json.Unmarshal(data, &record))
	return record.Lease.Tap
}

// placesOfVMMs are the names of the directories below dir in which a process
// runs.
func placesOfVMMs(dir string) []string {
	var found []string
	for _, line := range testenv.ProcessesIn(dir) {
		pid, _, _ := strings.Cut(line, " ")
		cwd, err := os.Readlink(filepath.Join("/proc", pid, "cwd"))
		if err == nil && !slices.Contains(found, filepath.Base(cwd)) {
			found = append(found, filepath.Base(cwd))
		}
	}
	return found
}

// tapsInRules are those from which frames are let in.
func tapsInRules(ts *testscript.TestScript) []string {
	kernel, err := nftables.New()
	ts.Check(err)
	const ifNameSize = 16
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: "banger-" + ts.Getenv("BRIDGE")}
	guests, err := kernel.GetSetByName(table, "guests")
	if err != nil {
		return nil // no VM, no table
	}
	elements, err := kernel.GetSetElements(guests)
	ts.Check(err)
	var taps []string
	for _, e := range elements {
		taps = append(taps, strings.TrimRight(string(e.Key[:ifNameSize]), "\x00"))
	}
	return taps
}

// awaitTaps waits until there are these taps and no others: those that a VM had
// go a moment after it.
func awaitTaps(ts *testscript.TestScript, want []string) {
	changes, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	ts.Check(netlink.LinkSubscribe(changes, done))
	bridge := ts.Getenv("BRIDGE")
	slices.Sort(want)
	for late := time.After(patience); ; {
		var got []string
		links, err := netlink.LinkList()
		ts.Check(err)
		for _, l := range links {
			if name := l.Attrs().Name; l.Type() == "tuntap" && strings.HasPrefix(name, bridge) && !isDigit(name, len(bridge)) {
				got = append(got, name)
			}
		}
		if slices.Sort(got); slices.Equal(got, want) {
			return
		}
		select {
		case <-changes:
		case <-late:
			ts.Fatalf("taps: there are %q, there should be %q", got, want)
		}
	}
}

// unplug VM takes the VM's network device away on the host.
func unplug(ts *testscript.TestScript, neg bool, args []string) {
	var v api.VM
	ask(ts, &v, "vm", "show", args[0])
	tap, err := netlink.LinkByName(tapOf(ts, v.Dir))
	ts.Check(err)
	ts.Check(netlink.LinkDel(tap))
}
