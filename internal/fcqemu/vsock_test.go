package fcqemu

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// deaf is a host's end that takes nothing, and may still say something.
type deaf struct {
	net.Conn
	once  sync.Once
	ended chan struct{} // the guest's way has ended
}

func (d *deaf) Write([]byte) (int, error) { return 0, unix.EPIPE }

func (d *deaf) CloseWrite() error {
	d.once.Do(func() { close(d.ended) })
	return nil
}

func (d *deaf) Close() error {
	_ = d.CloseWrite()
	return d.Conn.Close()
}

// TestTheHostAnswersThoughItTakesNoMore ends one way and uses the other.
func TestTheHostAnswersThoughItTakesNoMore(t *testing.T) {
	guest, ourGuest := net.Pipe()
	host, ourHost := net.Pipe()
	theDeaf := &deaf{Conn: ourHost, ended: make(chan struct{})}
	var joined sync.WaitGroup
	joined.Go(func() {
		connect(t.Context(), ourGuest, 1, func(context.Context, uint32) (net.Conn, error) { return theDeaf, nil })
	})
	if _, err := io.WriteString(guest, "nobody reads this"); err != nil {
		t.Fatal(err)
	}
	<-theDeaf.ended
	joined.Go(func() {
		_, _ = io.WriteString(host, "the answer") // seen where the guest reads it
		host.Close()
	})
	if got, err := io.ReadAll(guest); string(got) != "the answer" || err != nil {
		t.Errorf("the guest read %q, %v", got, err)
	}
	joined.Wait()
}
