package agent

import (
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/guest/filetree"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// drainTimeout bounds how long a sender may take to hear that its copy failed.
const drainTimeout = 10 * time.Second

// servePut takes a tree of files from the host.
func (a *Agent) servePut(conn net.Conn, body json.RawMessage) {
	var p proto.Put
	if err := decode(body, &p); err != nil {
		refuse(conn, err)
		return
	}
	target, err := filetree.Into(a.guestPath(p.Path), p.Base)
	if err != nil {
		refuse(conn, err)
		return
	}
	defer target.Close()
	if accept(conn, nil) != nil {
		return
	}
	if _, err := target.Receive(conn, ignoreProgress); err != nil {
		// What the host has sent meanwhile must not keep it from reading why.
		_ = conn.SetReadDeadline(time.Now().Add(drainTimeout))
		_, _ = io.Copy(io.Discard, conn)
	}
}

// serveGet sends the host a tree of files.
func (a *Agent) serveGet(conn net.Conn, body json.RawMessage) {
	var g proto.Get
	if err := decode(body, &g); err != nil {
		refuse(conn, err)
		return
	}
	source, err := filetree.Open(a.guestPath(g.Path))
	if err != nil {
		refuse(conn, err)
		return
	}
	defer source.Close()
	if accept(conn, nil) == nil {
		_, _ = source.Send(conn, filepath.Base(g.Path), ignoreProgress) // the host has been told
	}
}

func ignoreProgress(filetree.Progress) {}

// guestPath is where the host's path is; one that is not absolute is in root's
// home. A slash at its end stays.
func (a *Agent) guestPath(name string) string {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.homeDir(), path)
	}
	path = a.path(path)
	if strings.HasSuffix(name, "/") && path != "/" {
		path += "/"
	}
	return path
}
