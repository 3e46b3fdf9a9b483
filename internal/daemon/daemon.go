// Package daemon serves banger's API on a unix socket: one table of routes,
// one place where errors become kinds, and a file of handlers per noun. What
// the handlers do is [vm], image and kernel; here is only the wire.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/progress"
	"github.com/banger-vm/banger/internal/session"
	"github.com/banger-vm/banger/internal/vm"
)

// Images are the image store.
type Images interface {
	List() ([]image.Image, error)
	Get(ctx context.Context, name string) (image.Image, error)
	Ensure(ctx context.Context, name string, report progress.Func) (image.Image, error)
	Pull(ctx context.Context, req api.PullImage, report progress.Func) (image.Image, error)
	CheckNew(ctx context.Context, name string) error
	Receive(ctx context.Context, req api.PullImage, write image.Writer, report progress.Func) (image.Image, error)
	Listings(ctx context.Context) []catalog.Listing
	Export(ctx context.Context, name, file string, report progress.Func) (catalog.Entry, error)
	Publish(ctx context.Context, name, folder string, report progress.Func) (catalog.Entry, error)
	Register(ctx context.Context, name, rootfs, kernel string) (image.Image, error)
	Tag(ctx context.Context, name, second string) (image.Image, error)
	Prunable(keep func(name string) bool) ([]image.Image, error)
	Layers() (int64, error)
	PruneLayers() (int64, error)
	Packages() (int64, error)
	PrunePackages() (int64, error)
	Delete(ctx context.Context, name string) error
}

// Kernels are the kernel store.
type Kernels interface {
	List() ([]kernel.Kernel, error)
	Ensure(ctx context.Context, name string, report progress.Func) (kernel.Kernel, error)
	Show(name string) (kernel.Kernel, error)
	Pull(ctx context.Context, name string, report progress.Func) (kernel.Kernel, error)
	Import(ctx context.Context, name string, files kernel.Files, report progress.Func) (kernel.Kernel, error)
	Delete(ctx context.Context, name string) error
}

// Daemon is bangerd's API.
type Daemon struct {
	VMs       *vm.Manager
	Images    Images
	Kernels   Kernels
	Sessions  *session.Host
	Doctor    func(context.Context) api.Doctor
	DoctorFix func(context.Context) api.DoctorFix
	SSHKey    string // path of the private key that opens the guests
	Socket    string
	LogPath   string
	Log       *slog.Logger

	started time.Time
	life    context.Context // ends when the daemon does
	stop    context.CancelCauseFunc
	streams sync.WaitGroup // upgraded connections, which the HTTP server no longer knows
}

// errShutdown is why everything ends when a client asked for it.
var errShutdown = errors.New("a client asked bangerd to stop")

// drainTimeout is how long requests may take to notice that the daemon ends.
const drainTimeout = 5 * time.Second

// Serve answers on l until ctx ends or a client asks for the end. VMs run on.
func (d *Daemon) Serve(ctx context.Context, l net.Listener) error {
	ctx, d.stop = context.WithCancelCause(ctx)
	defer d.stop(nil)
	d.life = ctx
	d.started = time.Now()
	server := &http.Server{
		Handler:           d.handler(),
		ConnContext:       withPeer,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(d.Log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("cannot serve: %w", err)
	case <-ctx.Done():
	}
	d.Log.Info("ending", "why", context.Cause(ctx))
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := server.Shutdown(grace)
	d.streams.Wait()
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close()
	}
	return err
}
