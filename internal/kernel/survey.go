package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/kernel/depmod"
)

// part is something that a guest's kernel has to have.
type part struct {
	what   string // for a person: "virtio block devices"
	config string // its name in the kernel's configuration, without CONFIG_
	module string // "" when it can't be one
	mark   string // what stands in a kernel that has it built in
	// without says what a VM can't do without it; where it can't even start,
	// required is set.
	without  string
	required bool
}

// parts is what banger's guests use.
var parts = []part{
	{"ACPI", "ACPI", "", "ACPI: Core revision", "its devices are not found", true},
	{"an initial root filesystem", "BLK_DEV_INITRD", "", "Trying to unpack rootfs image as initramfs", "banger's first process is not found", true},
	{"devtmpfs", "DEVTMPFS", "", "devtmpfs: ", "its drives have no names", true},
	{"virtio over MMIO", "VIRTIO_MMIO", "virtio_mmio", "\x00virtio-mmio\x00", "its devices are not found", true},
	{"virtio block devices", "VIRTIO_BLK", "virtio_blk", "\x00virtio_blk\x00", "it has no disk", true},
	{"ext4", "EXT4_FS", "ext4", "EXT4-fs", "its disk can't be mounted", true},
	{vsockPart, "VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport", "\x00vmw_vsock_virtio_transport\x00", "it does not work on firecracker", false},
	{consolePart, "VIRTIO_CONSOLE", "virtio_console", "\x00virtio_console\x00", "it does not work on fcqemu", false},
	{"virtio network devices", "VIRTIO_NET", "virtio_net", "\x00virtio_net\x00", "VMs have no network", false},
	{"a serial console", "SERIAL_8250_CONSOLE", "", "\x00ttyS\x00", "why a VM ended may stay unknown", false},
}

const (
	vsockPart   = "virtio vsock"
	consolePart = "the virtio console"
)

// mapperParts together are the device-mapper that shares an image among VMs.
var mapperParts = []part{
	{"device-mapper", "BLK_DEV_DM", "dm_mod", "device-mapper: ", wholeCopies, false},
	{"device-mapper's snapshots", "DM_SNAPSHOT", "dm_snapshot", "\x00snapshot-origin\x00", wholeCopies, false},
	{"device-mapper's zeros", "DM_ZERO", "dm_zero", "", wholeCopies, false},
}

const wholeCopies = "each VM gets a copy of its image of its own"

// presence says whether a kernel has a part.
type presence int

const (
	unknown presence = iota
	missing
	asModule
	builtin
)

// survey is what can be found out about a kernel without starting it.
type survey struct {
	vmlinux []byte
	config  config          // from the image itself; nil: it does not carry it
	builtin map[string]bool // names of modules that are built in; nil: not known
	modules *depmod.Tree
}

func newSurvey(vmlinux []byte, modules *depmod.Tree, builtinList string) *survey {
	s := &survey{vmlinux: vmlinux, config: embeddedConfig(vmlinux), modules: modules}
	if builtinList != "" {
		s.builtin = map[string]bool{}
		for _, path := range strings.Fields(builtinList) {
			s.builtin[(&depmod.Module{Path: path}).Name()] = true
		}
	}
	return s
}

// has looks for a part: in the kernel's configuration, when the image carries
// it; else in the list of what is built in; else among the modules and for the
// texts of the part in the image. Where only texts could tell, none means that
// it is not known.
func (s *survey) has(p part) presence {
	module := p.module != "" && s.modules.Find(p.module) != nil
	if s.config != nil {
		switch {
		case s.config[p.config] == "y":
			return builtin
		case s.config[p.config] == "m" && module:
			return asModule
		}
		return missing
	}
	switch {
	case s.builtin[p.module]:
		return builtin
	case module:
		return asModule
	case s.builtin != nil && p.module != "":
		return missing
	case p.mark != "" && bytes.Contains(s.vmlinux, []byte(p.mark)):
		return builtin
	}
	return unknown
}

// Report is what is known of a kernel that was looked at.
type Report struct {
	Missing []string // a sentence each: what VMs can't do with it
	Unknown []string // what it may have or not
	// NoDeviceMapper: VMs need whole copies of their images.
	NoDeviceMapper bool
}

