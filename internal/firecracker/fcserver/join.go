package fcserver

import (
	"io"
	"net"
	"sync"
)

// Join carries bytes both ways until both ways have ended, and carries the end
// of each. A way also ends when its goal takes no more; the other one goes on,
// unlike with package duplex, for there may still be an answer. Who writes for
// that goal is told where its connection has a CloseRead; a stream of package
// serialmux has none, and its writer stands still until the other way ends.
func Join(a, b net.Conn) {
	var ways sync.WaitGroup
	ways.Go(func() { carry(a, b) })
	ways.Go(func() { carry(b, a) })
	ways.Wait()
}

func carry(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // it fails where the other side has gone
	} else {
		to.Close()
	}
	if half, ok := from.(interface{ CloseRead() error }); ok && err != nil {
		_ = half.CloseRead()
	}
}
