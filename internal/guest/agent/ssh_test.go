package agent_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/guest/proto"
)

func echoOnce(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	io.Copy(conn, conn)
}

// talk sends text, half-closes, and returns all that comes back.
func talk(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

// login logs in as user with signer, over the link; the agent serves SSH itself
// where nothing listens on port 22, which these tests need.
func (g guest) login(t *testing.T, user string, signer ssh.Signer, hostLine string) (*ssh.Client, error) {
	t.Helper()
	conn, err := g.SSH(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostLine))
	if err != nil {
		t.Fatal(err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(hostKey),
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

// startSSH is a configured guest and a client that is logged in.
func startSSH(t *testing.T) (guest, *ssh.Client) {
	t.Helper()
	g := start(t, proto.InitNone)
	signer, _, line := newKey(t)
	_, hostKey, hostLine := newKey(t)
	write(t, filepath.Join(g.root, "etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")
	if err := g.Configure(t.Context(), proto.Config{AuthorizedKeys: []string{line}, HostKey: hostKey}); err != nil {
		t.Fatal(err)
	}
	client, err := g.login(t, "root", signer, hostLine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.login(t, "daemon", signer, hostLine); err == nil {
		t.Fatal("somebody else than root logged in")
	}
	stranger, _, _ := newKey(t)
	if _, err := g.login(t, "root", stranger, hostLine); err == nil {
		t.Fatal("a stranger logged in")
	}
	return g, client
}

func TestSSHCommand(t *testing.T) {
	_, client := startSSH(t)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = strings.NewReader("in"), &stdout, &stderr
	session.Setenv("ASKED", "yes")
	err = session.Run("cat; echo $ASKED; echo err >&2; exit 7")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 || stdout.String() != "inyes\n" || stderr.String() != "err\n" {
		t.Fatalf("%v, %q, %q", err, stdout.String(), stderr.String())
	}
}

func TestSSHTerminal(t *testing.T) {
	_, client := startSSH(t)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestPty("vt100", 33, 99, ssh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	session.Stdin = strings.NewReader("stty size; echo $TERM; exit 3\n")
	var stdout bytes.Buffer
	session.Stdout = &stdout
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	err = session.Wait()
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Fatal(err)
	}
	if out := stdout.String(); !strings.Contains(out, "33 99\r\n") || !strings.Contains(out, "vt100\r\n") {
		t.Fatalf("%q", out)
	}
}

func TestSSHSignalAndForward(t *testing.T) {
	_, client := startSSH(t)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("echo ready; exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := session.Signal(ssh.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 128+15 {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go echoOnce(l)
	conn, err := client.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got := talk(t, conn, "through"); got != "through" {
		t.Fatalf("%q", got)
	}
}

func TestSFTP(t *testing.T) {
	_, client := startSSH(t)
	files, err := sftp.NewClient(client)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "f")
	f, err := files.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("text"))
	f.Close()
	files.Close()
	if got, err := os.ReadFile(path); string(got) != "text" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}
