package host

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// LogReader is a guest's log, line by line.
type LogReader struct {
	conn   net.Conn
	frames *proto.Reader
}

// Next returns the next line, cleaned of control characters. io.EOF is the end
// of a log that is not followed; a connection that ended before that is
// io.ErrUnexpectedEOF.
func (l *LogReader) Next() (proto.LogLine, error) {
	f, err := l.frames.Next()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return proto.LogLine{}, fmt.Errorf("cannot read the guest's log: %w", err)
	}
	switch f.Type {
	case proto.TypeLogEnd:
		return proto.LogLine{}, io.EOF
	case proto.TypeLog:
		return checkLine(f.Payload)
	}
	return proto.LogLine{}, fmt.Errorf("%w: frame of type %d in a log", proto.ErrFrame, f.Type)
}

// Close ends the log.
func (l *LogReader) Close() error { return l.conn.Close() }

func checkLine(payload []byte) (proto.LogLine, error) {
	source := payload[0]
	if source != proto.LogKernel && source != proto.LogJournal && source != proto.LogAgent {
		return proto.LogLine{}, fmt.Errorf("%w: a log line from nowhere", proto.ErrFrame)
	}
	return proto.LogLine{Source: source, Text: proto.Clean(string(payload[1:]), proto.MaxLine)}, nil
}
