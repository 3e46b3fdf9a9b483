package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/filelock"
)

// start brings a daemon up. Of many callers at once one starts it, the others
// wait for the lock and then find it.
func (c *Client) start(ctx context.Context) error {
	if err := makeDir(c.options.Runtime); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(c.options.Runtime, "start.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if conn, err := c.connect(ctx); err == nil {
		return conn.Close()
	} else if !absent(err) {
		return err
	}
	return c.spawn(ctx)
}

func makeDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return cannotMake(dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return cannotMake(dir, err)
	}
	return checkDir(dir)
}

func cannotMake(dir string, err error) error {
	return &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("cannot make the runtime directory %s: %s", dir, plain(err)),
		Hint: "set XDG_RUNTIME_DIR to a directory that you may write to"}
}

// lock takes an exclusive flock and gives up when ctx ends.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("cannot lock the daemon's start: %v", err),
			Hint: "see that the directory is yours, and its filesystem neither full nor read-only"}
	}
	if err := filelock.Wait(ctx, file); err != nil {
		file.Close()
		if ctx.Err() != nil {
			return nil, canceled(ctx)
		}
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

// spawn starts the daemon in a session of its own and waits until it listens
// or has ended.
func (c *Client) spawn(ctx context.Context) error {
	log, from, err := openLog(c.options.Log)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer ready.Close()
	daemon := exec.Command(c.options.Daemon[0], c.options.Daemon[1:]...)
	daemon.Dir = "/"
	daemon.Env = append(os.Environ(), ReadyEnv+"=3")
	daemon.Stdout, daemon.Stderr = log, log
	daemon.ExtraFiles = []*os.File{tell}
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = daemon.Start()
	tell.Close()
	if err != nil {
		return &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("cannot start bangerd: %v", err),
			Hint: "`make install` puts banger and bangerd into one directory"}
	}
	return c.awaitReady(ctx, daemon, ready, func() string { return tail(c.options.Log, from) })
}

// awaitReady reads the daemon's word. The pipe's end without one means that
// the daemon died, unless it answers all the same.
func (c *Client) awaitReady(ctx context.Context, daemon *exec.Cmd, ready *os.File, logTail func() string) error {
	ended := make(chan error, 1)
	word := make(chan []byte, 1)
	go func() {
		said, _ := io.ReadAll(io.LimitReader(ready, maxError))
		word <- said
		ended <- daemon.Wait()
	}()
	var said []byte
	select {
	case said = <-word:
	case <-ctx.Done():
		return canceled(ctx)
	}
	if string(said) == readyWord {
		return nil
	}
	var failure api.Error
	if json.Unmarshal(said, &failure) == nil && failure.Message != "" {
		return &failure
	}
	if conn, err := c.connect(ctx); err == nil {
		return conn.Close()
	}
	select {
	case err := <-ended:
		return died(err, logTail())
	case <-ctx.Done():
		return canceled(ctx)
	}
}

func died(err error, logTail string) error {
	how := "it ended"
	if err != nil {
		how = err.Error()
	}
	message := "cannot start bangerd: " + how
	if logTail != "" {
		message += "; its last words:\n" + logTail
	}
	return &api.Error{Kind: api.KindHost, Message: message, Hint: "`banger doctor` looks at what it needs"}
}

// maxLog is how long the log may get before a start begins a new one; the last
// one is kept beside it.
const maxLog = 10 << 20

func openLog(path string) (log *os.File, size int64, err error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		_ = os.Rename(path, path+".1") // where that fails the log only grows longer
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, 0, cannotLog(err)
	}
	log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, cannotLog(err)
	}
	info, err := log.Stat()
	if err != nil {
		log.Close()
		return nil, 0, cannotLog(err)
	}
	return log, info.Size(), nil
}

func cannotLog(err error) error {
	return &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("cannot open bangerd's log: %v", err),
		Hint: "see that the directory is yours, and its filesystem neither full nor read-only"}
}

const tailLines = 12

// tail gives the last lines that were written to the log after byte from.
func tail(path string, from int64) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	from = max(from, info.Size()-16<<10)
	data, err := io.ReadAll(io.NewSectionReader(file, from, info.Size()-from))
	if err != nil {
		return ""
	}
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// Status tells of the daemon.
func (c *Client) Status(ctx context.Context) (api.DaemonStatus, error) {
	var s api.DaemonStatus
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Shutdown ends the daemon and returns when its process is gone. VMs run on.
// Where no daemon runs it does nothing.
func (c *Client) Shutdown(ctx context.Context) error {
	daemon := c.NeverStart().AnyVersion()
	defer daemon.Close()
	conn, err := daemon.connect(ctx)
	if err != nil && absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	process, err := processOf(conn)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	asked := daemon.call(ctx, http.MethodPost, "/v1/shutdown", nil, nil)
	conn.Close() // a daemon may wait for its connections to end
	daemon.Close()
	if asked != nil {
		return alreadyEnding(ctx, process, asked)
	}
	return awaitEnd(ctx, process)
}

// dyingTime is how long a daemon that does not take the request may go on
// dying.
const dyingTime = 2 * time.Second

// alreadyEnding forgives a refusal to a daemon that was on its way out.
func alreadyEnding(ctx context.Context, process int, refusal error) error {
	ctx, cancel := context.WithTimeout(ctx, dyingTime)
	defer cancel()
	if awaitEnd(ctx, process) != nil {
		return refusal
	}
	return nil
}

// Start makes sure that a daemon runs.
func (c *Client) Start(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return c.broken(ctx, err)
	}
	return conn.Close()
}
