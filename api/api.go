// Package api is the wire between banger's client and bangerd: requests,
// events, errors and what they carry. It holds no logic and imports only the
// standard library, so that any program can use it.
//
// The daemon serves HTTP/1.1 over a unix socket. Long operations answer with
// newline-delimited JSON [Event] values; streams (exec, ssh) answer 101 to an
// Upgrade and then carry bytes.
package api

import "time"

// Version is the build's version, set by the linker. Client and daemon compare
// it: a daemon of another version is told about and mended by a restart.
var Version = "dev"

// VersionHeader carries [Version] in every request and every response.
const VersionHeader = "Banger-Version"

// Kind says what sort of error happened, for programs and for the exit code.
type Kind string

// The kinds, declared here once.
const (
	KindInternal     Kind = "internal"      // banger itself failed
	KindBadRequest   Kind = "bad-request"   // wrong input; nothing was changed
	KindNotFound     Kind = "not-found"     // no such VM, image or kernel
	KindExists       Kind = "exists"        // the name is taken
	KindWrongState   Kind = "wrong-state"   // not possible in the VM's state
	KindNoSpace      Kind = "no-space"      // disk or memory would not be enough
	KindExhausted    Kind = "exhausted"     // no address left
	KindUnreachable  Kind = "unreachable"   // a mirror or registry did not answer
	KindUntrusted    Kind = "untrusted"     // a signature or a hash was wrong
	KindHost         Kind = "host"          // the host lacks something; doctor tells
	KindGuest        Kind = "guest"         // the guest failed or misbehaved
	KindGuestTimeout Kind = "guest-timeout" // the guest did not get ready in time
	KindCannotExec   Kind = "cannot-exec"   // the guest has the program but can't run it
	KindNoProgram    Kind = "no-program"    // the guest has no such program
	KindCanceled     Kind = "canceled"      // the client went away or pressed Ctrl-C
	KindForbidden    Kind = "forbidden"     // the peer may not call this
	KindUnauthorized Kind = "unauthorized"  // a registry wants other credentials
)

// Error is what every failed call answers with. Message says what happened,
// Hint how to mend it.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// State is where a VM is in its life.
type State string

// The states of a VM.
const (
	StateCreated  State = "created"
	StateStarting State = "starting"
	StateRunning  State = "running"
	StatePaused   State = "paused"
	StateStopping State = "stopping"
	StateStopped  State = "stopped"
	StateFailed   State = "failed"
	StateDeleting State = "deleting"
)

// Wait says how far the guest must have come before a start is over.
type Wait string

// The waits. WaitDefault is, under systemd, after tmpfiles and sockets.target;
// elsewhere it is the same as WaitAgent.
const (
	WaitDefault Wait = ""
	WaitAgent   Wait = "agent"
	WaitSystem  Wait = "system"
)

// CreateRequest asks for a new VM (POST /v1/vms). Zero values take the
// configured defaults.
type CreateRequest struct {
	Name      string `json:"name,omitempty"`
	Image     string `json:"image,omitempty"`
	Kernel    string `json:"kernel,omitempty"`
	VCPUs     int    `json:"vcpus,omitempty"`
	MemoryMiB int64  `json:"memory_mib,omitempty"`
	DiskMiB   int64  `json:"disk_mib,omitempty"`
	Wait      Wait   `json:"wait,omitempty"`
	NoStart   bool   `json:"no_start,omitempty"`
	// Remove deletes the VM when its session is over. The answer's event
	// stream then stays open after the result: closing it ends the session.
	Remove bool `json:"remove,omitempty"`
	// Ports lead from the host's loopback into the guest.
	Ports []Port `json:"ports,omitempty"`
	// NoCredentials keeps the user's credentials out of the guest, for good.
	NoCredentials bool `json:"no_credentials,omitempty"`
	// NoOpenSSH leaves a guest without an SSH server of its own as it is, for
	// good: banger serves SSH in it.
	NoOpenSSH bool `json:"no_openssh,omitempty"`
}

// StartRequest starts a VM (POST /v1/vms/{vm}/start and …/restart).
type StartRequest struct {
	Wait Wait `json:"wait,omitempty"`
}

// StopRequest stops a VM (POST /v1/vms/{vm}/stop). Timeout is how long the
// guest's init may take before the VMM is killed; zero takes the default.
type StopRequest struct {
	Timeout time.Duration `json:"timeout_ns,omitempty"`
	Force   bool          `json:"force,omitempty"`
}

