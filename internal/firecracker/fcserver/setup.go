package fcserver

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/banger-vm/banger/internal/firecracker"
	"golang.org/x/sys/unix"
)

// setup is a machine before its start. Each method is one request; one that
// fails leaves the setup as it was.
type setup struct {
	machine Machine
	config  Config
	// boot is the boot source as it was asked for.
	boot firecracker.BootSource
	// touched says that something of a machine's boot was set, after which
	// no snapshot can be loaded.
	touched bool
	vsock   *vsockServer
}

func newSetup(id string, machine Machine, bootTimer bool) *setup {
	return &setup{machine: machine, config: Config{
		ID:        id,
		Machine:   firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: 128, HugePages: firecracker.HugePagesNone},
		BootTimer: bootTimer,
	}}
}

// change asks the machine about the configuration that change makes, and
// keeps it when the machine has no objection.
func (s *setup) change(change func(*Config)) error {
	s.touched = true
	next := s.config
	next.Drives = slices.Clone(next.Drives)
	next.Networks = slices.Clone(next.Networks)
	change(&next)
	if err := s.machine.Check(next); err != nil {
		return prefixed("Internal VMM error", err)
	}
	s.config = next
	return nil
}

// maxVCPUs is upstream's limit.
const maxVCPUs = 32

func (s *setup) updateMachine(u machineUpdate) error {
	s.touched = true
	next := u.apply(s.config.Machine)
	if err := s.checkMachine(next); err != nil {
		return prefixed("Machine config error", err)
	}
	return s.change(func(c *Config) { c.Machine = next })
}

func (s *setup) checkMachine(m firecracker.MachineConfig) error {
	odd := m.VCPUCount > 1 && m.VCPUCount%2 == 1
	switch {
	case m.VCPUCount == 0 || m.VCPUCount > maxVCPUs || m.SMT && odd:
		return errors.New("The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.") //nolint:staticcheck // upstream's text
	case m.MemSizeMiB == 0 || m.HugePages == firecracker.HugePages2M && m.MemSizeMiB%2 == 1:
		return errors.New("The memory size (MiB) is either 0, or not a multiple of the configured page size.") //nolint:staticcheck // upstream's text
	case s.config.Balloon != nil && m.MemSizeMiB < int(s.config.Balloon.AmountMiB):
		return errors.New("The memory size (MiB) is smaller than the previously set balloon device target size.") //nolint:staticcheck // upstream's text
	case s.config.Balloon != nil && m.HugePages != firecracker.HugePagesNone:
		return errors.New("Firecracker's huge pages support is incompatible with memory ballooning.") //nolint:staticcheck // upstream's text
	}
	return nil
}

// Firecracker's default command line (v1.12.1), and the longest one.
const (
	defaultCmdline = "reboot=k panic=1 pci=off nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd"
	maxCmdline     = 2048
)

func (s *setup) setBoot(b firecracker.BootSource, initrdNamed bool) error {
	s.touched = true
	kernel, err := openFile(b.KernelImagePath, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("Boot source error: The kernel file cannot be opened: %s", rustError(err)) //nolint:staticcheck // upstream's text
	}
	var initrd *File
	if initrdNamed {
		if initrd, err = openFile(b.InitrdPath, os.O_RDONLY); err != nil {
			kernel.Close()
			return fmt.Errorf("Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. %s", rustError(err)) //nolint:staticcheck // upstream's text
		}
	}
	cmdline := defaultCmdline
	if b.BootArgs != nil {
		cmdline = *b.BootArgs
	}
	replaced := s.config
	err = checkCmdline(cmdline)
	if err == nil {
		err = s.change(func(c *Config) { c.Kernel, c.Initrd, c.Cmdline = kernel, initrd, cmdline })
	}
	if err != nil {
		return errors.Join(err, closeFiles(kernel, initrd))
	}
	s.boot = b
	return closeFiles(replaced.Kernel, replaced.Initrd)
}

func checkCmdline(text string) error {
	if len(text) >= maxCmdline {
		return errors.New("Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided.") //nolint:staticcheck // upstream's text
	}
	return nil
}

