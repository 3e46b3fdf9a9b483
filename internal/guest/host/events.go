package host

import (
	"context"
	"fmt"
	"net"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// maxEvents is more than any guest has to say in its life: two stages and one
// goodbye. It keeps an ill-willed one from keeping its watcher busy.
const maxEvents = 64

// Events is the event stream of one guest.
type Events struct {
	// Hello is what the agent said of itself, cleaned.
	Hello proto.Hello

	conn   net.Conn
	frames *proto.Reader
	seen   int
}

// Accept reads the hello of a connection that carries events: the one that the
// guest dialled, or one of watch. On error conn is closed.
func Accept(ctx context.Context, conn net.Conn) (*Events, error) {
	e := &Events{conn: conn, frames: proto.NewReader(conn)}
	if err := limited(ctx, conn, e.readHello); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot understand the guest's agent: %w", err)
	}
	return e, nil
}

func (e *Events) readHello() error {
	event, err := e.read()
	if err != nil {
		return err
	}
	if event.Kind != proto.EventHello || event.Hello == nil {
		return fmt.Errorf("%w: events that do not begin with a hello", proto.ErrFrame)
	}
	e.Hello, err = checkHello(*event.Hello)
	return err
}

// Next returns the next event, which is ready or goodbye. It waits as long as
// ctx allows; after an error the stream is of no more use.
func (e *Events) Next(ctx context.Context) (proto.Event, error) {
	stop := context.AfterFunc(ctx, func() { e.conn.Close() })
	defer stop()
	event, err := e.read()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		event, err = checkEvent(event)
	}
	if err != nil {
		return proto.Event{}, fmt.Errorf("cannot read the guest's events: %w", err)
	}
	return event, nil
}

// Close ends the stream.
func (e *Events) Close() error { return e.conn.Close() }

func (e *Events) read() (proto.Event, error) {
	var event proto.Event
	if e.seen++; e.seen > maxEvents {
		return event, fmt.Errorf("%w: more than %d events", proto.ErrFrame, maxEvents)
	}
	f, err := e.frames.Next()
	if err != nil {
		return event, err
	}
	if f.Type != proto.TypeEvent {
		return event, fmt.Errorf("%w: frame of type %d among events", proto.ErrFrame, f.Type)
	}
	return event, proto.Decode(f.Payload, &event)
}

// checkEvent lets through what has a meaning.
func checkEvent(e proto.Event) (proto.Event, error) {
	switch {
	case e.Kind == proto.EventReady && (e.Stage == proto.StageDefault || e.Stage == proto.StageSystem):
		return proto.Event{Kind: e.Kind, Stage: e.Stage}, nil
	case e.Kind == proto.EventGoodbye && knownReason(e.Reason):
		return proto.Event{Kind: e.Kind, Reason: e.Reason}, nil
	}
	return proto.Event{}, fmt.Errorf("%w: an event without a meaning", proto.ErrFrame)
}

func knownReason(r proto.Reason) bool {
	return r == proto.ReasonPoweroff || r == proto.ReasonReboot || r == proto.ReasonHalt
}

// maxName is the longest version, release or boot id that is kept.
const maxName = 128

func checkHello(h proto.Hello) (proto.Hello, error) {
	switch h.Init {
	case proto.InitSystemd, proto.InitOpenRC, proto.InitBusybox, proto.InitNone, proto.InitOther:
	default:
		return proto.Hello{}, fmt.Errorf("%w: an unknown kind of init", proto.ErrFrame)
	}
	h.Version = proto.Clean(h.Version, maxName)
	h.BootID = proto.Clean(h.BootID, maxName)
	h.Kernel = proto.Clean(h.Kernel, maxName)
	return h, nil
}
