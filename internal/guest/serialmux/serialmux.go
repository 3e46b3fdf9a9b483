// Package serialmux carries many streams over one byte pipe that may break and
// come back in the middle of anything: the virtio-serial port between fcqemu
// and the guest's agent.
//
// Every frame has a 24-byte head, big-endian:
//
//	magic u32 | epoch u64 | type u8 | 0 u8 | payload length u16 | stream u32 | CRC-32 (IEEE) of these 20 bytes
//
// The host begins an epoch each time it connects: as many zero bytes as the
// longest frame has (so that they, and not the opening, are swallowed by a
// frame that its predecessor left unfinished), then an open frame with a new
// random epoch, and it waits for the guest's answer in that epoch. A new epoch
// ends all streams of the older ones. A receiver that finds no head where one
// should be searches for the next; it drops frames of other epochs. The epoch
// is random so that bytes which a guest program prints can't pose as a frame.
//
// Within an epoch streams are opened by either side to a port number of the
// other, flow-controlled one by one, and closed by halves, like TCP. There are
// no keepalives and no timeouts: a paused guest is not dead. A receiver never
// waits for its sender, so a stream that nobody reads holds up no other, and
// what an ill-willed peer can make it hold is bounded: receive windows times
// streams. A peer that exceeds a window ends its epoch.
package serialmux

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	magic   = uint32(0x626e6772) // "bngr"
	headLen = 24
	// maxPayload makes a whole frame 32 KiB, the most that Linux's
	// virtio_console takes in one write.
	maxPayload = 32<<10 - headLen
	maxFrame   = headLen + maxPayload
	// window is what one stream may have under way: some milliseconds of a
	// fast pipe.
	window = 256 << 10
	// maxDialled is how many streams the guest takes from its host: as many
	// as firecracker's vsock device has.
	maxDialled = 1023
	// maxFromGuest is how many streams the host takes from its guest, whose
	// agent opens one: 16 MiB of windows, should it be an ill-willed one.
	maxFromGuest = 64
	// maxRefusals is how many refused streams may wait to be told so. More
	// means that the peer opens streams without reading.
	maxRefusals = 1024
)

type frameType uint8

const (
	frameOpen    frameType = iota + 1 // host: the epoch begins
	frameOpened                       // guest: it has
	frameSyn                          // a new stream; payload: port u32
	frameAck                          // the stream was accepted
	frameData                         // payload: bytes
	frameCredit                       // payload: bytes that the reader took, u32
	frameEnd                          // no more data from here
	frameClose                        // no more data from here, and none is read
	frameReset                        // the stream is refused or broken off
	frameTypeEnd                      // first number that is no type
)

// Errors of streams and sessions.
var (
	// ErrEpoch says that the link was connected anew: its older streams are gone.
	ErrEpoch = errors.New("the guest link was connected anew")
	// ErrRefused says that nobody listens at the port, or too many streams are open.
	ErrRefused = errors.New("the other end of the guest link refused the connection")
	// ErrReset says that the other end broke the stream off.
	ErrReset = errors.New("the other end of the guest link broke the connection off")
	// ErrPeer says that the other end broke the rules.
	ErrPeer = errors.New("the other end of the guest link does not keep to its protocol")
)

type head struct {
	epoch  uint64
	kind   frameType
	length int
	stream uint32
}

func (h head) append(to []byte) []byte {
	start := len(to)
	to = binary.BigEndian.AppendUint32(to, magic)
	to = binary.BigEndian.AppendUint64(to, h.epoch)
	to = append(to, byte(h.kind), 0)
	to = binary.BigEndian.AppendUint16(to, uint16(h.length))
	to = binary.BigEndian.AppendUint32(to, h.stream)
	return binary.BigEndian.AppendUint32(to, crc32.ChecksumIEEE(to[start:]))
}

// parseHead reads a head from the first headLen bytes of p.
func parseHead(p []byte) (head, bool) {
	if binary.BigEndian.Uint32(p) != magic || crc32.ChecksumIEEE(p[:20]) != binary.BigEndian.Uint32(p[20:]) {
		return head{}, false
	}
	h := head{
		epoch:  binary.BigEndian.Uint64(p[4:]),
		kind:   frameType(p[12]),
		length: int(binary.BigEndian.Uint16(p[14:])),
		stream: binary.BigEndian.Uint32(p[16:]),
	}
	return h, h.kind > 0 && h.kind < frameTypeEnd && p[13] == 0 && h.length <= maxPayload
}
