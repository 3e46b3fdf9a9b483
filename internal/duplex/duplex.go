// Package duplex joins connections whose two directions end one by one.
package duplex

import (
	"io"
	"sync"
)

// Conn is a connection that can end one direction and leave the other open.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Join carries bytes both ways, and the end of each, until both have ended or
// the join broke.
func Join(x, y io.ReadWriteCloser) {
	var ways sync.WaitGroup
	ways.Go(func() { carry(x, y) })
	ways.Go(func() { carry(y, x) })
	ways.Wait()
}

// carry copies to its end and passes that on. Where it can't be passed on, or
// the copy broke, both connections are closed, which ends the other way too.
func carry(to, from io.ReadWriteCloser) {
	_, err := io.Copy(to, from)
	half, ok := to.(Conn)
	if err == nil && ok && half.CloseWrite() == nil {
		return
	}
	to.Close()
	from.Close()
}
