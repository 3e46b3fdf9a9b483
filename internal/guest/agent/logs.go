package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

func (a *Agent) serveLogs(conn net.Conn, body json.RawMessage) {
	var l proto.Logs
	if err := decode(body, &l); err != nil {
		refuse(conn, err)
		return
	}
	if accept(conn, nil) != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		// The host sends nothing here: what ends this read is its going away.
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	out := proto.NewWriter(conn)
	if l.Follow {
		a.followLogs(ctx, out)
		return
	}
	sendKernelLog(out)
	sendJournal(ctx, out, "--lines=all")
	a.diary.send(out)
	_ = out.Frame(proto.TypeLogEnd, nil) // a host that is gone needs no end
}

// followLogs sends all logs as they grow, until ctx ends.
func (a *Agent) followLogs(ctx context.Context, out *proto.Writer) {
	var all sync.WaitGroup
	all.Go(func() { followKernelLog(ctx, out) })
	all.Go(func() { sendJournal(ctx, out, "--lines=all", "--follow") })
	all.Go(func() { a.diary.follow(ctx, out) })
	all.Wait()
	<-ctx.Done()
}

func sendLine(out *proto.Writer, source byte, line string) error {
	return out.Frame(proto.TypeLog, append([]byte{source}, line[:min(len(line), proto.MaxLine)]...))
}

// maxRecord is the longest record that the kernel gives (CONSOLE_EXT_LOG_MAX).
const maxRecord = 8 << 10

// sendKernelLog sends what the kernel's log holds now.
func sendKernelLog(out *proto.Writer) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = sendLine(out, proto.LogKernel, fmt.Sprintf("(cannot read the kernel's log: %v)", err)) // a host that is gone needs no log
		return
	}
	defer unix.Close(fd)
	sendRecords(out, func(p []byte) (int, error) { return unix.Read(fd, p) })
}

// followKernelLog sends the kernel's log as it grows.
func followKernelLog(ctx context.Context, out *proto.Writer) {
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		_ = sendLine(out, proto.LogKernel, fmt.Sprintf("(cannot read the kernel's log: %v)", err)) // a host that is gone needs no log
		return
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	defer f.Close()
	sendRecords(out, f.Read)
}

// sendRecords sends the records of /dev/kmsg that read gives, one each time,
// until it fails.
func sendRecords(out *proto.Writer, read func([]byte) (int, error)) {
	buf := make([]byte, maxRecord)
	for {
		n, err := read(buf)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR) {
			continue // records were overwritten before they were read
		}
		if err != nil || n <= 0 {
			return
		}
		if sendLine(out, proto.LogKernel, kernelLine(string(buf[:n]))) != nil {
			return
		}
	}
}

// kernelLine shows a record, "priority,number,microseconds,flags;text", as
// dmesg does. The format is in the kernel's Documentation/ABI/testing/dev-kmsg.
func kernelLine(record string) string {
	head, text, ok := strings.Cut(record, ";")
	text, _, _ = strings.Cut(text, "\n")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return record
	}
	micros, err := strconv.ParseUint(fields[2], 10, 63)
	if err != nil {
		return record
	}
	return fmt.Sprintf("[%5d.%06d] %s", micros/1e6, micros%1e6, text)
}

// journalArgs choose this boot's journal without the kernel's lines, which come
// from the kernel itself.
var journalArgs = []string{
	"--no-pager", "--quiet", "--boot", "--output=short-iso",
	"_TRANSPORT=journal", "+", "_TRANSPORT=syslog", "+", "_TRANSPORT=stdout", "+", "_TRANSPORT=driver",
}

// sendJournal sends the journal of an image that has one.
func sendJournal(ctx context.Context, out *proto.Writer, args ...string) {
	program, err := exec.LookPath("journalctl")
	if err != nil {
		return
	}
	cmd := exec.CommandContext(ctx, program, append(args, journalArgs...)...)
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		_ = sendLine(out, proto.LogJournal, fmt.Sprintf("(cannot read the journal: %v)", err)) // a host that is gone needs no log
		return
	}
	sendLines(out, stdout)
	stdout.Close()
	_ = cmd.Wait() // it was ended by its context, or has said what it had to say
}

// sendLines sends each line of src, cut at MaxLine.
func sendLines(out *proto.Writer, src io.Reader) {
	in := bufio.NewReaderSize(src, proto.MaxLine)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 && sendLine(out, proto.LogJournal, string(bytes.TrimRight(line, "\r\n"))) != nil {
			return
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}
