// Package proto is what the host and the guest's agent say to each other: the
// frames, the requests, the events, and how large each of them may be.
//
// A connection on AgentPort begins with one Request frame and is answered by
// one Reply frame. What follows depends on the operation:
//
//	configure, shutdown, settime, info, credential   nothing
//	watch          Event frames for as long as the connection lives
//	logs           Log frames, then one LogEnd
//	ssh            raw bytes, both ways, no frames
//	dial           Stdin frames and a StdinEOF to the guest, raw bytes back
//	exec           exec frames, see below
//	put, get       a tree of files, see package filetree
//	session-attach session frames, see below
//	session-wait   one SessionEnd, when the session has ended
//	workspace      what internal/workspace/wire says, no frames
//
// The connection that the guest dials to HelloPort carries the same Event
// frames as watch, without request and reply.
//
// # Exec
//
// Client to guest: Stdin, StdinEOF, Resize, Signal. Guest to client: Stdout,
// Stderr, StdinCredit, then exactly one Exit or ExecError, and the guest
// closes. The client keeps its direction open until then: an end of file on it
// means that the client is gone, and the command gets a hang-up.
//
// A client may have StdinWindow bytes of standard input under way; each
// StdinCredit frame adds to that. So Signal and Resize are never stuck behind
// input that the command does not read, and the agent always sees a client go.
// Command is a client's half, ready to use.
//
// # Sessions
//
// A session is a command that the agent keeps, with all that it prints, up to a
// bound, on the guest's disk. An attached client gets SessionData frames, each
// with the position of its first byte; SessionLoss where bytes are not kept any
// more; SessionLive once, where what was before the attachment ends; StdinCredit
// as in exec; and at last SessionEnd, with which the guest closes. It may send Stdin,
// Resize and Signal frames; what is in one Stdin frame is not torn apart by the
// input of others. A StdinEOF says that this client sends no more, and does not
// end the session's input. A client that goes away ends nothing.
//
// Who attaches again says from where on, and under the same Client name learns
// how much of its input has come: so neither direction loses or repeats a byte.
package proto

import "errors"

// The ports of the link. The guest listens on AgentPort; the host listens on
// HelloPort, which the agent dials as soon as it is up.
const (
	AgentPort uint32 = 1023
	HelloPort uint32 = 1022
)

// CredentialDir is where the guest keeps the credentials that it was given, in
// memory. On its disk there are only symbolic links to here.
const CredentialDir = "/run/banger/credentials"

// SerialPort is the name of the virtio-serial port that carries the link where
// there is no vsock device.
const SerialPort = "banger.vsock"

// NotifySocket is where the running agent takes words of its own image's init,
// and AgentPath is where a unit finds the program that says them.
const (
	NotifySocket = "/run/banger/agent.sock"
	AgentPath    = "/run/banger/agent"
)

const (
	// MaxData is the longest payload of a data frame. 64 KiB is a whole pipe
	// buffer: larger frames make nothing faster and hold signals up longer.
	MaxData = 64 << 10
	// MaxJSON is the longest payload of a Request, Reply or Event. The largest
	// honest one is a configure call with a host's extra CA certificates.
	MaxJSON = 1 << 20
	// MaxEntry is the longest JSON about one file: a name, a link's target and
	// an error text, all of their longest.
	MaxEntry = 32 << 10
	// MaxLine is the longest line of a log; the rest of it is cut away.
	MaxLine = 8 << 10
	// MaxText is the longest name, error text or version that one end takes
	// from the other.
	MaxText = 1 << 10
	// StdinWindow is how much standard input may be under way before the agent
	// has said that the command took some: enough to keep a pipe full over a
	// link of a millisecond, little enough to hold in the guest's memory.
	StdinWindow = 256 << 10
	// MaxStatus is the largest exit status that a shell can show.
	MaxStatus = 255
	// MaxSignal is the largest signal number of Linux.
	MaxSignal = 64
)

// ErrFrame says that the other end does not keep to the protocol.
var ErrFrame = errors.New("the other end of the guest link does not keep to its protocol")
