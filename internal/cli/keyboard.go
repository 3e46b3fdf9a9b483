package cli

import (
	"io"
	"sync"
)

// mostKeys is how much of what was typed waits for a guest that does not take
// it; then the terminal waits.
const mostKeys = 1 << 20

// sift takes those keys that are meant for banger out of what was typed. leave
// says that they were the ones to leave by.
type sift func(typed []byte) (send []byte, leave bool)

// keyboard is a person's keys on their way to a guest. It reads them whether or
// not anybody takes them, so that the keys to leave by are seen when the guest
// has stopped listening. After them it is at its end.
type keyboard struct {
	mu   sync.Mutex
	more *sync.Cond
	kept []byte
	err  error
}

// openKeyboard reads keys from in, and calls leave when they say so.
func openKeyboard(in io.Reader, sift sift, leave func()) *keyboard {
	k := &keyboard{}
	k.more = sync.NewCond(&k.mu)
	go k.listen(in, sift, leave)
	return k
}

func (k *keyboard) listen(in io.Reader, sift sift, leave func()) {
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		send, left := sift(buf[:n])
		if left {
			err = io.EOF
		}
		k.keep(send, err)
		if left {
			leave()
		}
		if err != nil {
			return
		}
	}
}

// keep waits while there is too much.
func (k *keyboard) keep(keys []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept, k.err = append(k.kept, keys...), err
	k.more.Broadcast()
	for err == nil && len(k.kept) > mostKeys {
		k.more.Wait()
	}
}

// Read is [io.Reader].
func (k *keyboard) Read(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.kept) == 0 && k.err == nil {
		k.more.Wait()
	}
	n := copy(p, k.kept)
	k.kept = k.kept[n:]
	k.more.Broadcast()
	if n == 0 {
		return 0, k.err
	}
	return n, nil
}

// tilde finds "~." at the beginning of a line, as ssh(1) does. There "~~" is one
// tilde.
type tilde struct{ inLine, held bool }

func (e *tilde) sift(typed []byte) (send []byte, leave bool) {
	for _, key := range typed {
		switch {
		case e.held && key == '.':
			return send, true
		case e.held && key != '~':
			send = append(send, '~')
		case !e.held && !e.inLine && key == '~':
			e.held = true
			continue
		}
		send = append(send, key)
		e.held, e.inLine = false, key != '\r' && key != '\n'
	}
	return send, false
}

// detachKeys finds keys that are pressed one after the other. Those that turn
// out to be the beginning of something else are sent with what follows.
type detachKeys struct {
	keys []byte
	held int // how many of them were pressed and are held back
}

func (d *detachKeys) sift(typed []byte) (send []byte, leave bool) {
	for _, key := range typed {
		if key == d.keys[d.held] {
			if d.held++; d.held == len(d.keys) {
				return send, true
			}
			continue
		}
		send = append(send, d.keys[:d.held]...)
		d.held = 0
		if key == d.keys[0] {
			d.held = 1
			continue
		}
		send = append(send, key)
	}
	return send, false
}
