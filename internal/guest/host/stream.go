package host

import (
	"net"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// stream is a connection within the guest. Its direction to the guest is in
// frames, so that it can end alone: real firecracker takes a half-close for the
// whole connection's end.
type stream struct {
	net.Conn
	out *proto.Writer
}

// Write sends p to the guest.
func (s stream) Write(p []byte) (int, error) {
	total := 0
	for total < len(p) {
		piece := p[total:min(len(p), total+proto.MaxData)]
		if err := s.out.Frame(proto.TypeStdin, piece); err != nil {
			return total, err
		}
		total += len(piece)
	}
	return total, nil
}

// CloseWrite ends the direction to the guest.
func (s stream) CloseWrite() error { return s.out.Frame(proto.TypeStdinEOF, nil) }