func closeFiles(files ...*File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func openFile(path string, mode int) (*File, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	return &File{Path: path, File: file}, nil
}

func (s *setup) putDrive(d firecracker.Drive, pathNamed bool) error {
	s.touched = true
	at := slices.IndexFunc(s.config.Drives, func(have Drive) bool { return have.ID == d.DriveID })
	hasRoot := len(s.config.Drives) > 0 && s.config.Drives[0].Root
	if d.IsRootDevice && hasRoot && at != 0 {
		return errors.New("Drive config error: A root block device already exists!") //nolint:staticcheck // upstream's text
	}
	drive, err := openDrive(d, pathNamed)
	if err != nil {
		return fmt.Errorf("Drive config error: Unable to create the virtio block device: %w", err)
	}
	var replaced *File
	if at >= 0 {
		replaced = s.config.Drives[at].File
	}
	err = s.change(func(c *Config) { c.Drives = placeDrive(c.Drives, drive, at) })
	if err != nil {
		return errors.Join(err, drive.File.Close())
	}
	return closeFiles(replaced)
}

// placeDrive puts a drive at its old place or at the end, a root drive first.
func placeDrive(drives []Drive, d Drive, at int) []Drive {
	switch {
	case at < 0 && d.Root:
		return append([]Drive{d}, drives...)
	case at < 0:
		return append(drives, d)
	}
	drives[at] = d
	if d.Root {
		drives[0], drives[at] = drives[at], drives[0]
	}
	return drives
}

func openDrive(d firecracker.Drive, pathNamed bool) (Drive, error) {
	if d.Socket != "" && !pathNamed {
		return Drive{}, &Unsupported{Field: "socket", Reason: "there are no vhost-user drives here; name a file in `path_on_host`"}
	}
	if d.Socket != "" || !pathNamed {
		return Drive{}, errors.New("Invalid block config.") //nolint:staticcheck // upstream's text
	}
	readOnly := d.IsReadOnly != nil && *d.IsReadOnly
	file, err := openDisk(d.PathOnHost, readOnly)
	if err != nil {
		return Drive{}, fmt.Errorf("Virtio backend error: %w", err) //nolint:staticcheck // upstream's text
	}
	drive := Drive{
		ID: d.DriveID, File: file, ReadOnly: readOnly, Root: d.IsRootDevice, PartUUID: d.PartUUID,
		Cache: d.CacheType, Engine: d.IOEngine, RateLimiter: d.RateLimiter,
	}
	if drive.Cache == "" {
		drive.Cache = firecracker.CacheUnsafe
	}
	if drive.Engine == "" {
		drive.Engine = firecracker.EngineSync
	}
	return drive, nil
}

func openDisk(path string, readOnly bool) (*File, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	file, err := openFile(path, mode)
	if err != nil {
		return nil, fmt.Errorf("Error manipulating the backing file: %s %s", rustError(err), path)
	}
	return file, nil
}

func (s *setup) putNetwork(n firecracker.NetworkInterface) error {
	s.touched = true
	same := func(have firecracker.NetworkInterface) bool { return have.IfaceID == n.IfaceID }
	for _, have := range s.config.Networks {
		if n.GuestMAC != "" && have.GuestMAC == n.GuestMAC && !same(have) {
			return fmt.Errorf("Network config error: The MAC address is already in use: %s", n.GuestMAC) //nolint:staticcheck // upstream's text
		}
	}
	if err := s.tryTap(n, same); err != nil {
		return fmt.Errorf("Network config error: Could not create the network device: Open tap device failed: %w", err) //nolint:staticcheck // upstream's text
	}
	return s.change(func(c *Config) {
		// Upstream swaps the last one into the place of one that is replaced.
		if at := slices.IndexFunc(c.Networks, same); at >= 0 {
			last := len(c.Networks) - 1
			c.Networks[at] = c.Networks[last]
			c.Networks = c.Networks[:last]
		}
		c.Networks = append(c.Networks, n)
	})
}

// tryTap opens the tap as the machine will, and lets it go, so that a name
// that cannot be had is told at once.
func (s *setup) tryTap(n firecracker.NetworkInterface, same func(firecracker.NetworkInterface) bool) error {
	for _, have := range s.config.Networks {
		if have.HostDevName == n.HostDevName && !same(have) {
			return tapError(unix.EBUSY, n.HostDevName)
		}
	}
	tap, err := OpenTap(n.HostDevName)
	if err != nil {
		return err
	}
	return tap.Close()
}

// OpenTap opens a tap by its name in this process's network namespace, with
// Firecracker's flags: no packet information, a virtio header, one queue. One
// that does not exist is made, where that is allowed, until it is closed.
func OpenTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("Couldn't open /dev/net/tun: %s", rustError(err)) //nolint:staticcheck // upstream's text
	}
	request, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		unix.Close(fd)
		return nil, errors.New("Invalid interface name") //nolint:staticcheck // upstream's text
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return nil, tapError(err, name)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func tapError(err error, name string) error {
	return fmt.Errorf("Error while creating ifreq structure: %s. Invalid TUN/TAP Backend provided by %s. Check our documentation on setting up the network devices.", rustError(err), name) //nolint:staticcheck // upstream's text
}

