package proto

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The operations on sessions, with the body of their request and of their reply.
const (
	OpSessionStart  Op = "session-start"  // SessionSpec -> Session
	OpSessionList   Op = "session-list"   // -> []Session
	OpSessionAttach Op = "session-attach" // Attach -> Attached, then session frames
	OpSessionSend   Op = "session-send"   // SessionInput ->
	OpSessionSignal Op = "session-signal" // SessionSignal ->
	OpSessionStop   Op = "session-stop"   // SessionStop -> (before it has ended)
	OpSessionWait   Op = "session-wait"   // SessionRef -> then one SessionEnd, when it has ended
	OpSessionDelete Op = "session-delete" // SessionRef ->
)

// The frames of an attached connection, with their payloads.
const (
	TypeSessionData Type = 64 // position u64, time i64 (nanoseconds since 1970), stream, then bytes; all big-endian
	TypeSessionLoss Type = 65 // from u64, to u64: these bytes are not kept any more
	TypeSessionLive Type = 66 // position u64: all before it is from before the attachment
	TypeSessionEnd  Type = 67 // JSON of Session: nothing more comes
	TypeAttach      Type = 68 // JSON of Attach: what a client of a session's own socket begins with
)

const (
	// MaxSessions is how many sessions a guest keeps, ended ones included.
	MaxSessions = 64
	// MaxAttached is how many clients may be attached to one session.
	MaxAttached = 64
	// MaxSend is the longest input of one send.
	MaxSend = 512 << 10
	// DataHead is what precedes the bytes of a SessionData frame.
	DataHead = 17
)

// maxSessionName bounds a session's name, in bytes.
const maxSessionName = 48

