package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// newMemoryHost is a host whose VMM boots a Go function in milliseconds: for
// what many VMs cost the daemon. Its store has two images, tiny and huge.
func newMemoryHost(ctx context.Context) (*host, error) {
	h, err := newHost()
	if err != nil {
		return nil, err
	}
	h.store = filepath.Join(h.dir, "data", "banger")
	vmm := filepath.Join(h.dir, "vmm")
	h.env = append(h.env,
		"XDG_DATA_HOME="+filepath.Join(h.dir, "data"),
		"BANGER_VMM=firecracker", "BANGER_FIRECRACKER_BIN="+vmm,
		"BANGER_DEFAULT_IMAGE_NAME=tiny", "BANGER_DEFAULT_DISK=12G", "BANGER_TAP_POOL_SIZE=0", "BANGER_WEB_LISTEN_ADDR=off",
	)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", vmm, "./test/lives/vmm")
	build.Dir = filepath.Dir(h.build)
	for _, step := range []func() error{
		func() error { return quote(build) },
		h.makeKernel,
		func() error { return h.makeImage("tiny", 300<<20) },
		func() error { return h.makeImage("huge", 10<<30) },
	} {
		if err := step(); err != nil {
			h.close()
			return nil, err
		}
	}
	return h, nil
}

// makeKernel puts into the store what the VMM takes for a kernel.
func (h *host) makeKernel() error {
	dir := filepath.Join(h.store, "kernels", "generic-6.12")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"vmlinux":      "\x7fELF" + string(make([]byte, 60)),
		"modules.ext4": string(make([]byte, 4096)),
		"kernel.json":  `{"format": 2, "name": "generic-6.12", "release": "6.12.0", "source": "catalog", "created": "2025-01-01T00:00:00Z", "early": []}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeImage registers an empty filesystem that has all its blocks on the disk.
func (h *host) makeImage(name string, size int64) error {
	path := filepath.Join(h.dir, name+".ext4")
	if err := quote(exec.Command("mke2fs", "-q", "-t", "ext4", path, fmt.Sprintf("%dM", size>>20))); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return fmt.Errorf("cannot make an image of %d MiB: %w", size>>20, err)
	}
	return h.run("image", "register", "--name", name, "--rootfs", path)
}

// Limits that are none of the machine's.
const (
	mostCreate  = 100 * time.Millisecond
	mostList    = 50 * time.Millisecond
	mostAdopt   = 500 * time.Millisecond
	mostIdleKiB = 30 << 10
	mostVMKiB   = 8 << 10
	// It has one timer, which looks at the free space every five seconds; some
	// threads of the Go runtime wake up with it.
	mostWakeUps = 2.0
)

// daemonCosts is what bangerd takes, by itself and for each VM.
func daemonCosts(ctx context.Context, _ *host) ([]row, error) {
	h, err := newMemoryHost(ctx)
	if err != nil {
		return nil, err
	}
	defer h.close()
	rows, err := creates(ctx, h)
	if err != nil {
		return rows, err
	}
	if err := h.run("daemon", "restart"); err != nil {
		return rows, err
	}
	more, err := idle(ctx, h)
	if rows = append(rows, more...); err != nil {
		return rows, err
	}
	more, err = hundred(ctx, h)
	return append(rows, more...), err
}

// creates shows that a VM costs the same, whatever its image's size.
func creates(ctx context.Context, h *host) ([]row, error) {
	const times = 15
	var tiny, huge []time.Duration
	for n := range times + 1 { // in turn; the first warms up
		for image, all := range map[string]*[]time.Duration{"tiny": &tiny, "huge": &huge} {
			name := fmt.Sprintf("%s-%d", image, n)
			took, err := median(ctx, 1, func() error { return h.run("vm", "create", "--no-start", "--name", name, "--image", image) })
			if err != nil {
				return nil, err
			}
			if n > 0 {
				*all = append(*all, took)
			}
			if err := h.run("vm", "delete", name); err != nil {
				return nil, err
			}
		}
	}
	return []row{
		compare("vm create --no-start, image of 300 MB", middle(tiny), "the limit", mostCreate, 1),
		compare("vm create --no-start, image of 10 GB", middle(huge), "of 300 MB", middle(tiny), 1.2),
	}, nil
}

// idle looks at a daemon that has nothing to do.
func idle(ctx context.Context, h *host) ([]row, error) {
	if err := h.run("vm", "list"); err != nil {
		return nil, err
	}
	resident, err := h.daemonMemory()
	if err != nil {
		return nil, err
	}
	woken, err := h.wakeUps(ctx)
	if err != nil {
		return nil, err
	}
	return []row{
		memory("bangerd idle, resident", resident, "the limit", mostIdleKiB),
		{
			name: "bangerd idle, its threads wake up", value: fmt.Sprintf("%.1f /s", woken),
			against: fmt.Sprintf("the limit: %.1f /s", mostWakeUps), ratio: woken / mostWakeUps, limit: 1,
		},
	}, nil
}

// hundred has 100 VMs of which 20 run.
func hundred(ctx context.Context, h *host) ([]row, error) {
	const all, run = 100, 20
	before, err := h.daemonMemory()
	if err != nil {
		return nil, err
	}
	for n := range run {
		if err := h.run("vm", "create", "--wait", "agent", "--name", fmt.Sprintf("runs-%d", n)); err != nil {
			return nil, err
		}
	}
	after, err := h.daemonMemory()
	if err != nil {
		return nil, err
	}
	rows := []row{memory("bangerd and its keeper, for each running VM", (after-before)/run, "the limit", mostVMKiB)}
	for n := range all - run {
		if err := h.run("vm", "create", "--no-start", "--name", fmt.Sprintf("rests-%d", n)); err != nil {
			return rows, err
		}
	}
	list, err := median(ctx, 21, func() error { return h.run("vm", "list") })
	if err != nil {
		return rows, err
	}
	rows = append(rows, compare("vm list, 100 VMs", list, "the limit", mostList, 1))
	var starts []time.Duration
	for range 5 {
		if err := h.killDaemon(); err != nil {
			return rows, err
		}
		took, err := median(ctx, 1, func() error { return h.run("vm", "list") })
		if err != nil {
			return rows, err
		}
		starts = append(starts, took)
	}
	rows = append(rows, compare("vm list that starts bangerd, 100 VMs, 20 of them run", middle(starts), "the limit", mostAdopt, 1))
	deletes := []string{"vm", "delete"}
	for n := range run {
		deletes = append(deletes, fmt.Sprintf("runs-%d", n))
	}
	return rows, h.run(deletes...)
}
