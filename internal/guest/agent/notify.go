package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// goodbyeTimeout is how long the guest's own shutdown may be held up by a host
// that does not listen.
const goodbyeTimeout = time.Second

// notifyTimeout bounds one notification, which is one line each way. On a host
// that is short of processors even that has taken seconds. A goodbye has less:
// the guest's own shutdown waits for it, also when the agent hangs.
const (
	notifyTimeout        = time.Minute
	notifyGoodbyeTimeout = 5 * time.Second
)

var (
	defaultReady = proto.Event{Kind: proto.EventReady, Stage: proto.StageDefault}
	systemReady  = proto.Event{Kind: proto.EventReady, Stage: proto.StageSystem}
)

// words are what an image's init can tell the agent, and what they mean. A
// system that is up can run commands, even where the word for that was lost.
var words = map[string][]proto.Event{
	"default":       {defaultReady},
	"default-ready": {defaultReady},
	"system":        {defaultReady, systemReady},
	"system-ready":  {defaultReady, systemReady},
	"poweroff":      {{Kind: proto.EventGoodbye, Reason: proto.ReasonPoweroff}},
	"reboot":        {{Kind: proto.EventGoodbye, Reason: proto.ReasonReboot}},
	"halt":          {{Kind: proto.EventGoodbye, Reason: proto.ReasonHalt}},
}

// Notify tells the agent that listens at socket one of the words: it is what
// `banger-vsock-agent notify <word>` does. It returns when the agent has passed
// it on.
func Notify(socket, word string) error {
	end := time.Now().Add(patience(word))
	conn, err := (&net.Dialer{Deadline: end}).Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot reach the agent: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(end); err != nil {
		return fmt.Errorf("cannot bound the call of the agent: %w", err)
	}
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return fmt.Errorf("cannot tell the agent: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, proto.MaxText))
	if err != nil {
		return fmt.Errorf("cannot read the agent's answer: %w", err)
	}
	if text := strings.TrimSpace(string(answer)); text != "ok" {
		return fmt.Errorf("the agent refused %q: %s", word, text)
	}
	return nil
}

// patience is how long a word may take.
func patience(word string) time.Duration {
	for _, event := range words[word] {
		if event.Kind == proto.EventGoodbye {
			return notifyGoodbyeTimeout
		}
	}
	return notifyTimeout
}

// ListenNotify opens the socket for Notify, for the agent's own user (root)
// only.
func ListenNotify(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the directory of %s: %w", socket, err)
	}
	if err := removeFile(socket); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen at %s: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot protect %s: %w", socket, err)
	}
	return l, nil
}

// ServeNotify takes words at l until it is closed.
func (a *Agent) ServeNotify(l *net.UnixListener) error {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return fmt.Errorf("cannot accept notifications: %w", err)
		}
		go a.serveNotify(conn)
	}
}

func (a *Agent) serveNotify(conn *net.UnixConn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(notifyTimeout))
	if err := a.takeWord(conn); err != nil {
		fmt.Fprintln(conn, err)
		return
	}
	fmt.Fprintln(conn, "ok")
}

func (a *Agent) takeWord(conn *net.UnixConn) error {
	if err := checkPeer(conn); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 64)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("cannot read the word: %w", err)
	}
	events, known := words[strings.TrimSpace(line)]
	if !known {
		return errors.New("there is no such word")
	}
	for _, event := range events {
		a.take(event)
	}
	return nil
}

func (a *Agent) take(event proto.Event) {
	if event.Kind == proto.EventReady {
		a.keepHostname()
	}
	a.events.add(event)
	if event.Kind == proto.EventGoodbye {
		a.events.told(goodbyeTimeout)
	}
}

// checkPeer lets the agent's own user in, who is root.
func checkPeer(conn *net.UnixConn) error {
	control, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot look who is there: %w", err)
	}
	var peer *unix.Ucred
	err = errors.Join(err, control.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}), err)
	if err != nil {
		return fmt.Errorf("cannot look who is there: %w", err)
	}
	if peer.Uid != uint32(os.Geteuid()) {
		return errors.New("only root may do this")
	}
	return nil
}