// IsSessionName says whether a session may be called so; it is a file's name,
// too: 1 to 48 letters, digits, dots, hyphens and underscores, of which the first
// is a letter or digit. (A regular expression would be compiled at each start of
// a guest's agent.)
func IsSessionName(name string) bool {
	if name == "" || len(name) > maxSessionName || !isAlphanumeric(name[0]) {
		return false
	}
	for _, c := range []byte(name) {
		if !isAlphanumeric(c) && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// StdinMode is what a session's standard input is.
type StdinMode string

// The modes. Under StdinPTY the three streams are one terminal.
const (
	StdinPipe StdinMode = "pipe"
	StdinPTY  StdinMode = "pty"
	StdinNull StdinMode = "null"
)

// SessionSpec asks for a session.
type SessionSpec struct {
	Name  string            `json:"name"`
	Argv  []string          `json:"argv"`
	Env   map[string]string `json:"env,omitempty"`
	Cwd   string            `json:"cwd,omitempty"` // default: root's home
	Stdin StdinMode         `json:"stdin"`
	Rows  uint16            `json:"rows,omitempty"`
	Cols  uint16            `json:"cols,omitempty"`
	// LogLimit bounds the output that is kept, in bytes on the guest's disk;
	// 0 takes the agent's default.
	LogLimit int64 `json:"log_limit,omitempty"`
}

// SessionState says whether a session's command runs.
type SessionState string

// The states.
const (
	SessionRunning SessionState = "running"
	SessionEnded   SessionState = "ended"
)

// Session is what is known of one session.
type Session struct {
	Name     string       `json:"name"`
	Argv     []string     `json:"argv"` // to be shown: a long one is cut
	Cwd      string       `json:"cwd,omitempty"`
	Stdin    StdinMode    `json:"stdin"`
	State    SessionState `json:"state"`
	PID      int          `json:"pid,omitempty"` // of its first process, while it runs
	Started  time.Time    `json:"started"`
	Ended    time.Time    `json:"ended,omitzero"`
	Status   *int         `json:"status,omitempty"` // exit status; none: it runs, or nobody saw its end
	Reason   string       `json:"reason,omitempty"` // why there is no status
	LogStart uint64       `json:"log_start"`        // position of the first byte that is kept
	LogEnd   uint64       `json:"log_end"`          // position after the last one
	Attached int          `json:"attached,omitempty"`
}

// The streams of a SessionData frame. A terminal has only the first.
const (
	StreamStdout byte = 'o'
	StreamStderr byte = 'e'
)

// Attach asks to follow a session. Its output has positions: the bytes of both
// streams, counted in the order in which they came.
type Attach struct {
	Name string `json:"name,omitempty"`
	// From is the position to begin at. With Tail it is at most so many bytes
	// before the end.
	From uint64  `json:"from,omitempty"`
	Tail *uint64 `json:"tail,omitempty"`
	// Stream is the one that is wanted, StreamStdout or StreamStderr; 0 is both.
	Stream byte      `json:"stream,omitempty"`
	Since  time.Time `json:"since,omitzero"` // nothing that is older
	// Past stops where what is before the attachment ends.
	Past bool `json:"past,omitempty"`
	// Ended accepts a session that has ended, too.
	Ended bool `json:"ended,omitempty"`
	// Client names the one whose input this is, over lost connections: the
	// agent tells how much of it has come. "" sends no input.
	Client string `json:"client,omitempty"`
	// Rows and Cols are the client's terminal's; 0 leaves the session's alone.
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
}

// Attached answers an Attach.
type Attached struct {
	Session Session `json:"session"`
	From    uint64  `json:"from"` // the position that the frames begin at
	// Accepted and Taken count this client's input, in bytes: what has come,
	// and how much of that the command was given. What comes after Accepted is
	// to be sent (again).
	Accepted uint64 `json:"accepted,omitempty"`
	Taken    uint64 `json:"taken,omitempty"`
}

// SessionInput is input that is not torn apart by that of others.
type SessionInput struct {
	Name string `json:"name"`
	Data []byte `json:"data,omitempty"`
	EOF  bool   `json:"eof,omitempty"` // the session's input ends after it
}

// SessionSignal sends a signal to all processes of a session.
type SessionSignal struct {
	Name   string `json:"name"`
	Signal int    `json:"signal"`
}

// SessionStop ends a session: SIGTERM, and SIGKILL when Grace is over.
type SessionStop struct {
	Name  string        `json:"name"`
	Grace time.Duration `json:"grace_ns"`
}

// SessionRef names a session.
type SessionRef struct {
	Name string `json:"name"`
}

// SessionData is a piece of a session's output.
type SessionData struct {
	Position uint64
	Time     time.Time
	Stream   byte
	Data     []byte
}

// SessionData writes a piece of output, at most MaxData bytes.
func (w *Writer) SessionData(d SessionData) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], 0, 0, 0, 0, 0)
	w.buf = binary.BigEndian.AppendUint64(w.buf, d.Position)
	w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(d.Time.UnixNano()))
	w.buf = append(w.buf, d.Stream)
	w.buf = append(w.buf, d.Data...)
	return w.send(TypeSessionData, w.buf)
}

// SessionData reads the payload of a SessionData frame, whose bytes it shares.
func (f Frame) SessionData() (SessionData, error) {
	d := SessionData{
		Position: binary.BigEndian.Uint64(f.Payload),
		Time:     time.Unix(0, int64(binary.BigEndian.Uint64(f.Payload[8:]))),
		Stream:   f.Payload[16],
		Data:     f.Payload[DataHead:],
	}
	if d.Stream != StreamStdout && d.Stream != StreamStderr {
		return d, fmt.Errorf("%w: output of no stream", ErrFrame)
	}
	return d, nil
}

// Uint64s writes a frame of numbers.
func (w *Writer) Uint64s(t Type, numbers ...uint64) error {
	var payload []byte
	for _, n := range numbers {
		payload = binary.BigEndian.AppendUint64(payload, n)
	}
	return w.Frame(t, payload)
}

// Loss reads the payload of a SessionLoss frame.
func (f Frame) Loss() (from, to uint64, err error) {
	from, to = binary.BigEndian.Uint64(f.Payload), binary.BigEndian.Uint64(f.Payload[8:])
	if from > to {
		return 0, 0, fmt.Errorf("%w: a loss that ends before it begins", ErrFrame)
	}
	return from, to, nil
}
