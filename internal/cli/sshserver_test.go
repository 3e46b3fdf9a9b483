package cli_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/sshkey"
)

// sshServer is a guest's SSH server that runs its commands on the host.
type sshServer struct {
	config *ssh.ServerConfig
	info   api.SSHInfo
}

// newSSHServer lets in the key at path, which it makes.
func newSSHServer(path string) (*sshServer, error) {
	user, err := sshkey.Ensure(path)
	if err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) != user.Authorized {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	return &sshServer{config, api.SSHInfo{User: "root", KeyPath: path,
		HostKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(host.PublicKey())))}}}, nil
}

func (s *sshServer) serve(conn net.Conn) {
	server, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		runSession(server, channel, requests)
	}
}

// runSession runs one command, or a shell that reads its input. Where the client
// offers its agent, the command has it.
func runSession(server *ssh.ServerConn, channel ssh.Channel, requests <-chan *ssh.Request) {
	env := os.Environ()
	for r := range requests {
		var args []string
		if r.Type == "auth-agent-req@openssh.com" {
			socket, done := agentSocket(server)
			defer done()
			env = append(env, "SSH_AUTH_SOCK="+socket)
			r.Reply(true, nil)
			continue
		}
		switch r.Type {
		case "exec":
			args = []string{"-c", string(r.Payload[4:])}
		case "shell":
		default:
			r.Reply(r.Type == "env" || r.Type == "pty-req", nil)
			continue
		}
		r.Reply(true, nil)
		shell := exec.Command("sh", args...)
		shell.Env = env
		stdin, _ := shell.StdinPipe()
		go func() { io.Copy(stdin, channel); stdin.Close() }()
		shell.Stdout, shell.Stderr = channel, channel.Stderr()
		shell.Run()
		status := binary.BigEndian.AppendUint32(nil, uint32(shell.ProcessState.ExitCode()))
		channel.SendRequest("exit-status", false, status)
		channel.Close()
		return
	}
}

// agentSocket leads to the client's agent.
func agentSocket(server *ssh.ServerConn) (path string, done func()) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			channel, requests, err := server.OpenChannel("auth-agent@openssh.com", nil)
			if err != nil {
				conn.Close()
				continue
			}
			go ssh.DiscardRequests(requests)
			go func() { io.Copy(channel, conn); channel.CloseWrite() }()
			go func() { io.Copy(conn, channel); conn.Close() }()
		}
	}()
	return l.Addr().String(), func() { l.Close(); os.RemoveAll(dir) }
}
