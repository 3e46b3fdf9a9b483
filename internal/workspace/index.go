package workspace

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // git's format has it
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// errIndex is an index in a form that git was told not to write.
var errIndex = errors.New("git wrote its index in an unknown form")

// withoutExtensions takes everything but the entries out of an index of version
// 2 or 3: what its extensions name (trees, another file) is not in the guest.
// The format is git's Documentation/gitformat-index.
func withoutExtensions(index []byte, format string) ([]byte, error) {
	sum, oidLen := sha1.New(), 20
	if format == "sha256" {
		sum, oidLen = sha256.New(), 32
	}
	const head = 12
	if len(index) < head || !bytes.HasPrefix(index, []byte("DIRC")) {
		return nil, errIndex
	}
	if version := binary.BigEndian.Uint32(index[4:]); version != 2 && version != 3 {
		return nil, fmt.Errorf("%w: version %d", errIndex, version)
	}
	at := head
	for range binary.BigEndian.Uint32(index[8:]) {
		begin := at
		at += 40 + oidLen // stat data, object
		if at+4 > len(index) {
			return nil, errIndex
		}
		const extended = 0x4000
		if flags := binary.BigEndian.Uint16(index[at:]); flags&extended != 0 {
			at += 2
		}
		at += 2
		end := bytes.IndexByte(index[at:], 0)
		if end < 0 {
			return nil, errIndex
		}
		at += end
		at = begin + (at-begin+8)&^7 // one to eight zeros
	}
	if at > len(index) {
		return nil, errIndex
	}
	sum.Write(index[:at])
	return sum.Sum(bytes.Clone(index[:at])), nil
}
