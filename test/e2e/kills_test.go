//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/testenv"
	"github.com/banger-vm/banger/test/agree"
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
	clientEndsAt(ts, args, syscall.SIGKILL)
}

// interruptAt is killClientAt by Ctrl-C, of which banger says that it was it.
func interruptAt(ts *testscript.TestScript, neg bool, args []string) {
	if status := clientEndsAt(ts, args, syscall.SIGINT); status != 130 {
		ts.Fatalf("%s was interrupted and ended with status %d, want 130", strings.Join(args[1:], " "), status)
	}
}

// clientEndsAt gives the exit status of the program.
func clientEndsAt(ts *testscript.TestScript, args []string, signal syscall.Signal) int {
	program, halted := haltAt(ts, args)
	past, err := command(ts, []string{"banger", "daemon", "logs"}).Output()
	ts.Check(err)
	ts.Check(program.Process.Signal(signal))
	_ = program.Wait()
	log, first := []string{"banger", "daemon", "logs", "-f"}, bytes.Count(past, []byte("\n"))
	op := awaitLines(ts, first, log, `msg="its client is gone" op=(\w+)`)[1]
	halted.Open()
	awaitLines(ts, first, log, `msg=(done|failed) op=`+op)
	agrees(ts, false, nil)
	return program.ProcessState.ExitCode()
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
	program.Dir = ts.MkAbs(".")
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
	host := agree.Host{
		VMs:      filepath.Join(ts.Getenv("XDG_STATE_HOME"), "banger/vms"),
		Runtime:  filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger/vm"),
		Bridge:   ts.Getenv("BRIDGE"),
		Patience: patience,
	}
	_, err := host.Check(func() (list []api.VM, err error) {
		ask(ts, &list, "vm", "list")
		return list, nil
	})
	ts.Check(err)
}

// unplug VM takes the VM's network device away on the host.
func unplug(ts *testscript.TestScript, neg bool, args []string) {
	var v api.VM
	ask(ts, &v, "vm", "show", args[0])
	name, err := agree.TapOf(v.Dir)
	ts.Check(err)
	tap, err := netlink.LinkByName(name)
	ts.Check(err)
	ts.Check(netlink.LinkDel(tap))
}
