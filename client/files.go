package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/filetree"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// CopyIn copies a file or a directory of this host into a running VM. Like cp,
// it puts the copy inside of a guestPath that is a directory; any other is the
// copy's own place, and its directory must be there. A guestPath that is not
// absolute is below root's home. Links are copied as links. A large file goes
// on where an earlier copy of it was cut off.
func (c *Client) CopyIn(ctx context.Context, vm, hostPath, guestPath string, report Report) (api.Copied, error) {
	return c.CopySome(ctx, vm, hostPath, guestPath, nil, report)
}

// CopySome is CopyIn of what keep says yes to. It gets paths within the
// directory at hostPath; of a directory that stays behind nothing is copied.
func (c *Client) CopySome(ctx context.Context, vm, hostPath, guestPath string, keep func(path string, dir bool) bool, report Report) (api.Copied, error) {
	source, err := filetree.Open(hostPath)
	if err != nil {
		return api.Copied{}, badPath(err)
	}
	defer source.Close()
	source.Keep = keep
	name := hostName(hostPath)
	return c.copy(ctx, vm, api.FilesRequest{Into: guestPath, Name: name}, func(s *Stream) (filetree.Summary, error) {
		return source.Send(s, name, told(report))
	})
}

// WriteFile writes what r gives into a file of a running VM. Until all of it is
// there, an older file by that name stays as it is.
func (c *Client) WriteFile(ctx context.Context, vm, guestPath string, mode fs.FileMode, r io.Reader, report Report) (api.Copied, error) {
	name := guestName(guestPath, "stream")
	return c.copy(ctx, vm, api.FilesRequest{Into: guestPath, Name: name}, func(s *Stream) (filetree.Summary, error) {
		return filetree.SendStream(s, name, mode, r, told(report))
	})
}

// hostReserve is how much of this host's disk a guest's files must leave free.
const hostReserve = 256 << 20

// CopyOut copies a file or a directory of a running VM to this host, as CopyIn
// does the other way. Whatever the guest sends, nothing is written outside of
// hostPath, no link is followed, and the disk is not filled.
func (c *Client) CopyOut(ctx context.Context, vm, guestPath, hostPath string, report Report) (api.Copied, error) {
	target, err := filetree.Into(hostPath, guestName(guestPath, vm))
	if err != nil {
		return api.Copied{}, badPath(err)
	}
	defer target.Close()
	target.Reserve = hostReserve
	return c.copy(ctx, vm, api.FilesRequest{From: guestPath}, func(s *Stream) (filetree.Summary, error) {
		return target.Receive(s, told(report))
	})
}

// ReadFile writes the bytes of a file of a running VM to w.
func (c *Client) ReadFile(ctx context.Context, vm, guestPath string, w io.Writer, report Report) (api.Copied, error) {
	return c.copy(ctx, vm, api.FilesRequest{From: guestPath}, func(s *Stream) (filetree.Summary, error) {
		return filetree.ReceiveStream(s, w, told(report))
	})
}

// hostName is the name of a thing on this host, also of "." and "..".
func hostName(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return guestName(path, "host")
}

// guestName is the last name of a path, or a stand-in where it has none.
func guestName(path, standIn string) string {
	if name := filepath.Base(filepath.Join("/", path)); name != "/" {
		return name
	}
	return standIn
}

func (c *Client) copy(ctx context.Context, vm string, req api.FilesRequest, move func(*Stream) (filetree.Summary, error)) (api.Copied, error) {
	stream, err := c.upgrade(ctx, vmPath(vm, "/files"), api.UpgradeFiles, req)
	if err != nil {
		return api.Copied{}, err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	moved, err := move(stream)
	if err != nil && ctx.Err() != nil {
		err = canceled(ctx)
	}
	return copied(moved), explainCopy(err)
}

func copied(s filetree.Summary) api.Copied {
	moved := api.Copied{Files: s.Files, Bytes: s.Bytes, MoreSkipped: s.Unnoted}
	for _, n := range s.Notes {
		moved.Skipped = append(moved.Skipped, api.Refused{Path: string(n.Path), Why: n.Why})
	}
	return moved
}

// tellEvery is the least time between two steps of a copy.
const tellEvery = 100 * time.Millisecond

// told makes the steps of a copy out of its progress.
func told(report Report) func(filetree.Progress) {
	if report == nil {
		return func(filetree.Progress) {}
	}
	var last time.Time
	return func(p filetree.Progress) {
		if time.Since(last) < tellEvery {
			return
		}
		last = time.Now()
		report(api.StepEvent{Name: "copy", Detail: p.Path, Done: p.Done, Total: max(0, p.Size)})
	}
}

func badPath(err error) error {
	return &api.Error{Kind: api.KindBadRequest, Message: err.Error()}
}

func explainCopy(err error) error {
	var told *api.Error
	var refused *proto.Error
	switch {
	case err == nil, errors.As(err, &told):
		return err
	case errors.Is(err, syscall.ENOSPC):
		return &api.Error{Kind: api.KindNoSpace, Message: fmt.Sprintf("the copy is not whole: %v", err), Hint: "free some space, then copy again"}
	case errors.Is(err, filetree.ErrLost):
		return lost{&api.Error{Kind: api.KindInternal, Message: err.Error(),
			Hint: "the same copy again goes on where a large file was cut off"}}
	case errors.As(err, &refused), errors.Is(err, proto.ErrFrame):
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("the copy is not whole: %v", err)}
	}
	return &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("the copy is not whole: %v", err)}
}