// VM is what is known of one VM.
type VM struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`   // why it is in this state
	Step      string    `json:"step,omitempty"`     // how far an operation is that changes it
	Ready     bool      `json:"ready"`              // its agent is configured
	NoShell   bool      `json:"no_shell,omitempty"` // its image has no shell to log in to
	Image     string    `json:"image"`
	Kernel    string    `json:"kernel"`
	VCPUs     int       `json:"vcpus"`
	MemoryMiB int64     `json:"memory_mib"`
	DiskMiB   int64     `json:"disk_mib"`
	DiskUsed  int64     `json:"disk_used_bytes"` // bytes the copy-on-write file takes on the host
	Address   string    `json:"address,omitempty"`
	MAC       string    `json:"mac,omitempty"`
	Ports     []Port    `json:"ports,omitempty"`
	Remove    bool      `json:"remove,omitempty"`
	Created   time.Time `json:"created"`
	Started   time.Time `json:"started,omitzero"`
	VMM       *VMM      `json:"vmm,omitempty"`
	Starts    []Step    `json:"last_start,omitempty"`           // the steps of the last start
	StartedBy string    `json:"last_start_operation,omitempty"` // id of the operation that started it last
	Warning   string    `json:"warning,omitempty"`              // what was told before the last start
	Dir       string    `json:"dir"`                            // its directory on the host

	Workspaces []Workspace `json:"workspaces,omitempty"` // that went in
}

// VMM is the program a running VM runs on.
type VMM struct {
	Binary  string `json:"binary"`
	Version string `json:"version"`
	PID     int    `json:"pid"`
}

// Step is one named step of an operation and how long it took.
type Step struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

// Operation is the course of a long operation. Its ID is in the daemon's log,
// in its events and, of a start, in what is shown of the VM.
type Operation struct {
	ID    string        `json:"id"`
	Took  time.Duration `json:"took_ns"`
	Steps []Step        `json:"steps,omitempty"`
}

// Event is one line of a long operation's answer. Exactly one of the fields
// Step, Result and Error is set.
type Event struct {
	Step   *StepEvent `json:"step,omitempty"`
	Result *Result    `json:"result,omitempty"`
	Error  *Error     `json:"error,omitempty"`
}

// StepEvent tells of progress. Done and Total count bytes or things; Total 0
// means the end is not known.
type StepEvent struct {
	Operation string `json:"operation,omitempty"` // id of the long operation
	Name      string `json:"name"`
	Detail    string `json:"detail,omitempty"`
	Done      int64  `json:"done,omitempty"`
	Total     int64  `json:"total,omitempty"`
	Warning   bool   `json:"warning,omitempty"` // Detail must reach the person
}

// Result ends a long operation that went well.
type Result struct {
	Operation *Operation `json:"operation,omitempty"`

	VM       *VM       `json:"vm,omitempty"`
	Image    *Image    `json:"image,omitempty"`
	Exported *Exported `json:"exported,omitempty"`
	Kernel   *Kernel   `json:"kernel,omitempty"`
	Pruned   []string  `json:"pruned,omitempty"`
}

// Image is a root filesystem that VMs start from.
type Image struct {
	Name    string    `json:"name"`
	Source  string    `json:"source"` // "catalog", "bundle", "registered", …, [ImageBroken]
	Rootfs  string    `json:"rootfs,omitempty"`
	Kernel  string    `json:"kernel"`          // the kernel it starts with unless told otherwise
	Size    int64     `json:"size_bytes"`      // the filesystem's size
	Used    int64     `json:"disk_used_bytes"` // bytes it takes on the host
	Local   bool      `json:"local"`           // false: in the catalog, not built yet
	Managed bool      `json:"managed"`         // its file goes when it is deleted
	Created time.Time `json:"created,omitzero"`
	Detail  string    `json:"detail,omitempty"`

	Reference string `json:"reference,omitempty"` // of a container image: where it was pulled from
	Digest    string `json:"digest,omitempty"`    // "sha256:…"
	Platform  string `json:"platform,omitempty"`  // "linux/amd64"
}

// ImageBroken is the source of an image that no VM can start from, a registered one
// whose file is gone for instance. Its Detail says why.
const ImageBroken = "broken"

// RegisterImage names an existing ext4 file as an image (POST /v1/images).
type RegisterImage struct {
	Name   string `json:"name"`
	Rootfs string `json:"rootfs"` // absolute path
	Kernel string `json:"kernel_ref,omitempty"`
}

// Kernel is a kernel that VMs can start with.
type Kernel struct {
	Name    string    `json:"name"`
	Version string    `json:"version,omitempty"`
	Release string    `json:"release,omitempty"` // what `uname -r` says in a guest
	Source  string    `json:"source"`            // "catalog", "imported"
	Size    int64     `json:"size_bytes,omitempty"`
	Local   bool      `json:"local"`
	Created time.Time `json:"created,omitzero"`
	// WholeCopies says that it has no device-mapper, so that each VM gets a copy
	// of its image.
	WholeCopies bool   `json:"whole_copies,omitempty"`
	Vmlinux     string `json:"vmlinux,omitempty"`
	Modules     string `json:"modules,omitempty"` // the read-only drive with its modules
}

// SSHInfo is what a client needs to run ssh against a VM
// (GET /v1/vms/{vm}/ssh).
type SSHInfo struct {
	User     string   `json:"user"`
	KeyPath  string   `json:"key_path"`  // the private key
	HostKeys []string `json:"host_keys"` // "ssh-ed25519 AAAA…", without host names
}

// LogLine is one line of GET /v1/vms/{vm}/logs. Source is "console",
// "journal", "kernel", "agent" (banger's own in the guest), "vmm" (the last
// words of one that ended by itself) or "daemon".
type LogLine struct {
	Time   time.Time `json:"time,omitzero"`
	Source string    `json:"source"`
	Text   string    `json:"text"`
}

// DaemonStatus answers GET /v1/status.
type DaemonStatus struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Socket  string    `json:"socket"`
	Log     string    `json:"log"`
	VMs     int       `json:"vms"`
	Running int       `json:"running"`
	// Goroutines shows whether the daemon lets go of what it had taken up.
	Goroutines int `json:"goroutines"`
}

// Finding is one thing that doctor looked at.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

// Level says how bad a finding is.
type Level string

// The levels: only LevelError makes `vm run` impossible.
const (
	LevelOK      Level = "ok"
	LevelInfo    Level = "info"
	LevelWarning Level = "warning"
	LevelError   Level = "error"
)

// Doctor answers GET /v1/doctor.
type Doctor struct {
	OK       bool      `json:"ok"`
	Findings []Finding `json:"findings"`
}

// DoctorFix answers POST /v1/doctor/fix: what was done, a sentence each, what
// could not be done, and what doctor finds afterwards.
type DoctorFix struct {
	Done   []string `json:"done,omitempty"`
	Failed []string `json:"failed,omitempty"`
	Doctor Doctor   `json:"doctor"`
}
