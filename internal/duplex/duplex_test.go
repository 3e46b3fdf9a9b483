package duplex

import (
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// pair is a connection and its other end.
func pair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if far, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// TestEachWayEndsByItself has a server that answers when it was told all.
func TestEachWayEndsByItself(t *testing.T) {
	client, x := pair(t)
	server, y := pair(t)
	var all sync.WaitGroup
	all.Go(func() { Join(x, y) })
	all.Go(func() {
		asked, err := io.ReadAll(server)
		if string(asked) != "question" || err != nil {
			t.Errorf("the server read %q, %v", asked, err)
		}
		if _, err := io.WriteString(server, "answer"); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	if _, err := io.WriteString(client, "question"); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
		t.Errorf("the client read %q, %v", got, err)
	}
	all.Wait()
}

// noHalf is a connection that ends as a whole.
type noHalf struct{ io.ReadWriteCloser }

// TestAnEndThatCannotBePassedOnEndsBothWays has a server that waits for it.
func TestAnEndThatCannotBePassedOnEndsBothWays(t *testing.T) {
	client, x := pair(t)
	server, y := pair(t)
	client.Close()
	Join(x, noHalf{y})
	if got, err := io.ReadAll(server); len(got) > 0 || err != nil {
		t.Errorf("the server read %q, %v", got, err)
	}
}
