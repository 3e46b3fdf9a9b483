package agent

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// endOfInput is what a terminal takes for the end of a file (VEOF).
const endOfInput = 0x04

func (a *Agent) serveExec(conn net.Conn, body json.RawMessage) {
	var e proto.Exec
	err := decode(body, &e)
	if err == nil {
		e = a.completed(e)
		err = checkExec(e)
	}
	if err != nil {
		refuse(conn, err)
		return
	}
	if accept(conn, nil) != nil {
		return
	}
	o, err := a.orderOf(e)
	if err != nil {
		tellExecError(conn, err)
		return
	}
	a.exec(conn, o)
}

func checkExec(e proto.Exec) error {
	if len(e.Argv) == 0 || e.Argv[0] == "" {
		return badRequest("there is no command, and the image names none")
	}
	for _, arg := range append(e.Argv, e.Cwd) {
		if strings.ContainsRune(arg, 0) {
			return badRequest("a command cannot contain a zero byte")
		}
	}
	for name, value := range e.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return badRequest("%q is no environment variable", name)
		}
	}
	return nil
}

func (a *Agent) orderOf(e proto.Exec) (order, error) {
	o := order{argv: e.Argv, dir: e.Cwd, terminal: e.TTY, rows: e.Rows, cols: e.Cols}
	if e.Container {
		err := a.contain(&o, e)
		return o, err
	}
	o.env = a.rootEnv(e.Env, e.TTY)
	if o.dir == "" {
		o.dir = a.homeDir()
	}
	return o, nil
}

// homeDir is root's home, or / in an image without one.
func (a *Agent) homeDir() string {
	return dirOr(a.rootUser().home, "/")
}

func dirOr(dir, other string) string {
	if unix.Access(dir, unix.X_OK) != nil {
		return other
	}
	return dir
}

// exec runs a command whose client is at conn.
func (a *Agent) exec(conn net.Conn, o order) {
	out := proto.NewWriter(conn)
	p, err := a.start(o)
	if err != nil {
		tellExecError(conn, err)
		return
	}
	defer p.closeFiles()
	go p.input(conn, out)
	var pumps sync.WaitGroup
	for i, o := range p.outputs {
		pumps.Go(func() {
			// When the client takes no more, the command finds its pipe
			// closed, as it would find a terminal closed.
			if _, err := out.Copy(proto.TypeStdout+proto.Type(i), o); err != nil {
				o.file.Close()
			}
		})
	}
	pumps.Wait()
	<-p.done
	_ = out.Uint32(proto.TypeExit, uint32(p.status)) // a client that is gone needs no answer
}

// tellExecError tells the client why its command does not run.
func tellExecError(conn net.Conn, err error) {
	var e *proto.ExecError
	if !errors.As(err, &e) {
		e = &proto.ExecError{Kind: proto.ExecCannot, Message: err.Error()}
	}
	_ = proto.NewWriter(conn).JSON(proto.TypeExecError, e) // a client that is gone needs no answer
}

// input takes the client's frames. When the client goes before the command is
// over, the command is hung up.
func (p *process) input(conn net.Conn, out *proto.Writer) {
	stdin := newBacklog(p, out)
	go stdin.feed()
	frames := proto.NewReader(conn)
	for {
		f, err := frames.Next()
		if err == nil {
			err = p.take(f, stdin)
		}
		if err != nil {
			break
		}
	}
	stdin.end()
	if !p.over() {
		p.hangUp(HangUpGrace)
	}
}

func (p *process) take(f proto.Frame, stdin *backlog) error {
	switch f.Type {
	case proto.TypeStdin:
		stdin.add(f.Payload)
	case proto.TypeStdinEOF:
		stdin.end()
	case proto.TypeResize:
		rows, cols := f.Size()
		return p.resize(rows, cols)
	case proto.TypeSignal:
		p.signal(unix.Signal(f.Payload[0]))
	default:
		return proto.ErrFrame
	}
	return nil
}

// backlog is standard input that came and that the command has not read yet.
// A client that keeps to its credit never fills it, so the agent never stops
// listening; one that does not is made to wait.
type backlog struct {
	p   *process
	out *proto.Writer

	mu      sync.Mutex
	changed *sync.Cond
	bytes   []byte
	ended   bool
	refused bool // the command takes no more
}

func newBacklog(p *process, out *proto.Writer) *backlog {
	b := &backlog{p: p, out: out}
	b.changed = sync.NewCond(&b.mu)
	return b
}

func (b *backlog) add(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.bytes) > 0 && len(b.bytes)+len(p) > proto.StdinWindow && !b.refused {
		b.changed.Wait()
	}
	if !b.refused && !b.ended {
		b.bytes = append(b.bytes, p...)
	}
	b.changed.Broadcast()
}

func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.changed.Broadcast()
}

// refuse throws away what there is and what comes.
func (b *backlog) refuse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused, b.bytes = true, nil
	b.changed.Broadcast()
}

// feed writes to the command, and gives the client credit for what it took.
func (b *backlog) feed() {
	var spare []byte
	for {
		chunk, more := b.next(spare)
		if !more {
			b.finish()
			return
		}
		if _, err := b.p.stdin.Write(chunk); err != nil {
			b.refuse()
			return
		}
		_ = b.out.Uint32(proto.TypeStdinCredit, uint32(len(chunk))) // a client that is gone is seen by input
		spare = chunk[:0]
	}
}

// next takes all there is, leaving spare in its place.
func (b *backlog) next(spare []byte) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.bytes) == 0 && !b.ended {
		b.changed.Wait()
	}
	chunk := b.bytes
	b.bytes = spare
	b.changed.Broadcast()
	return chunk, len(chunk) > 0
}

// finish tells the command that its input is over.
func (b *backlog) finish() {
	if b.p.tty != nil {
		_, _ = b.p.tty.Write([]byte{endOfInput}) // it may have ended
		return
	}
	b.p.stdin.Close()
}
