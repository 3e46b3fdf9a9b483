package fcserver

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/banger-vm/banger/internal/firecracker"
)

// Machine runs one guest. fcserver keeps every rule of the API (order,
// fields, limits, files opened, sockets bound) and calls a Machine only for
// what a rule allows; calls never overlap, but for Dial.
//
// A method that cannot do what its argument asks returns *[Unsupported]: the
// client then gets a 400 that names the field. Nothing is accepted and
// ignored.
type Machine interface {
	// Check says whether the machine could boot this configuration so far.
	// It is asked after each request before the boot, with the whole
	// configuration as it would become; when it refuses, the request fails
	// and the configuration stays as it was.
	Check(Config) error

	// Boot starts the guest and returns when its processors run. An error
	// leaves the machine as if Boot had not been called, and it may be called
	// again. ctx ends when the process is told to end, not with the request.
	Boot(ctx context.Context, cfg Config, env Env) error

	// Pause stops the guest's processors, Resume lets them run. Both are
	// harmless when repeated.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// SendCtrlAltDel presses these keys on the guest's keyboard.
	SendCtrlAltDel(ctx context.Context) error

	// PatchDrive gives the drive another file or other limits, and
	// PatchNetwork an interface other limits. The id is known to exist.
	PatchDrive(ctx context.Context, u DriveUpdate) error
	PatchNetwork(ctx context.Context, u firecracker.NetworkInterfaceUpdate) error

	// SetBalloon asks the guest to give this much memory back.
	// BalloonStats is asked only when the balloon was made with statistics.
	SetBalloon(ctx context.Context, mib uint32) error
	BalloonStats(ctx context.Context) (firecracker.BalloonStats, error)

	// Dial opens a stream to a vsock port of the guest. An error means that
	// nobody listens there; the client of the vsock socket then sees its
	// connection end without OK. The connection is half-closed by
	// CloseWrite where it has that method. Dial is called concurrently.
	Dial(ctx context.Context, port uint32) (net.Conn, error)

	// Done is closed when the machine has ended by itself (the guest reset
	// it) or by Close; Status is then the exit status of the process: 0 when
	// the guest reset the machine, else one of the Exit constants. A guest
	// that powers itself off does not end the machine.
	Done() <-chan struct{}
	Status() int

	// Close ends the machine at once, as a power cut would, and waits until
	// nothing of it is left. It is harmless when repeated, and before Boot.
	Close() error
}

// Unsupported refuses what this machine cannot do.
type Unsupported struct {
	// Field is the API's name of what cannot be had, like "huge_pages".
	Field string
	// Reason is a short clause: what the machine has instead, or why not.
	Reason string
}

func (e *Unsupported) Error() string {
	return fmt.Sprintf("`%s`: %s", e.Field, e.Reason)
}

// Env is what the process lends to the machine for its life.
type Env struct {
	// Serial is the guest's first serial port, the process's own stdin and
	// stdout. What the guest writes goes to Out; when it is full and
	// non-blocking, bytes are dropped. In is nil when stdin is neither a
	// terminal nor a pipe.
	In, Out *os.File
	// DialHost opens the stream that the guest asked for by connecting to
	// CID 2 at this port: it connects to `<uds_path>_<port>`. An error means
	// that the guest's connection is to be reset. It is nil without a vsock.
	DialHost func(ctx context.Context, port uint32) (net.Conn, error)
	// Logf writes one line to the process's log, at level Info.
	Logf func(format string, args ...any)
}

// Config is a whole machine, with every default filled in.
//
// Files were opened when their request was served, as Firecracker does:
// a machine uses the open file, and Path is only for messages. The machine
// may keep them open as long as it likes; fcserver closes them at its end.
type Config struct {
	ID      string
	Machine firecracker.MachineConfig
	// Kernel is an ELF vmlinux, nil when no boot source was given yet.
	Kernel *File
	Initrd *File
	// Cmdline is the kernel's whole command line, with the root= of a root
	// drive appended; a machine appends only what it needs itself.
	Cmdline string
	// Drives are in the guest's order: the first is vda.
	Drives []Drive
	// Networks are in the guest's order: the first is eth0. A machine opens
	// the tap by its name at Boot.
	Networks []firecracker.NetworkInterface
	// Vsock, Balloon and Entropy are nil when the guest has none.
	Vsock   *firecracker.Vsock
	Balloon *firecracker.Balloon
	Entropy *firecracker.Entropy
	// MMDS is set when guests should reach a metadata service.
	MMDS *firecracker.MMDSConfig
	// BootTimer is the flag --boot-timer.
	BootTimer bool
}

// File is a file of the host, opened at the time it was named.
type File struct {
	Path string
	*os.File
}

// Drive is a block device and its open file (read-only where ReadOnly says).
type Drive struct {
	ID          string
	File        *File
	ReadOnly    bool
	Root        bool
	PartUUID    string
	Cache       firecracker.CacheType
	Engine      firecracker.IOEngine
	RateLimiter *firecracker.RateLimiter
}

// DriveUpdate changes a drive of the running machine. File is nil when only
// the limits change, and RateLimiter when only the file does.
type DriveUpdate struct {
	ID          string
	File        *File
	RateLimiter *firecracker.RateLimiter
}
