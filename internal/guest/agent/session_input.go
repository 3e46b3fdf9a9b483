package agent

import (
	"fmt"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// maxSenders is how many clients' counts of input are remembered, to take up
// where a lost connection broke off.
const maxSenders = 256

// inbox is input that came and that the command has not read yet, in the order
// in which it came. Its session's lock guards it.
type inbox struct {
	queue   []chunk
	sent    int // bytes of sends in the queue
	closed  bool
	clients map[string]*sender
	oldest  []string // the names of clients, as they came
}

// chunk is input that is not torn apart.
type chunk struct {
	data []byte
	eof  bool
	from *sender // nil: a send
}

// sender counts the input of one client, over all its connections.
type sender struct {
	accepted uint64 // bytes that came
	taken    uint64 // bytes that the command was given
	holder   *attachment
}

// sender gives the counts of a client.
func (in *inbox) sender(client string) *sender {
	if c, ok := in.clients[client]; ok {
		return c
	}
	for i := 0; len(in.clients) >= maxSenders && i < len(in.oldest); i++ {
		if c := in.clients[in.oldest[i]]; c.holder == nil {
			delete(in.clients, in.oldest[i])
			in.oldest = append(in.oldest[:i], in.oldest[i+1:]...)
			break
		}
	}
	c := &sender{}
	in.clients[client] = c
	in.oldest = append(in.oldest, client)
	return c
}

// take adds a client's input. One that keeps to its credit never waits here.
func (s *session) take(at *attachment, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := at.sender
	for from.accepted-from.taken > 0 && from.accepted-from.taken+uint64(len(data)) > proto.StdinWindow && !at.gone && !s.over {
		s.changed.Wait()
	}
	if at.gone || len(data) == 0 {
		return // of what it counts as sent it will learn that it did not come
	}
	from.accepted += uint64(len(data))
	if s.over || s.input.closed {
		from.taken += uint64(len(data)) // by nobody
	} else {
		s.input.queue = append(s.input.queue, chunk{data: append([]byte(nil), data...), from: from})
	}
	s.changed.Broadcast()
}

// send adds input of nobody who is attached.
func (s *session) send(data []byte, eof bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
		return s.hasEnded()
	case s.about.Stdin == proto.StdinNull:
		return &proto.Error{Kind: proto.ErrorWrongState, Message: fmt.Sprintf("the session %q has no standard input: it was started with null", s.about.Name)}
	case s.input.closed:
		return &proto.Error{Kind: proto.ErrorWrongState, Message: fmt.Sprintf("the standard input of session %q is closed", s.about.Name)}
	case len(data) > proto.MaxSend:
		return badRequest("a send is at most %d bytes long", proto.MaxSend)
	case s.input.sent > 0 && s.input.sent+len(data) > proto.MaxSend:
		return &proto.Error{Kind: proto.ErrorWrongState, Message: fmt.Sprintf("the session %q does not read its input: %d bytes wait", s.about.Name, s.input.sent)}
	}
	if len(data) > 0 {
		s.input.queue = append(s.input.queue, chunk{data: data})
		s.input.sent += len(data)
	}
	if eof {
		s.input.queue = append(s.input.queue, chunk{eof: true})
	}
	s.changed.Broadcast()
	return nil
}

// feed writes to the command what comes, until it has ended or takes no more.
func (s *session) feed() {
	for {
		c, ok := s.nextInput()
		if !ok {
			return
		}
		var err error
		switch {
		case !c.eof:
			_, err = s.p.stdin.Write(c.data)
		case s.p.tty != nil:
			_, err = s.p.tty.Write([]byte{endOfInput})
		default:
			s.p.stdin.Close()
			err = errInputEnded
		}
		s.took(c)
		if err != nil {
			s.closeInput()
			return
		}
	}
}

func (s *session) nextInput() (chunk, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.input.queue) == 0 && !s.over {
		s.changed.Wait()
	}
	if s.over {
		return chunk{}, false
	}
	return s.input.queue[0], true
}

// took takes the first chunk out of the queue.
func (s *session) took(c chunk) {
	s.change(func() {
		s.input.queue = s.input.queue[1:]
		s.input.count(c)
	})
}

func (in *inbox) count(c chunk) {
	if c.from != nil {
		c.from.taken += uint64(len(c.data))
	} else {
		in.sent -= len(c.data)
	}
}

// closeInput lets what waits and what comes go nowhere, without holding up who
// sends it.
func (s *session) closeInput() {
	s.change(func() {
		for _, c := range s.input.queue {
			s.input.count(c)
		}
		s.input.queue, s.input.closed = nil, true
	})
}
