package vm

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"testing"
)

// A VMM that hangs up on the first callers, as Firecracker does while its guest
// is too slow to answer.
func TestDialGuestAsksAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if n == 2 {
				fmt.Fprintf(conn, "OK 5\n%s", line)
			}
			conn.Close()
		}
	}()
	conn, err := dialGuest(t.Context(), path, 1023)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, _ := bufio.NewReader(conn).ReadString('\n'); line != "CONNECT 1023\n" {
		t.Errorf("the third caller got %q", line)
	}
}
