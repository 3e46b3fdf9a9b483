package session

import (
	"net"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// MaxClients is how many clients a socket serves at once.
const MaxClients = maxClients

// ReadAttach reads what a client of a socket begins with.
func ReadAttach(conn net.Conn) (proto.Attach, error) { return readAttach(conn) }
