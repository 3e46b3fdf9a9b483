package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/duplex"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// handshakeTimeout bounds how long a client may take to log in, as sshd's
// LoginGraceTime does.
const handshakeTimeout = 2 * time.Minute

// serveSSH joins the connection to the image's own sshd if one listens, else it
// serves SSH itself: images without sshd, and the time before sshd is up.
func (a *Agent) serveSSH(conn net.Conn) {
	if server, err := a.sshd.dial(); err == nil {
		defer server.Close()
		if accept(conn, nil) == nil {
			duplex.Join(conn, server)
		}
		return
	}
	config, err := a.sshConfig()
	if err != nil {
		refuse(conn, err)
		return
	}
	if accept(conn, nil) == nil {
		a.serveOwnSSH(conn, config)
	}
}

// sshConfig lets root in with one of the configured keys, and nobody else.
func (a *Agent) sshConfig() (*ssh.ServerConfig, error) {
	id := a.present()
	signer, err := hostSigner(id.hostKey)
	if err != nil {
		return nil, err
	}
	allowed, err := parseKeys(id.keys)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-banger",
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, checkLogin(meta.User(), key, allowed)
		},
	}
	config.AddHostKey(signer)
	return config, nil
}

// hostSigner is the configured host key; a guest that was given none gets one
// for this connection.
func hostSigner(text string) (ssh.Signer, error) {
	if text != "" {
		signer, err := ssh.ParsePrivateKey([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("cannot read the host key: %w", err)
		}
		return signer, nil
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a host key: %w", err)
	}
	return ssh.NewSignerFromKey(key)
}

func parseKeys(lines []string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	for _, line := range lines {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("cannot read an authorized key: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func checkLogin(name string, key ssh.PublicKey, allowed []ssh.PublicKey) error {
	if name != "root" {
		return errors.New("only root can log in")
	}
	for _, k := range allowed {
		if bytes.Equal(k.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return errors.New("the key is not authorized")
}

func (a *Agent) serveOwnSSH(conn net.Conn, config *ssh.ServerConfig) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout)) // a closed one fails at the handshake
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return // the client has been told
	}
	_ = conn.SetDeadline(time.Time{})
	defer server.Close()
	go refuseRequests(requests)
	for c := range channels {
		switch c.ChannelType() {
		case "session":
			go a.serveSession(c)
		case "direct-tcpip":
			go serveDirect(c)
		default:
			_ = c.Reject(ssh.UnknownChannelType, "this guest's SSH server has no such channels")
		}
	}
}

// refuseRequests answers what concerns the whole connection: keepalives, which
// only want an answer, and asks for forwarding back, which is not offered.
func refuseRequests(requests <-chan *ssh.Request) {
	for r := range requests {
		_ = r.Reply(false, nil)
	}
}

// serveDirect forwards a connection to an address that the guest can reach.
func serveDirect(c ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(c.ExtraData(), &to); err != nil {
		_ = c.Reject(ssh.ConnectionFailed, "the request is malformed")
		return
	}
	target, err := net.DialTimeout("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))), dialTimeout)
	if err != nil {
		_ = c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer target.Close()
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)
	duplex.Join(channel, target)
}

// sshSession is one SSH session channel: what it asked for, then what it runs.
type sshSession struct {
	agent   *Agent
	channel ssh.Channel
	env     map[string]string

	terminal   bool
	rows, cols uint16

	started bool
	process *process // nil for sftp
	serve   func()   // what goes on after the reply: it closes the channel at its end
}

func (a *Agent) serveSession(c ssh.NewChannel) {
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	s := &sshSession{agent: a, channel: channel, env: map[string]string{}}
	for r := range requests {
		ok := s.request(r)
		if r.WantReply {
			_ = r.Reply(ok, nil) // a client that is gone needs no answer
		}
		if s.serve != nil {
			go s.serve()
			s.serve = nil
		}
	}
	// The channel is closed: the command is over, or its client is gone.
	if s.process != nil && !s.process.over() {
		s.process.hangUp(HangUpGrace)
	}
	if !s.started {
		channel.Close()
	}
}

func (s *sshSession) request(r *ssh.Request) bool {
	switch r.Type {
	case "env":
		return s.setEnv(r.Payload)
	case "pty-req":
		return s.setTerminal(r.Payload)
	case "window-change":
		return s.resize(r.Payload)
	case "signal":
		return s.signal(r.Payload)
	case "shell":
		return s.run("")
	case "exec":
		var command struct{ Text string }
		return ssh.Unmarshal(r.Payload, &command) == nil && s.run(command.Text)
	case "subsystem":
		var name struct{ Text string }
		return ssh.Unmarshal(r.Payload, &name) == nil && name.Text == "sftp" && s.serveFiles()
	}
	return false
}

// maxEnv bounds what a client may put into its environment.
const maxEnv = 256

func (s *sshSession) setEnv(payload []byte) bool {
	var pair struct{ Name, Value string }
	if ssh.Unmarshal(payload, &pair) != nil || !isEnvName(pair.Name) || strings.ContainsRune(pair.Value, 0) || len(s.env) >= maxEnv {
		return false
	}
	s.env[pair.Name] = pair.Value
	return true
}

func (s *sshSession) setTerminal(payload []byte) bool {
	var t struct {
		Term          string
		Cols, Rows    uint32
		Width, Height uint32
		Modes         string
	}
	if ssh.Unmarshal(payload, &t) != nil || s.started {
		return false
	}
	s.terminal, s.rows, s.cols = true, uint16(t.Rows), uint16(t.Cols)
	if t.Term != "" && !strings.ContainsRune(t.Term, 0) {
		s.env["TERM"] = t.Term
	}
	return true
}

func (s *sshSession) resize(payload []byte) bool {
	var size struct{ Cols, Rows, Width, Height uint32 }
	if ssh.Unmarshal(payload, &size) != nil || s.process == nil {
		return false
	}
	return s.process.resize(uint16(size.Rows), uint16(size.Cols)) == nil
}

// sshSignals are the names of RFC 4254, section 6.10.
var sshSignals = map[string]unix.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE, "HUP": unix.SIGHUP, "ILL": unix.SIGILL,
	"INT": unix.SIGINT, "KILL": unix.SIGKILL, "PIPE": unix.SIGPIPE, "QUIT": unix.SIGQUIT, "SEGV": unix.SIGSEGV,
	"TERM": unix.SIGTERM, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

func (s *sshSession) signal(payload []byte) bool {
	var name struct{ Text string }
	if ssh.Unmarshal(payload, &name) != nil || s.process == nil {
		return false
	}
	number, known := sshSignals[name.Text]
	if known {
		s.process.signal(number)
	}
	return known
}

// run starts a login shell, or a command by the shell: by itself where the image
// has none. A command that can't be started is a session that ends with the
// status a shell would give it.
func (s *sshSession) run(command string) bool {
	if s.started {
		return false
	}
	s.started = true
	root := s.agent.rootUser()
	shell := root.shell
	o := order{
		argv: []string{shell}, arg0: "-" + shell[strings.LastIndexByte(shell, '/')+1:],
		env: s.agent.loginEnv(root, imageEnv(s.agent.present().container), s.env, s.terminal), dir: s.agent.homeDir(),
		terminal: s.terminal, rows: s.rows, cols: s.cols,
	}
	if command != "" {
		o.argv, o.arg0 = []string{shell, "-c", command}, ""
	}
	p, err := s.agent.start(o)
	if lacksProgram(err) {
		p, err = s.runWithoutShell(o, command)
	}
	if err != nil {
		s.serve = func() { s.fail(err) }
		return true
	}
	s.process = p
	s.serve = func() { s.attend(p) }
	return true
}

func lacksProgram(err error) bool {
	var e *proto.ExecError
	return errors.As(err, &e) && e.Kind == proto.ExecNoProgram
}

// runWithoutShell runs a command that a shell would not change.
func (s *sshSession) runWithoutShell(o order, command string) (*process, error) {
	o.argv, o.arg0 = strings.Fields(command), ""
	if len(o.argv) == 0 || strings.ContainsAny(command, "\"'`\\$&|;<>()*?[]{}~#\n") {
		return nil, &proto.ExecError{Kind: proto.ExecNoProgram, Message: "the image has no shell: what runs here is a program and plain words"}
	}
	return s.agent.start(o)
}

func (s *sshSession) fail(err error) {
	status := 126
	var e *proto.ExecError
	if errors.As(err, &e) {
		status = e.Status()
	}
	fmt.Fprintf(s.channel.Stderr(), "%v\r\n", err)
	s.exit(status)
}

// attend moves the process's input and output until it is over.
func (s *sshSession) attend(p *process) {
	defer p.closeFiles()
	go func() {
		_, err := io.Copy(p.stdin, s.channel)
		if p.tty == nil && err == nil {
			p.stdin.Close()
		}
	}()
	writers := []io.Writer{s.channel, s.channel.Stderr()}
	var pumps sync.WaitGroup
	for i, o := range p.outputs {
		pumps.Go(func() {
			if _, err := io.Copy(writers[i], o); err != nil {
				o.file.Close()
			}
		})
	}
	pumps.Wait()
	<-p.done
	s.exit(p.status)
}

// exit tells the client the status, and closes the channel. A client that is
// gone needs neither.
func (s *sshSession) exit(status int) {
	_ = s.channel.CloseWrite()
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	_ = s.channel.Close()
}

// serveFiles serves the sftp subsystem, as root and over the whole guest.
func (s *sshSession) serveFiles() bool {
	if s.started {
		return false
	}
	server, err := sftp.NewServer(s.channel, sftp.WithServerWorkingDirectory(s.agent.homeDir()))
	if err != nil {
		return false
	}
	s.started = true
	s.serve = func() {
		_ = server.Serve() // however it ends, the channel is to be closed
		s.exit(0)
	}
	return true
}