// report gives what there is to say about the kernel; an error when no VM could
// start with it.
func (s *survey) report() (Report, error) {
	var r Report
	var fatal []string
	state := map[string]presence{}
	for _, p := range parts {
		state[p.what] = s.has(p)
		switch state[p.what] {
		case missing:
			sentence := fmt.Sprintf("it has no %s: %s", strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(p.what, "the "), "an "), "a "), p.without)
			r.Missing = append(r.Missing, sentence)
			if p.required {
				fatal = append(fatal, sentence)
			}
		case unknown:
			r.Unknown = append(r.Unknown, p.what)
		}
	}
	if state[vsockPart] == missing && state[consolePart] == missing {
		fatal = append(fatal, "it has neither virtio vsock nor a virtio console: banger can't reach its guests")
	}
	r.lookForMapper(s)
	if len(fatal) > 0 {
		return r, errors.New(strings.Join(fatal, "; "))
	}
	return r, nil
}

// lookForMapper takes a device-mapper that is not certain to be there for
// missing: VMs work without, and don't start with one that is not there.
func (r *Report) lookForMapper(s *survey) {
	for _, p := range mapperParts {
		found := s.has(p)
		if found == unknown && p.mark == "" && !r.NoDeviceMapper {
			continue // it comes with the others; there is nothing to tell it by
		}
		if found == missing || found == unknown {
			r.NoDeviceMapper = true
		}
	}
	if r.NoDeviceMapper {
		r.Missing = append(r.Missing, "it has no device-mapper with snapshots: "+wholeCopies)
	}
}

// embeddedConfig reads the configuration that a kernel built with
// CONFIG_IKCONFIG carries: a gzip between two marks (kernel/configs.c).
func embeddedConfig(vmlinux []byte) config {
	const begin, end = "IKCFG_ST", "IKCFG_ED"
	_, rest, found := bytes.Cut(vmlinux, []byte(begin+"\x1f\x8b"))
	if !found {
		return nil
	}
	packed := rest[:max(0, bytes.Index(rest, []byte(end)))]
	r, err := gzip.NewReader(io.MultiReader(strings.NewReader("\x1f\x8b"), bytes.NewReader(packed)))
	if err != nil {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(r, maxConfig))
	if err != nil {
		return nil
	}
	return parseConfig(string(text))
}

// maxConfig is more than any kernel's configuration has.
const maxConfig = 4 << 20

// config is a kernel's configuration: the values by their names without CONFIG_.
type config map[string]string

func parseConfig(text string) config {
	c := config{}
	for line := range strings.Lines(text) {
		name, value, set := strings.Cut(strings.TrimSpace(line), "=")
		if name, ok := strings.CutPrefix(name, "CONFIG_"); ok && set {
			c[name] = value
		}
	}
	return c
}

// hz is how often a second the kernel's clock ticks; 0 when c does not say so.
func (c config) hz() int {
	hz, err := strconv.Atoi(c["HZ"])
	if err != nil {
		return 0
	}
	return hz
}

var banner = regexp.MustCompile(`Linux version ([0-9][0-9A-Za-z.+~_-]{0,63}) \(`)

// releaseOf gives what `uname -r` says in a guest that runs the kernel.
func releaseOf(vmlinux []byte) (string, error) {
	m := banner.FindSubmatch(vmlinux)
	if m == nil {
		return "", errors.New("it does not say its version: it is no Linux kernel")
	}
	return string(m[1]), nil
}

// machines are the processors that kernels are for, as Go calls them.
var machines = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_386: "386", elf.EM_AARCH64: "arm64", elf.EM_RISCV: "riscv64", elf.EM_S390: "s390x", elf.EM_PPC64: "ppc64le"}

// checkMachine refuses a kernel that is not for this processor, and one that
// can't be entered.
func checkMachine(vmlinux []byte) error {
	file, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return fmt.Errorf("it is no ELF file: %w", err)
	}
	if arch := machines[file.Machine]; arch != runtime.GOARCH {
		if arch == "" {
			arch = file.Machine.String()
		}
		return fmt.Errorf("it is for %s processors, and this host has %s", arch, runtime.GOARCH)
	}
	loads := slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_LOAD })
	if file.Type != elf.ET_EXEC || file.Entry == 0 || !loads {
		return errors.New("it is no kernel that can be started: an ELF program with an entry is needed (vmlinux)")
	}
	return nil
}