// setVsock binds the socket. Upstream removes the socket of a vsock that is
// replaced first, and then has none when the new one cannot be bound.
func (s *setup) setVsock(v firecracker.Vsock) error {
	s.touched = true
	next := s.config
	next.Vsock = &v
	if err := s.machine.Check(next); err != nil {
		return prefixed("Vsock config error", err)
	}
	if err := s.dropVsock(); err != nil {
		return fmt.Errorf("Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: %s", rustError(err)) //nolint:staticcheck // upstream's text
	}
	server, err := listenVsock(v.UDSPath)
	if err != nil {
		return fmt.Errorf("Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: %w", err) //nolint:staticcheck // upstream's text
	}
	s.vsock = server
	v.VsockID = ""
	return s.change(func(c *Config) { c.Vsock = &v })
}

func (s *setup) dropVsock() error {
	if s.vsock == nil {
		return nil
	}
	path := s.config.Vsock.UDSPath
	s.vsock.Close()
	s.vsock, s.config.Vsock = nil, nil
	return os.Remove(path)
}

func (s *setup) setEntropy(e firecracker.Entropy) error {
	return s.change(func(c *Config) { c.Entropy = &e })
}

func (s *setup) setBalloon(b firecracker.Balloon) error {
	s.touched = true
	if int(b.AmountMiB) > s.config.Machine.MemSizeMiB {
		return errors.New("Balloon config error: Amount of pages requested is too large.") //nolint:staticcheck // upstream's text
	}
	if s.config.Machine.HugePages != firecracker.HugePagesNone {
		return errors.New("Balloon config error: Firecracker's huge pages support is incompatible with memory ballooning.") //nolint:staticcheck // upstream's text
	}
	return s.change(func(c *Config) { c.Balloon = &b })
}

func (s *setup) setMMDS(m firecracker.MMDSConfig) error {
	s.touched = true
	full, err := checkMMDS(m, s.config.Networks)
	if err != nil {
		return prefixed("MMMDS config error", err)
	}
	return s.change(func(c *Config) { c.MMDS = &full })
}

// apply is --config-file, in upstream's order.
func (s *setup) apply(f configFile) error {
	if f.MachineConfig != nil {
		if err := s.updateMachine(updateOf(*f.MachineConfig)); err != nil {
			return err
		}
	}
	if f.CPUConfig != "" {
		return &Unsupported{Field: "cpu-config", Reason: "processors cannot be tailored here"}
	}
	if err := s.setBoot(f.BootSource, f.BootSource.InitrdPath != ""); err != nil {
		return err
	}
	for _, d := range f.Drives {
		if err := s.putDrive(d, d.PathOnHost != ""); err != nil {
			return err
		}
	}
	for _, n := range f.NetworkInterfaces {
		if err := s.putNetwork(n); err != nil {
			return err
		}
	}
	return s.applyDevices(f)
}

func (s *setup) applyDevices(f configFile) error {
	if f.Vsock != nil {
		if err := s.setVsock(*f.Vsock); err != nil {
			return err
		}
	}
	if f.Balloon != nil {
		if err := s.setBalloon(*f.Balloon); err != nil {
			return err
		}
	}
	if f.MMDSConfig != nil {
		if err := s.setMMDS(*f.MMDSConfig); err != nil {
			return err
		}
	}
	if f.Entropy != nil {
		return s.setEntropy(*f.Entropy)
	}
	return nil
}

// ready returns the configuration to boot, with what Firecracker appends to
// the command line.
func (s *setup) ready() (Config, error) {
	c := s.config
	if c.Kernel == nil {
		return c, errors.New("Cannot start microvm without kernel configuration.") //nolint:staticcheck // upstream's text
	}
	if err := checkELF(c.Kernel); err != nil {
		return c, fmt.Errorf("System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: %w", err) //nolint:staticcheck // upstream's text
	}
	if len(c.Drives) > 0 && c.Drives[0].Root {
		c.Cmdline += rootArguments(c.Drives[0])
	}
	if len(c.Cmdline) >= maxCmdline {
		return c, errors.New("Invalid kernel command line: String is too large for the command line.") //nolint:staticcheck // upstream's text
	}
	return ownCopy(c), nil
}

// ownCopy is for the machine, while later requests change the original.
func ownCopy(c Config) Config {
	c.Drives = slices.Clone(c.Drives)
	c.Networks = slices.Clone(c.Networks)
	if c.Balloon != nil {
		c.Balloon = new(*c.Balloon)
	}
	return c
}

func rootArguments(d Drive) string {
	root := " root=/dev/vda"
	if d.PartUUID != "" {
		root = " root=PARTUUID=" + d.PartUUID
	}
	if d.ReadOnly {
		return root + " ro"
	}
	return root + " rw"
}

// elfHeader is the size of an ELF64 header.
const elfHeader = 64

func checkELF(kernel *File) error {
	header := make([]byte, elfHeader)
	if _, err := kernel.ReadAt(header, 0); err != nil {
		return errors.New("Unable to read elf header") //nolint:staticcheck // upstream's text
	}
	if string(header[:4]) != "\x7fELF" {
		return errors.New("Invalid Elf magic number") //nolint:staticcheck // upstream's text
	}
	return nil
}
