package serialmux

// ring is a queue of bytes that grows as it must. Its zero value is ready.
type ring struct {
	buf  []byte
	from int
	n    int
}

func (r *ring) len() int { return r.n }

func (r *ring) write(p []byte) {
	r.grow(r.n + len(p))
	at := r.from + r.n
	if at >= len(r.buf) {
		at -= len(r.buf)
	}
	first := copy(r.buf[at:], p)
	copy(r.buf, p[first:])
	r.n += len(p)
}

func (r *ring) grow(need int) {
	if need <= len(r.buf) {
		return
	}
	size := max(4<<10, len(r.buf))
	for size < need {
		size *= 2
	}
	to := make([]byte, size)
	n := copy(to, r.buf[r.from:min(r.from+r.n, len(r.buf))])
	copy(to[n:r.n], r.buf)
	r.buf, r.from = to, 0
}

func (r *ring) read(p []byte) int {
	n := copy(p, r.buf[r.from:min(r.from+r.n, len(r.buf))])
	more := copy(p[n:], r.buf[:max(0, min(r.n-n, r.from))])
	n += more
	r.from += n
	if r.from >= len(r.buf) {
		r.from -= len(r.buf)
	}
	r.n -= n
	return n
}
