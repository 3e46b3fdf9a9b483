// Command bangerd is banger's daemon. It is started by banger on the first
// call that needs it; this file is where everything is wired together.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/credential"
	"github.com/banger-vm/banger/internal/daemon"
	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/doctor"
	"github.com/banger-vm/banger/internal/filelock"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/hostclock"
	"github.com/banger-vm/banger/internal/hostenv"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/keeper"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/network"
	"github.com/banger-vm/banger/internal/session"
	"github.com/banger-vm/banger/internal/sshkey"
	"github.com/banger-vm/banger/internal/vm"
	"github.com/banger-vm/banger/internal/vmm"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == keeper.Argument {
		if err := keeper.Serve(); err != nil {
			os.Exit(1)
		}
		return
	}
	client.KeepReady()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		client.TellReady(err)
		fmt.Fprintln(os.Stderr, "bangerd:", err)
		os.Exit(1)
	}
}

// run is the daemon's life.
func run(ctx context.Context) error {
	if os.Getuid() != 0 {
		return &api.Error{Kind: api.KindHost, Message: "bangerd needs root: it makes network devices and gives each VM a user of its own",
			Hint: "run banger with sudo"}
	}
	flags, err := config.ParseArgs(os.Args[1:])
	if err != nil {
		return err
	}
	cfg, err := config.Load(config.Options{Flags: flags})
	if err != nil {
		return err
	}
	if err := checkCatalogs(cfg); err != nil {
		return err
	}
	paths := cfg.Paths
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find bangerd's own place: %w", err)
	}
	companions := filepath.Join(filepath.Dir(filepath.Dir(self)), "lib", "banger")
	listener, unlock, err := listen(paths)
	if err != nil {
		return err
	}
	defer unlock()
	defer listener.Close()
	key, err := guestKey(cfg)
	if err != nil {
		return err
	}
	halt := haltAt(os.Getenv("BANGERD_HALT"))
	archive := debian.Options{Cache: filepath.Join(paths.Cache, "debian"), Mirror: cfg.Mirror, SecurityMirror: cfg.SecurityMirror}
	images := &image.Store{Dir: paths.Images(), Cache: paths.Cache, Debian: archive, AtStep: halt, Catalogs: &catalog.Set{Sources: cfg.Catalogs}}
	kernels := &kernel.Store{
		Dir: paths.Kernels(), Debian: archive, AtStep: halt,
		Init:  filepath.Join(companions, "banger-init"),
		Agent: filepath.Join(companions, "banger-vsock-agent"),
	}
	consoles, err := keeper.Connect(paths.Runtime, self)
	if err != nil {
		return err
	}
	defer consoles.Close()
	if err := freeRange(cfg); err != nil {
		return err
	}
	pool := network.Config{Bridge: cfg.BridgeName, Addr: cfg.Bridge, Ready: cfg.TapPoolSize, Upstreams: cfg.Upstreams, UIDBase: vm.UIDBase, State: paths.State}
	choose := func() (vmm.Choice, error) {
		return vmm.Choose(vmm.Options{Want: cfg.VMM, FirecrackerBin: cfg.FirecrackerBin, Companions: companions})
	}
	vms := vm.New(vm.Options{
		StateDir:     paths.VMs(),
		RuntimeDir:   filepath.Join(paths.Runtime, "vm"),
		Images:       images,
		Kernels:      kernels,
		Network:      network.New(pool, log),
		Consoles:     consoles,
		Pool:         pool,
		ChooseVMM:    choose,
		Guest:        vm.GuestSettings{AuthorizedKeys: []string{key.Authorized}, Env: hostenv.Proxy(os.Getenv), CACerts: hostenv.Certificates("/")},
		Credentials:  credentials(cfg),
		Defaults:     vm.Defaults{Image: cfg.DefaultImage, Kernel: defaultKernel, VCPUs: cfg.VCPUs, MemoryMiB: cfg.MemoryMiB, DiskMiB: cfg.DiskMiB},
		BootTimeout:  cfg.BootTimeout,
		StageTimeout: cfg.BootTimeout,
		Log:          log,
		AtStep:       halt,
	})
	if err := vms.Reconcile(ctx); err != nil {
		return err
	}
	sessions := session.New(vms, filepath.Join(paths.Runtime, "session"), log)
	sessions.Recover()
	looks := doctor.Options{
		Config: cfg, Companions: companions, UIDBase: vm.UIDBase,
		Network:     func() []api.Finding { return network.Findings(pool) },
		MendNetwork: func(ctx context.Context) ([]string, error) { return network.Mend(ctx, pool, log) },
		EndIn:       firecracker.Sweep,
	}
	go vms.WatchSpace(ctx)
	clock, err := hostClock(os.Getenv("BANGERD_CLOCK"))
	if err != nil {
		return err
	}
	defer clock.Close()
	vms.FollowClock(clock)
	server := &daemon.Daemon{
		VMs: vms, Images: images, Kernels: kernels, Sessions: sessions,
		Doctor:    func(ctx context.Context) api.Doctor { return doctor.Run(ctx, looks) },
		DoctorFix: func(ctx context.Context) api.DoctorFix { return doctor.Fix(ctx, looks) },
		SSHKey:    key.Path, Socket: paths.Socket(), LogPath: paths.Log(), Log: log,
	}
	client.TellReady(nil)
	log.Info("listening", "version", api.Version, "socket", paths.Socket())
	err = server.Serve(ctx, listener)
	sessions.Close()
	closing, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(err, vms.Close(closing))
}

