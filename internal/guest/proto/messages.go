package proto

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Op names what a connection is for.
type Op string

// The operations, with the body of their request and of their reply.
const (
	OpConfigure Op = "configure" // Config ->
	OpInfo      Op = "info"      // -> Hello
	OpWatch     Op = "watch"     // -> then events
	OpExec      Op = "exec"      // Exec -> then exec frames
	OpDial      Op = "dial"      // Dial -> then Stdin frames there, raw bytes back
	OpSSH       Op = "ssh"       // -> then raw bytes of the SSH protocol
	OpLogs      Op = "logs"      // Logs -> then log frames
	OpShutdown  Op = "shutdown"  // Shutdown ->
	OpSetTime   Op = "settime"   // SetTime ->

	OpCredential Op = "credential" // Credential ->
	OpPut        Op = "put"        // Put -> then the host sends a tree
	OpGet        Op = "get"        // Get -> then the guest sends a tree
	OpWorkspace  Op = "workspace"  // -> then what internal/workspace/wire says
)

// Request opens a connection on AgentPort.
type Request struct {
	Op   Op              `json:"op"`
	Body json.RawMessage `json:"body,omitempty"`
}

// Reply answers a Request: either an error, or the operation's body.
type Reply struct {
	Error *Error          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// ErrorKind sorts the agent's refusals.
type ErrorKind string

// The kinds of Error.
const (
	ErrorBadRequest ErrorKind = "bad-request" // the request makes no sense to this agent
	ErrorFailed     ErrorKind = "failed"      // the guest could not do it
	ErrorNotFound   ErrorKind = "not-found"   // there is nothing of that name
	ErrorExists     ErrorKind = "exists"      // the name is taken
	ErrorWrongState ErrorKind = "wrong-state" // not in this state
	ErrorNoProgram  ErrorKind = "no-program"  // as ExecNoProgram
	ErrorCannotExec ErrorKind = "cannot-exec" // as ExecCannot and ExecNoDirectory
)

// Error is the agent's refusal.
type Error struct {
	Kind    ErrorKind `json:"kind"`
	Message string    `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// InitKind is what the image starts as its first process.
type InitKind string

// The kinds of init. InitNone is an image without /sbin/init, where banger-init
// stays process 1.
const (
	InitSystemd InitKind = "systemd"
	InitOpenRC  InitKind = "openrc"
	InitBusybox InitKind = "busybox"
	InitNone    InitKind = "none"
	InitOther   InitKind = "other"
)

// Hello is what the agent says of itself and its guest.
type Hello struct {
	Version string   `json:"version"` // of the agent
	BootID  string   `json:"boot_id"` // /proc/sys/kernel/random/boot_id
	Init    InitKind `json:"init"`
	HasSSHD bool     `json:"has_sshd"`           // the image has an SSH server of its own
	NoShell bool     `json:"no_shell,omitempty"` // root has no shell to log in to
	Kernel  string   `json:"kernel"`             // uname -r
}

// EventKind sorts events.
type EventKind string

// The kinds of Event.
const (
	EventHello   EventKind = "hello"   // always the first: Hello
	EventReady   EventKind = "ready"   // Stage was reached
	EventGoodbye EventKind = "goodbye" // the guest goes down, for Reason
)

// Stage is how far the guest's own start has come.
type Stage string

// The stages. StageDefault is, under systemd, after tmpfiles and
// sockets.target, elsewhere as soon as the agent is configured. StageSystem is
// when the image's init is done.
const (
	StageDefault Stage = "default"
	StageSystem  Stage = "system"
)

// Reason is why a guest goes down.
type Reason string

// The reasons.
const (
	ReasonPoweroff Reason = "poweroff"
	ReasonReboot   Reason = "reboot"
	ReasonHalt     Reason = "halt"
)

// Event is one thing that happened in the guest. A new watcher is told all
// that happened since the guest's start.
type Event struct {
	Kind   EventKind `json:"kind"`
	Hello  *Hello    `json:"hello,omitempty"`
	Stage  Stage     `json:"stage,omitempty"`
	Reason Reason    `json:"reason,omitempty"`
}

// Route is one route over eth0: To is 0.0.0.0/0 or ::/0 for the default route.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via"`
}

// Config gives a guest its identity and its surroundings. The same call again
// changes nothing; a different one replaces what an earlier one set. A field
// that is empty leaves that part of the guest alone; AuthorizedKeys, Env and
// CACerts that are empty, but not nil, take away what an earlier call gave.
type Config struct {
	Hostname  string         `json:"hostname,omitempty"` // a DNS label
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Routes    []Route        `json:"routes,omitempty"`
	DNS       []netip.Addr   `json:"dns,omitempty"`
	// AuthorizedKeys may log in as root: lines of an authorized_keys file.
	AuthorizedKeys []string `json:"authorized_keys,omitzero"`
	// HostKey is the machine's ed25519 host key as an OpenSSH or PKCS#8 PEM block.
	HostKey string    `json:"host_key,omitempty"`
	Time    time.Time `json:"time,omitzero"`
	Entropy []byte    `json:"entropy,omitempty"` // 32 to 512 bytes for the kernel's generator
	// Env reaches every command, login shell and service of the guest.
	Env     map[string]string `json:"env,omitzero"`
	CACerts []string          `json:"ca_certs,omitzero"` // PEM certificates to trust
	// MachineID is 32 lower-case hex digits. A systemd keeps or makes its own.
	MachineID string `json:"machine_id,omitempty"`
	// Container is what the image says about the commands that run in it.
	Container *Container `json:"container,omitempty"`
	// InstallOpenSSH lets a guest that has an init and a package manager, and no
	// sshd, install one in the background.
	InstallOpenSSH bool `json:"install_openssh,omitempty"`
	// CommandFirst lets the first command go before the image's init, which
	// begins when that is over, or has had its head start.
	CommandFirst bool `json:"command_first,omitempty"`
}

// Container is how an image wants its commands to be run, as a container
// runtime would.
type Container struct {
	Env  []string `json:"env,omitempty"`  // NAME=value
	Cwd  string   `json:"cwd,omitempty"`  // absolute; made if it is missing; empty: the user's home
	User string   `json:"user,omitempty"` // user[:group], names or numbers; empty: root
	Argv []string `json:"argv,omitempty"` // what runs where no command is given
}

// Exec asks for a command to run as root.
type Exec struct {
	Argv []string          `json:"argv,omitempty"`
	Env  map[string]string `json:"env,omitempty"` // over the login defaults
	Cwd  string            `json:"cwd,omitempty"` // default: root's home
	TTY  bool              `json:"tty,omitempty"` // one terminal instead of three pipes
	Rows uint16            `json:"rows,omitempty"`
	Cols uint16            `json:"cols,omitempty"`
	// Container asks for the user, environment and directory of the image's
	// Container, and without Argv for its command.
	Container bool `json:"container,omitempty"`
}

// ExecErrorKind sorts commands that never ran.
type ExecErrorKind string

// The kinds of ExecError.
const (
	ExecNoProgram   ExecErrorKind = "no-program"   // not found: 127
	ExecCannot      ExecErrorKind = "cannot-exec"  // found, and the kernel refuses it: 126
	ExecNoDirectory ExecErrorKind = "no-directory" // Cwd is not a directory: 126
)

// ExecError is why a command never ran.
type ExecError struct {
	Kind    ExecErrorKind `json:"kind"`
	Message string        `json:"message"`
}

func (e *ExecError) Error() string { return e.Message }

// Status is the exit status that a shell would show for e.
func (e *ExecError) Status() int {
	if e.Kind == ExecNoProgram {
		return 127
	}
	return 126
}

// Dial asks for a connection within the guest.
type Dial struct {
	Network string `json:"network"` // tcp or unix
	Addr    string `json:"addr"`
}

// Logs asks for the guest's kernel log, then its journal where it has one, then
// what the agent has to say.
type Logs struct {
	Follow bool `json:"follow,omitempty"`
}

// The sources of a log line.
const (
	LogKernel  byte = 'k'
	LogJournal byte = 'j'
	LogAgent   byte = 'a'
)

// LogLine is one line of a guest's log.
type LogLine struct {
	Source byte
	Text   string
}

// Shutdown asks the image's init to go down. The reply comes before it does.
type Shutdown struct {
	Reason Reason `json:"reason"`
}

// SetTime sets the guest's clock.
type SetTime struct {
	Time time.Time `json:"time"`
}

// Credential gives the guest a secret file, or takes back one that it was
// given. The bytes are kept in memory only: the disk gets a symbolic link at
// Path, which leads nowhere after the guest's end.
type Credential struct {
	Path string `json:"path"`           // absolute, without symbolic links in it
	Data []byte `json:"data,omitempty"` // none takes the file away
}

// Put asks to take a tree of files. A Path that is a directory gets it inside,
// by the name Base; any other is the tree's own place.
type Put struct {
	Path string `json:"path"` // not absolute: below root's home
	Base string `json:"base"`
}

// Get asks for a tree of files.
type Get struct {
	Path string `json:"path"` // not absolute: below root's home
}

// EntryKind is what a thing in a tree is.
type EntryKind string

// The kinds of Entry.
const (
	EntryFile EntryKind = "file"
	EntryDir  EntryKind = "dir"
	EntryLink EntryKind = "link"
)

// Entry is a file, a directory or a symbolic link. Names are bytes: they need
// not be UTF-8.
type Entry struct {
	Kind   EntryKind `json:"kind"`
	Name   []byte    `json:"name"`             // one component, of the open directory
	Mode   uint32    `json:"mode,omitempty"`   // permission bits
	Size   int64     `json:"size,omitempty"`   // of a file; -1 is not known
	Time   int64     `json:"time,omitempty"`   // of the last change, ns since 1970
	Target []byte    `json:"target,omitempty"` // of a link
}

// Note tells of something that is not in the tree, and why.
type Note struct {
	Path []byte `json:"path"`
	Why  string `json:"why"`
}

// Decode reads the body of a message into v. Unknown fields are refused, so
// that a newer host learns that an older agent does not know them; the error
// wraps ErrFrame and is fit to be shown.
func Decode(body []byte, v any) error {
	if len(body) == 0 {
		body = []byte("{}")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %s", ErrFrame, Clean(err.Error(), MaxText))
	}
	return nil
}

// Resize is the payload of a Resize frame.
func (w *Writer) Resize(rows, cols uint16) error {
	payload := binary.BigEndian.AppendUint16(nil, rows)
	return w.Frame(TypeResize, binary.BigEndian.AppendUint16(payload, cols))
}

// Size reads the payload of a Resize frame.
func (f Frame) Size() (rows, cols uint16) {
	return binary.BigEndian.Uint16(f.Payload), binary.BigEndian.Uint16(f.Payload[2:])
}

// Uint32 reads the payload of a frame of one number.
func (f Frame) Uint32() uint32 { return binary.BigEndian.Uint32(f.Payload) }

// Uint64 reads the payload of a frame of one long number.
func (f Frame) Uint64() uint64 { return binary.BigEndian.Uint64(f.Payload) }

// Status reads the payload of an Exit frame. A status that no process can have
// is an error.
func (f Frame) Status() (int, error) {
	n := f.Uint32()
	if n > MaxStatus {
		return 0, fmt.Errorf("%w: exit status %d", ErrFrame, n)
	}
	return int(n), nil
}
