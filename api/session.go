package api

import "time"

// StdinMode is what a session's standard input is.
type StdinMode string

// The modes. Under StdinPTY the three streams are one terminal.
const (
	StdinPipe StdinMode = "pipe"
	StdinPTY  StdinMode = "pty"
	StdinNull StdinMode = "null"
)

// StartSession starts a long-lived command that the guest keeps
// (POST /v1/vms/{vm}/sessions).
type StartSession struct {
	Name  string            `json:"name"`
	Argv  []string          `json:"argv"`
	Env   map[string]string `json:"env,omitempty"`   // over the guest's own
	Cwd   string            `json:"cwd,omitempty"`   // "" is the home directory
	Stdin StdinMode         `json:"stdin,omitempty"` // "" is StdinPipe
	Rows  uint16            `json:"rows,omitempty"`
	Cols  uint16            `json:"cols,omitempty"`
	// LogLimit is how many bytes of output are kept on the guest's disk; 0 takes
	// the default.
	LogLimit int64 `json:"log_limit,omitempty"`
	Wait     Wait  `json:"wait,omitempty"` // how far the guest must have come first
}

// SessionState says whether a session's command runs.
type SessionState string

// The states of a session.
const (
	SessionRunning SessionState = "running"
	SessionEnded   SessionState = "ended"
)

// Session is what is known of one session. Positions count the bytes of its
// output.
type Session struct {
	Name     string       `json:"name"`
	Argv     []string     `json:"argv"` // to be shown: a long one is cut
	Cwd      string       `json:"cwd,omitempty"`
	Stdin    StdinMode    `json:"stdin"`
	State    SessionState `json:"state"`
	PID      int          `json:"pid,omitempty"` // in the guest, while it runs
	Started  time.Time    `json:"started"`
	Ended    time.Time    `json:"ended,omitzero"`
	Status   *int         `json:"status,omitempty"` // exit status; none: it runs, or nobody saw its end
	Reason   string       `json:"reason,omitempty"` // why there is no status
	LogStart uint64       `json:"log_start"`        // position of the first byte that is kept
	LogEnd   uint64       `json:"log_end"`          // position after the last one
	Attached int          `json:"attached"`         // clients that follow it
	Socket   string       `json:"socket,omitempty"` // unix socket on the host that any program can connect to
}

// The streams of a session's output.
const (
	StreamStdout = "stdout"
	StreamStderr = "stderr"
)

// AttachSession follows a session
// (POST /v1/vms/{vm}/sessions/{session}/attach, upgraded to [UpgradeSession]).
// After the 101 the connection carries the frames of docs/reference/sessions.md.
type AttachSession struct {
	// From is the position to begin at; with Tail, at most so many bytes before
	// the end.
	From   uint64    `json:"from,omitempty"`
	Tail   *uint64   `json:"tail,omitempty"`
	Stream string    `json:"stream,omitempty"` // StreamStdout or StreamStderr; "" is both
	Since  time.Time `json:"since,omitzero"`   // nothing that is older
	Past   bool      `json:"past,omitempty"`   // only what is there already
	Ended  bool      `json:"ended,omitempty"`  // also of a session that has ended
	// Client names who sends input, over lost connections. "" sends none.
	Client string `json:"client,omitempty"`
	Rows   uint16 `json:"rows,omitempty"` // of the client's terminal
	Cols   uint16 `json:"cols,omitempty"`
}

// SendSession puts input into a session, at most 512 KiB, which is not torn
// apart by the input of others (POST /v1/vms/{vm}/sessions/{session}/send).
type SendSession struct {
	Data []byte `json:"data,omitempty"`
	EOF  bool   `json:"eof,omitempty"` // the session's input ends after it
}

// StopSession asks a session to end, and kills it when Grace is over
// (POST /v1/vms/{vm}/sessions/{session}/stop).
type StopSession struct {
	Grace time.Duration `json:"grace_ns"`
}

// SignalSession sends a signal to all processes of a session
// (POST /v1/vms/{vm}/sessions/{session}/signal).
type SignalSession struct {
	Signal int `json:"signal"`
}

// UpgradeSession is the protocol of an attached connection.
const UpgradeSession = "banger-session/1"
