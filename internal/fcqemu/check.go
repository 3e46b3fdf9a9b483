package fcqemu

import (
	"fmt"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

// maxDevices is how many virtio devices a guest may have, as in Firecracker
// without PCI.
const maxDevices = 17

// maxCmdline is the size of the x86 kernel's own buffer, its final zero
// included. Firecracker has the same limit.
const maxCmdline = 2048

// Check refuses what QEMU does not do as Firecracker does.
func (m *Machine) Check(cfg fcserver.Config) error {
	for _, check := range []func(fcserver.Config) error{
		checkMachine, checkDrives, checkNetworks, checkDevices,
	} {
		if err := check(cfg); err != nil {
			return err
		}
	}
	return nil
}

func refuse(field, reason string) error {
	return &fcserver.Unsupported{Field: field, Reason: reason}
}

const noLimits = "fcqemu sets no limits of bytes and operations"

func checkMachine(cfg fcserver.Config) error {
	m := cfg.Machine
	switch {
	case m.CPUTemplate != "" && m.CPUTemplate != "None":
		return refuse("cpu_template", "QEMU has its own models of processors")
	case m.TrackDirtyPages:
		return refuse("track_dirty_pages", "fcqemu makes no incremental snapshots")
	case m.HugePages != "" && m.HugePages != firecracker.HugePagesNone:
		return refuse("huge_pages", "fcqemu's guest memory has the host's ordinary pages")
	case cfg.BootTimer:
		return refuse("--boot-timer", "fcqemu has no boot timer device")
	case cfg.MMDS != nil:
		return refuse("network_interfaces", "fcqemu has no metadata service")
	case cfg.Entropy != nil && cfg.Entropy.RateLimiter != nil:
		return refuse("rate_limiter", noLimits)
	case cfg.Balloon != nil && cfg.Balloon.FreePageHinting:
		return refuse("free_page_hinting", "QEMU hints free pages only while it migrates")
	}
	return nil
}

func checkDrives(cfg fcserver.Config) error {
	for _, d := range cfg.Drives {
		switch {
		case d.RateLimiter != nil:
			return refuse("rate_limiter", noLimits)
		case d.Engine == firecracker.EngineAsync:
			return refuse("io_engine", "fcqemu has the engine Sync only")
		}
	}
	return nil
}

func checkNetworks(cfg fcserver.Config) error {
	for _, n := range cfg.Networks {
		switch {
		case n.RxRateLimiter != nil:
			return refuse("rx_rate_limiter", noLimits)
		case n.TxRateLimiter != nil:
			return refuse("tx_rate_limiter", noLimits)
		}
	}
	return nil
}

func checkDevices(cfg fcserver.Config) error {
	n := len(cfg.Drives) + len(cfg.Networks)
	for _, there := range []bool{cfg.Vsock != nil, cfg.Balloon != nil, cfg.Entropy != nil} {
		if there {
			n++
		}
	}
	if n > maxDevices {
		return fmt.Errorf("a guest can have %d devices, this would be number %d", maxDevices, n)
	}
	return nil
}

// checkCmdline leaves room for what is appended to the guest's command line:
// a kernel cuts off what is too long, without a word. Like Firecracker the
// machine minds at its boot only.
func checkCmdline(cmdline string, p processor) error {
	whole := p.cmdline(cmdline)
	if over := len(whole) + 1 - maxCmdline; over > 0 {
		return refuse("boot_args", fmt.Sprintf("with what fcqemu appends the kernel's command line would be %d bytes too long", over))
	}
	return nil
}