// checkCatalogs refuses catalogs that could never be read.
func checkCatalogs(cfg *config.Config) error {
	for _, source := range cfg.Catalogs {
		if err := catalog.CheckSource(source); err != nil {
			return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("%s: catalogs: cannot use %s: %v", cfg.Origin("catalogs"), source, err),
				Hint: "docs/image-catalog.md tells of catalogs"}
		}
	}
	return nil
}

// defaultKernel starts a VM whose image names no kernel.
const defaultKernel = "generic-6.12"

// closeTimeout bounds the daemon's tidying up.
const closeTimeout = 30 * time.Second

// listen takes the state directory for this daemon alone and opens the socket.
// The lock ends with the process, so an old socket is nobody's.
func listen(paths config.Paths) (net.Listener, func(), error) {
	for _, dir := range []string{paths.State, paths.Runtime, paths.Data, paths.Cache} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, nil, fmt.Errorf("cannot make a directory: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(paths.State, "bangerd.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the daemon's lock: %w", err)
	}
	if err := filelock.Try(lock); err != nil {
		defer lock.Close()
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, nil, fmt.Errorf("cannot take the daemon's lock: %w", err)
		}
		return nil, nil, held(lock, paths)
	}
	sign(lock, holder{os.Getpid(), paths.Socket()})
	if err := os.Remove(paths.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, nil, fmt.Errorf("cannot remove an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: paths.Socket(), Net: "unix"})
	if err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("cannot listen on %s: %w", paths.Socket(), err)
	}
	if err := os.Chmod(paths.Socket(), 0o600); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot close the socket to others: %w", err), l.Close(), lock.Close())
	}
	return l, func() { lock.Close() }, nil
}

// holder is who works on a state directory; its lock holds it, as JSON.
type holder struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"`
}

// sign names the holder in its lock. On a full disk it stays without a name.
func sign(lock *os.File, h holder) {
	if text, err := json.Marshal(h); err == nil && lock.Truncate(0) == nil {
		_, _ = lock.WriteAt(text, 0)
	}
}

// held is the error of a bangerd that finds another at work. That one's runtime
// directory may be another, where this user's banger daemon status finds nobody.
func held(lock io.Reader, paths config.Paths) error {
	var by holder
	text, _ := io.ReadAll(io.LimitReader(lock, 8<<10))
	if json.Unmarshal(text, &by) != nil || by.Socket == "" {
		return &api.Error{Kind: api.KindExists, Message: "another bangerd works on " + paths.State,
			Hint: "`banger daemon status` shows it and `banger daemon stop` ends it, with the XDG_RUNTIME_DIR that it was started with"}
	}
	var banger string
	switch dir := filepath.Dir(by.Socket); {
	case dir == paths.Runtime:
		banger = "banger"
	case filepath.Base(dir) == "banger":
		banger = "XDG_RUNTIME_DIR=" + filepath.Dir(dir) + " banger"
	default:
		banger = "env -u XDG_RUNTIME_DIR banger"
	}
	return &api.Error{Kind: api.KindExists,
		Message: fmt.Sprintf("another bangerd works on %s: process %d, which listens on %s", paths.State, by.PID, by.Socket),
		Hint:    fmt.Sprintf("`%s daemon status` shows it, `%s daemon stop` ends it", banger, banger)}
}

// guestKey is the key that opens the guests.
func guestKey(cfg *config.Config) (sshkey.Key, error) {
	if cfg.SSHKeyMade {
		return sshkey.Ensure(cfg.SSHKeyPath)
	}
	return sshkey.Load(cfg.SSHKeyPath)
}

// credentials are the user's files that guests get; nil means that the user
// wants none to.
func credentials(cfg *config.Config) []credential.File {
	if !cfg.CredentialSync {
		return nil
	}
	files := credential.Standard(cfg.Home)
	for _, more := range cfg.Credentials {
		files = append(files, credential.File{Host: more.Host, Guest: more.Guest})
	}
	return files
}

// freeRange picks a range that nothing else on the host uses, where the user has
// set none.
func freeRange(cfg *config.Config) error {
	if cfg.Origin("cidr") != config.OriginDefault || cfg.Origin("bridge_ip") != config.OriginDefault {
		return nil
	}
	free, err := network.Free(cfg.BridgeName)
	if err != nil {
		return err
	}
	cfg.Bridge = free
	return nil
}

// hostClock is the kernel's clock; a test's where one is given.
func hostClock(told string) (interface {
	hostclock.Source
	io.Closer
}, error) {
	if told != "" {
		return hostclock.OpenTold(told)
	}
	return hostclock.OpenKernel()
}

// haltAt halts whatever comes to a step that dir has a FIFO of the name of, just
// before the step's deed, until somebody has opened the FIFO for writing and closed
// it: for the tests that kill somebody at every step.
func haltAt(dir string) func(step string) {
	if dir == "" {
		return func(string) {}
	}
	return func(step string) {
		gate, err := os.Open(filepath.Join(dir, step)) // waits for who opens it for writing
		if err != nil {
			return
		}
		defer gate.Close()
		_, _ = io.Copy(io.Discard, gate)
	}
}
