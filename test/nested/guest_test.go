//go:build nested

package nested

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/kernel"
)

// What the machine is made of.
const (
	imageName  = "debian-bookworm"
	kernelName = "generic-6.12"

	// machineUID is who the machine's VMM runs as. It lies beside the users of
	// banger's own VMs.
	machineUID = 719_999
	memoryMiB  = 4096
	diskBytes  = 16 << 30

	// bootTimeout says where a boot has hung, not how fast it must be.
	bootTimeout = 5 * time.Minute
)

// guest is a machine in which firecracker runs.
type guest struct {
	process *firecracker.Process
	agent   *host.Agent
	events  *host.Events
	console *console
}

// machineFiles are what the machine starts from.
type machineFiles struct {
	kernel kernel.Kernel
	image  image.Image
	cow    string
	drives []string // beside the three that each guest has
}

// boot starts a machine with the kit and the store, and waits until nothing
// more starts in it.
func boot(t testing.TB, k *kit) *guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	files := gather(t, k)
	dir, err := os.MkdirTemp("", "bn") // short: socket paths end at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, machineUID, machineUID); err != nil {
		t.Fatalf("the machine's VMM needs a user of its own, so be root: %v", err)
	}
	g := &guest{}
	hello := listenHello(t, dir)
	g.spawn(t, ctx, dir, files)
	if err := configureVMM(ctx, g.process.Client(), files); err != nil {
		t.Fatal(err)
	}
	if err := g.greet(ctx, hello); err != nil {
		t.Fatalf("the machine did not come up: %v\n%s", err, g.why())
	}
	g.furnish(t)
	return g
}

// gather makes or finds the machine's files.
func gather(t testing.TB, k *kit) machineFiles {
	t.Helper()
	files := machineFiles{kernel: k.kernel, image: k.image}
	files.cow = filepath.Join(t.TempDir(), "disk.cow")
	if err := disk.Create(disk.Spec{Path: files.cow, Virtual: diskBytes, Base: files.image.Size, UID: machineUID}); err != nil {
		t.Fatal(err)
	}
	kitDrive := filepath.Join(t.TempDir(), "kit.ext4")
	if err := makeDrive(kitDrive, k.files); err != nil {
		t.Fatal(err)
	}
	files.drives = []string{storeDrive(t, dataDir()), kitDrive}
	return files
}

// listenHello opens the socket that the guest's agent dials when it is up.
func listenHello(t testing.TB, dir string) net.Listener {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("%s_%d", firecracker.VsockSocket, proto.HelloPort))
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.Chown(path, machineUID, machineUID); err != nil {
		t.Fatal(err)
	}
	return l
}

// spawn starts the machine's VMM.
func (g *guest) spawn(t testing.TB, ctx context.Context, dir string, files machineFiles) {
	t.Helper()
	lock, err := disk.Lock(files.cow)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	tty, err := g.openConsole()
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	binds := []firecracker.Bind{
		{Source: files.kernel.Vmlinux, Name: "kernel", ReadOnly: true},
		{Source: files.kernel.Initramfs, Name: "initrd", ReadOnly: true},
		{Source: files.kernel.Modules, Name: "modules", ReadOnly: true},
		{Source: files.image.Rootfs, Name: "base", ReadOnly: true},
		{Source: files.cow, Name: "cow"},
	}
	for i, drive := range files.drives {
		binds = append(binds, firecracker.Bind{Source: readable(t, drive), Name: driveName(i), ReadOnly: true})
	}
	g.process, err = firecracker.Start(ctx, firecracker.Spawn{
		Bin: filepath.Join(buildDir, "lib/banger/fcqemu"), ID: "nested", Dir: dir,
		UID: machineUID, GID: machineUID, Console: tty, Binds: binds, Hold: []*os.File{lock},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.process.Kill(ctx); err != nil {
			t.Error(err)
		}
		g.process.Release()
	})
}

// readable lets the VMM's user read a drive.
func readable(t testing.TB, path string) string {
	t.Helper()
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	return path
}

// bootArgs is the kernel's command line as banger's own guests have it.
func bootArgs(disk int64) string {
	return fmt.Sprintf("console=ttyS0 quiet loglevel=4 reboot=k panic=1 pci=off net.ifnames=0"+
		" i8042.noaux i8042.nomux i8042.dumbkbd 8250.nr_uarts=1 cryptomgr.notests"+
		" systemd.show_status=false rd.systemd.show_status=false"+
		" banger.base=vda banger.cow=vdb banger.modules=vdc banger.disk=%d", disk)
}

func driveName(i int) string { return fmt.Sprintf("extra%d", i) }

func configureVMM(ctx context.Context, c *firecracker.Client, files machineFiles) error {
	yes, no := true, false
	// What guards against a processor's speculation is of no use in an emulated
	// one, and dear at each of its guest's exits.
	args := bootArgs(diskBytes) + " mitigations=off"
	// The disk's cache type is Unsafe: nobody needs what is on it after a power
	// cut, and each flush of an inner guest would be one of this host's disk.
	drives := []firecracker.Drive{
		{DriveID: "base", PathOnHost: "base", IsReadOnly: &yes},
		{DriveID: "cow", PathOnHost: "cow", IsReadOnly: &no},
		{DriveID: "modules", PathOnHost: "modules", IsReadOnly: &yes},
	}
	for i := range files.drives {
		drives = append(drives, firecracker.Drive{DriveID: driveName(i), PathOnHost: driveName(i), IsReadOnly: &yes})
	}
	errs := []error{
		c.PutMachineConfig(ctx, firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: memoryMiB}),
		c.PutBootSource(ctx, firecracker.BootSource{KernelImagePath: "kernel", InitrdPath: "initrd", BootArgs: &args}),
	}
	for _, d := range drives {
		errs = append(errs, c.PutDrive(ctx, d))
	}
	errs = append(errs, c.PutVsock(ctx, firecracker.Vsock{GuestCID: 3, UDSPath: firecracker.VsockSocket}))
	errs = append(errs, c.PutEntropy(ctx, firecracker.Entropy{}))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.InstanceStart(ctx)
}

