package fcserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/banger-vm/banger/internal/firecracker"
	"golang.org/x/sys/unix"
)

// api is the machine behind the API, before and after its start. Its
// requests are served one at a time.
type api struct {
	machine Machine
	log     *logger
	name    string
	mmds    dataStore
	metrics *metrics
	// life ends when the process is to end.
	life context.Context

	mu    sync.Mutex
	state firecracker.InstanceState
	setup *setup
	// resumed is closed while the machine is not paused.
	resumed chan struct{}
}

func newAPI(life context.Context, m Machine, log *logger, name, id string, mmdsLimit int, bootTimer bool) *api {
	running := make(chan struct{})
	close(running)
	return &api{
		machine: m, log: log, name: name, life: life,
		mmds: dataStore{limit: mmdsLimit}, metrics: &metrics{},
		state: firecracker.StateNotStarted, setup: newSetup(id, m, bootTimer), resumed: running,
	}
}

// act is a request that was understood; answer is nil for 204.
type act func(ctx context.Context, a *api) (answer any, err error)

// do serves one request. Unlike upstream's, a machine's work is given up
// when the client is gone only if the machine gives it up.
func (a *api) do(ctx context.Context, run act) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return run(ctx, a)
}

// beforeStart is a request that only a machine not started takes.
func beforeStart(run func(*setup) error) act {
	return func(_ context.Context, a *api) (any, error) {
		if a.state != firecracker.StateNotStarted {
			return nil, errPostBoot
		}
		return nil, run(a.setup)
	}
}

// afterStart is a request that only a started machine takes.
func afterStart(run act) act {
	return func(ctx context.Context, a *api) (any, error) {
		if a.state == firecracker.StateNotStarted {
			return nil, errPreBoot
		}
		return run(ctx, a)
	}
}

func describe(_ context.Context, a *api) (any, error) {
	return firecracker.InstanceInfo{ID: a.setup.config.ID, State: a.state, VMMVersion: Version, AppName: a.name}, nil
}

func version(context.Context, *api) (any, error) {
	return struct {
		Version string `json:"firecracker_version"`
	}{Version}, nil
}

func fullConfig(_ context.Context, a *api) (any, error) {
	return viewOf(a.setup.config, a.setup.boot), nil
}

func machineConfig(_ context.Context, a *api) (any, error) {
	return machineViewOf(a.setup.config.Machine), nil
}

func balloonConfig(_ context.Context, a *api) (any, error) {
	if a.setup.config.Balloon == nil {
		return nil, errNoBalloon
	}
	return balloonViewOf(*a.setup.config.Balloon), nil
}

// start boots the machine.
func start(_ context.Context, a *api) (any, error) {
	if a.state != firecracker.StateNotStarted {
		return nil, errPostBoot
	}
	config, err := a.setup.ready()
	if err != nil {
		return nil, prefixed("Start microvm error", err)
	}
	if err := a.machine.Boot(a.life, config, a.env()); err != nil {
		return nil, prefixed("Start microvm error", err)
	}
	a.state = firecracker.StateRunning
	if s := a.setup.vsock; s != nil {
		go s.serve(a.life, a.awake, a.machine.Dial)
	}
	return nil, nil
}

// env makes stdout non-blocking, as Firecracker does when it boots.
func (a *api) env() Env {
	_ = unix.SetNonblock(int(os.Stdout.Fd()), true)
	env := Env{
		In: serialInput(), Out: os.Stdout,
		Logf: func(format string, args ...any) { a.log.logf(levelInfo, "main", format, args...) },
	}
	if v := a.setup.config.Vsock; v != nil {
		env.DialHost = dialHost(v.UDSPath)
	}
	return env
}

// serialInput is stdin where somebody could type: a terminal or a FIFO.
func serialInput() *os.File {
	info, err := os.Stdin.Stat()
	if err != nil {
		return nil
	}
	_, err = unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err == nil || info.Mode()&os.ModeNamedPipe != 0 {
		return os.Stdin
	}
	return nil
}

