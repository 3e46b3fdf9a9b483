package fcqemu

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// relaySerial copies what the guest writes on its serial port to out until
// from ends. Bytes that out does not take at once are dropped: a reader that
// is slow or gone must not stop the guest, as QEMU itself would.
func relaySerial(out *os.File, from io.Reader) {
	fd := int(out.Fd())
	_ = unix.SetNonblock(fd, true) // Fd made it blocking
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		offer(fd, buf[:n])
		if err != nil {
			return
		}
	}
}

// offer writes what fd takes at once.
func offer(fd int, p []byte) {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		p = p[n:]
	}
}
