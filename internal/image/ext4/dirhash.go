package ext4

import (
	"encoding/binary"
	"math/bits"
)

// hashHalfMD4 is the number of the hash function in superblock and indexes.
// Bytes count as unsigned; flagUnsignedHash in the superblock says so.
const hashHalfMD4 = 1

// nameHash is the hash by which a directory's index sorts a name
// (fs/ext4/hash.c of the Linux kernel). seed has 16 bytes.
func nameHash(name string, seed []byte) uint32 {
	var state [4]uint32
	for i := range state {
		state[i] = binary.LittleEndian.Uint32(seed[4*i:])
	}
	for ; len(name) > 0; name = name[min(32, len(name)):] {
		halfMD4(&state, hashInput(name))
	}
	hash := state[1] &^ 1
	if hash == 0xfffffffe { // it marks the end of a directory
		hash = 0xfffffffc
	}
	return hash
}

// hashInput is the first 32 bytes of a name as eight numbers, padded with its
// length.
func hashInput(name string) (in [8]uint32) {
	pad := uint32(len(name))
	pad |= pad << 8
	pad |= pad << 16
	for i := range in {
		in[i] = pad
		for j := 4 * i; j < min(4*i+4, len(name)); j++ {
			in[i] = in[i]<<8 + uint32(name[j])
		}
	}
	return in
}

// halfMD4 is MD4 with half of its steps, as the kernel cuts it down.
func halfMD4(state *[4]uint32, in [8]uint32) {
	choose := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	majority := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	parity := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	rounds := []struct {
		mix    func(x, y, z uint32) uint32
		add    uint32
		order  [8]int
		rotate [4]int
	}{
		{choose, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19}},
		{majority, 0x5a827999, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13}},
		{parity, 0x6ed9eba1, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15}},
	}
	a, b, c, d := state[0], state[1], state[2], state[3]
	for _, r := range rounds {
		for i, k := range r.order {
			a = bits.RotateLeft32(a+r.mix(b, c, d)+in[k]+r.add, r.rotate[i%4])
			a, b, c, d = d, a, b, c
		}
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}