// awake returns when the machine is not paused.
func (a *api) awake(ctx context.Context) error {
	a.mu.Lock()
	resumed := a.resumed
	a.mu.Unlock()
	select {
	case <-resumed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func setState(state firecracker.VMState) act {
	if state == firecracker.Paused {
		return afterStart(pause)
	}
	return afterStart(resume)
}

func pause(ctx context.Context, a *api) (any, error) {
	if a.state == firecracker.StatePaused {
		return nil, nil
	}
	if err := a.machine.Pause(ctx); err != nil {
		return nil, prefixed("Internal VMM error", err)
	}
	a.state = firecracker.StatePaused
	a.resumed = make(chan struct{})
	return nil, nil
}

func resume(ctx context.Context, a *api) (any, error) {
	if a.state == firecracker.StateRunning {
		return nil, nil
	}
	if err := a.machine.Resume(ctx); err != nil {
		return nil, prefixed("Internal VMM error", err)
	}
	a.state = firecracker.StateRunning
	close(a.resumed)
	return nil, nil
}

func sendCtrlAltDel(ctx context.Context, a *api) (any, error) {
	return nil, prefixed("Internal VMM error", a.machine.SendCtrlAltDel(ctx))
}

func flushMetrics(_ context.Context, a *api) (any, error) {
	return nil, prefixed("Internal VMM error: Metrics error", a.metrics.flush())
}

// patchDrive opens the new file as the old one was opened.
func patchDrive(u firecracker.DriveUpdate) act {
	return afterStart(func(ctx context.Context, a *api) (any, error) {
		return nil, prefixed("Drive config error: Unable to patch the block device", a.patchDrive(ctx, u))
	})
}

func (a *api) patchDrive(ctx context.Context, u firecracker.DriveUpdate) error {
	drives := a.setup.config.Drives
	at := slices.IndexFunc(drives, func(d Drive) bool { return d.ID == u.DriveID })
	if at < 0 {
		return pleaseVerify(errNoDevice)
	}
	update := DriveUpdate{ID: u.DriveID, RateLimiter: u.RateLimiter}
	if u.PathOnHost != "" {
		file, err := openDisk(u.PathOnHost, drives[at].ReadOnly)
		if err != nil {
			return pleaseVerify(fmt.Errorf("Device manager error: Virtio backend error: %w", err)) //nolint:staticcheck // upstream's text
		}
		update.File = file
	}
	if err := a.machine.PatchDrive(ctx, update); err != nil {
		return errors.Join(err, closeFiles(update.File))
	}
	if update.RateLimiter != nil {
		drives[at].RateLimiter = update.RateLimiter
	}
	if update.File == nil {
		return nil
	}
	old := drives[at].File
	drives[at].File = update.File
	return closeFiles(old)
}

func pleaseVerify(err error) error {
	return fmt.Errorf("%w Please verify the request arguments.", err) //nolint:staticcheck // upstream's text
}

func patchNetwork(u firecracker.NetworkInterfaceUpdate) act {
	return afterStart(func(ctx context.Context, a *api) (any, error) {
		return nil, prefixed("Network config error: Unable to update the net device", a.patchNetwork(ctx, u))
	})
}

func (a *api) patchNetwork(ctx context.Context, u firecracker.NetworkInterfaceUpdate) error {
	networks := a.setup.config.Networks
	at := slices.IndexFunc(networks, func(n firecracker.NetworkInterface) bool { return n.IfaceID == u.IfaceID })
	if at < 0 {
		return errNoDevice
	}
	if err := a.machine.PatchNetwork(ctx, u); err != nil {
		return err
	}
	if u.RxRateLimiter != nil {
		networks[at].RxRateLimiter = u.RxRateLimiter
	}
	if u.TxRateLimiter != nil {
		networks[at].TxRateLimiter = u.TxRateLimiter
	}
	return nil
}

// Texts of the balloon's requests.
var (
	errNoBalloon    = errors.New("Balloon config error: No balloon device found.")                          //nolint:staticcheck // upstream's text
	errBalloonSize  = errors.New("Balloon config error: Amount of pages requested is too large.")           //nolint:staticcheck // upstream's text
	errStatsSwitch  = errors.New("Balloon config error: Cannot enable/disable the statistics after boot.")  //nolint:staticcheck // upstream's text
	errStatsUnknown = errors.New("Balloon config error: Statistics for the balloon device are not enabled") //nolint:staticcheck // upstream's text
)

func patchBalloon(u firecracker.BalloonUpdate) act {
	return afterStart(func(ctx context.Context, a *api) (any, error) {
		if int(u.AmountMiB) > a.setup.config.Machine.MemSizeMiB {
			return nil, errBalloonSize
		}
		if a.setup.config.Balloon == nil {
			return nil, errNoBalloon
		}
		if err := a.machine.SetBalloon(ctx, u.AmountMiB); err != nil {
			return nil, prefixed("Balloon config error", err)
		}
		a.setup.config.Balloon.AmountMiB = u.AmountMiB
		return nil, nil
	})
}

func patchBalloonStats(u firecracker.BalloonStatsUpdate) act {
	return afterStart(func(_ context.Context, a *api) (any, error) {
		b := a.setup.config.Balloon
		if b == nil {
			return nil, errNoBalloon
		}
		if (b.StatsPollingIntervalS == 0) != (u.StatsPollingIntervalS == 0) {
			return nil, errStatsSwitch
		}
		b.StatsPollingIntervalS = u.StatsPollingIntervalS
		return nil, nil
	})
}

func balloonStats(ctx context.Context, a *api) (any, error) {
	b := a.setup.config.Balloon
	if b == nil {
		return nil, errNoBalloon
	}
	if b.StatsPollingIntervalS == 0 {
		return nil, errStatsUnknown
	}
	stats, err := a.machine.BalloonStats(ctx)
	if err != nil {
		return nil, prefixed("Balloon config error", err)
	}
	return stats, nil
}

func setLogger(l firecracker.Logger) act {
	return beforeAny(func(a *api) error {
		most, _ := parseLevel(string(l.Level))
		return prefixed("Logger error", a.log.set(logSettings{
			path: l.LogPath, level: most, showLevel: l.ShowLevel, showOrigin: l.ShowLogOrigin, module: l.Module,
		}))
	})
}

func setMetrics(m firecracker.Metrics) act {
	return beforeAny(func(a *api) error {
		return prefixed("Metrics error", a.metrics.open(m.MetricsPath))
	})
}

// beforeAny is a request before the start that is no part of the machine.
func beforeAny(run func(*api) error) act {
	return func(_ context.Context, a *api) (any, error) {
		if a.state != firecracker.StateNotStarted {
			return nil, errPostBoot
		}
		return nil, run(a)
	}
}

// Snapshots are refused by name, after the rules of their order.

func createSnapshot(context.Context, *api) (any, error) {
	return nil, prefixed("", &Unsupported{Field: "snapshot", Reason: "this VMM takes no snapshots"})
}

func loadSnapshot(_ context.Context, a *api) (any, error) {
	if a.state != firecracker.StateNotStarted {
		return nil, errPostBoot
	}
	if a.setup.touched {
		return nil, errors.New("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.") //nolint:staticcheck // upstream's text
	}
	return nil, prefixed("", &Unsupported{Field: "snapshot", Reason: "this VMM loads no snapshots"})
}

func putCPUConfig(*setup) error {
	return prefixed("", &Unsupported{Field: "cpu-config", Reason: "processors cannot be tailored here"})
}

func getMMDS(_ context.Context, a *api) (any, error) { return a.mmds.get(), nil }

func putMMDS(value any) act {
	return func(_ context.Context, a *api) (any, error) { return nil, a.mmds.put(value) }
}

func patchMMDS(value any) act {
	return func(_ context.Context, a *api) (any, error) { return nil, a.mmds.patch(value) }
}

// loadConfig sets the machine up from --config-file and --metadata, and boots
// it.
func (a *api) loadConfig(text, metadata []byte) error {
	var file configFile
	if _, err := decode(text, &file); err != nil {
		return fmt.Errorf("Configuration for VMM from one single json failed: Invalid JSON: %w", err) //nolint:staticcheck // upstream's text
	}
	if err := a.applyFile(file, metadata); err != nil {
		return fmt.Errorf("Configuration for VMM from one single json failed: %w", err) //nolint:staticcheck // upstream's text
	}
	if _, err := a.do(a.life, start); err != nil {
		return fmt.Errorf("Could not Start MicroVM from one single json: %w", err) //nolint:staticcheck // upstream's text
	}
	a.log.logf(levelInfo, "main", "Successfully started microvm that was configured from one single json")
	return nil
}

func (a *api) applyFile(file configFile, metadata []byte) error {
	if file.Logger != nil {
		if _, err := a.do(a.life, setLogger(*file.Logger)); err != nil {
			return err
		}
	}
	if file.Metrics != nil {
		if _, err := a.do(a.life, setMetrics(*file.Metrics)); err != nil {
			return err
		}
	}
	if err := a.loadMetadata(metadata); err != nil {
		return err
	}
	_, err := a.do(a.life, beforeStart(func(s *setup) error { return s.apply(file) }))
	return err
}

func (a *api) loadMetadata(text []byte) error {
	if text == nil {
		return nil
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return fmt.Errorf("MMDS error: metadata provided not valid json: %w", err)
	}
	return a.mmds.put(value)
}

// close lets go of what the machine was made of. The sockets' files stay.
func (a *api) close() error {
	err := a.machine.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.setup.vsock != nil {
		a.setup.vsock.Close()
	}
	files := []*File{a.setup.config.Kernel, a.setup.config.Initrd}
	for _, d := range a.setup.config.Drives {
		files = append(files, d.File)
	}
	return errors.Join(err, closeFiles(files...))
}