// greet waits for the agent, tells it who it is, and waits until the guest's
// init has started everything: what starts later would disturb the tests.
func (g *guest) greet(ctx context.Context, hello net.Listener) error {
	defer context.AfterFunc(ctx, func() { hello.Close() })()
	go func() {
		<-g.process.Done()
		hello.Close()
	}()
	conn, err := hello.Accept()
	if err != nil {
		return err
	}
	g.events, err = host.Accept(ctx, conn)
	if err != nil {
		return err
	}
	uds := filepath.Join(g.process.Dir(), firecracker.VsockSocket)
	g.agent = host.New(func(ctx context.Context, port uint32) (net.Conn, error) { return firecracker.DialVsock(ctx, uds, port) })
	entropy := make([]byte, 64)
	rand.Read(entropy)
	if err := g.agent.Configure(ctx, proto.Config{
		Hostname: "nested", Time: time.Now(), Entropy: entropy,
		DNS: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, // nobody answers; the tests bring their own
	}); err != nil {
		return err
	}
	for {
		event, err := g.events.Next(ctx)
		if err != nil {
			return err
		}
		if event.Kind == proto.EventReady && event.Stage == proto.StageSystem {
			return nil
		}
	}
}

// furnish mounts the drives. udev loads kvm-amd like any driver whose device it
// finds, and systemd does not wait for that.
func (g *guest) furnish(t testing.TB) {
	g.output(t, "udevadm", "settle")
	g.output(t, "test", "-c", "/dev/kvm")
	g.output(t, "sh", "-euc", `
		mkdir -p /nested/kit `+g.data()+`/banger
		mount -o ro /dev/vde /nested/kit
		mount -o ro /dev/vdd `+g.data()+`/banger`)
}

func (g *guest) kit() string  { return "/nested/kit" }
func (g *guest) data() string { return "/nested/data" }

func (g *guest) run(ctx context.Context, out io.Writer, j job) (int, error) {
	conn, err := g.agent.Exec(ctx, proto.Exec{Argv: j.argv, Env: j.env, Cwd: j.dir})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	status, err := proto.NewCommand(conn).Run(nil, out, out)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return status, err
}

// pulse is how often the machine is asked whether it lives. It may take
// host.AnswerTimeout to answer. A connection must be made within two seconds,
// as with firecracker, which a machine on a busy host misses at times: only one
// that has missed many in a row is dead.
const (
	pulse      = 15 * time.Second
	mostMissed = 6
)

func (g *guest) watch(ctx context.Context) (context.Context, func()) {
	alive, dead := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		ticker := time.NewTicker(pulse)
		defer ticker.Stop()
		for missed := 0; ; {
			select {
			case <-alive.Done():
				return
			case <-ticker.C:
			}
			_, err := g.agent.Info(alive)
			switch {
			case err == nil:
				missed = 0
			case errors.Is(err, firecracker.ErrNoListener) && missed < mostMissed:
				missed++
			default:
				dead(fmt.Errorf("%w: %w", errDead, err))
				return
			}
		}
	})
	return alive, func() {
		dead(nil)
		watcher.Wait()
	}
}

// outputTimeout bounds a small program in a guest that does nothing else.
const outputTimeout = time.Minute

func (g *guest) output(t testing.TB, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), outputTimeout)
	defer cancel()
	var out bytes.Buffer
	status, err := g.run(ctx, &out, job{argv: argv})
	if err != nil || status != 0 {
		t.Fatalf("%s: status %d, %v\n%s\n%s", strings.Join(argv, " "), status, err, out.String(), g.why())
	}
	return out.String()
}

// why is the end of the machine's console, what runs in it, and how its VMM
// ended if it has.
func (g *guest) why() string {
	said := "the machine's console ended with:\n" + g.console.tail()
	said += "\nin it run:\n" + g.processes()
	if status, ended := g.process.Exit(); ended {
		said += fmt.Sprintf("\nits VMM ended with status %d", status)
	}
	return said
}

// processes is what the machine says of its processes, and what each waits
// for; or why it does not.
func (g *guest) processes() string {
	ctx, cancel := context.WithTimeout(context.Background(), outputTimeout)
	defer cancel()
	var out bytes.Buffer
	if _, err := g.run(ctx, &out, job{argv: []string{"ps", "-ww", "--ppid", "2", "--deselect", "-Lo", "pid,ppid,stat,etimes,wchan:24,args"}}); err != nil {
		return err.Error()
	}
	return out.String()
}

// console keeps the end of what a guest prints.
type console struct {
	mu   sync.Mutex
	text []byte
}

const consoleKept = 16 << 10

// openConsole gives the end of a pipe that the VMM writes to.
func (g *guest) openConsole() (*os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	from := os.NewFile(uintptr(fds[0]), "console")
	g.console = &console{}
	go func() {
		defer from.Close()
		io.Copy(g.console, from)
	}()
	return os.NewFile(uintptr(fds[1]), "console"), nil
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	c.text = c.text[max(0, len(c.text)-consoleKept):]
	return len(p), nil
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}
