package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/progress"
)

// pullVar makes this program pull one image and end: its memory is measured.
// It holds the reference, the cache and the store, a line each.
const pullVar = "BANGER_BENCH_PULL"

// pullLayers are the parts of the default image that become a layer each, in
// about equal thirds.
var pullLayers = [][]string{
	{"./usr/lib/x86_64-linux-gnu", "./usr/lib/gcc"},
	{"./usr/lib", "--exclude=./usr/lib/x86_64-linux-gnu", "--exclude=./usr/lib/gcc"},
	{".", "--exclude=./usr/lib", "--exclude=./lost+found"},
}

// containerPull compares the pull of a container image of the size of the
// default one, a gigabyte, with what umoci and mkfs.ext4 do of the same, and
// with what is in its way.
func containerPull(ctx context.Context, h *host) ([]row, error) {
	dir, err := os.MkdirTemp("/var/tmp", "banger-bench-oci")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := makeContainer(ctx, h, dir); err != nil {
		return nil, err
	}
	registry, reference, err := serveContainer(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = registry.Process.Kill(); _ = registry.Wait() }()

	var memory int64
	fresh, err := median(ctx, 1, func() error { memory, err = pullAlone(ctx, dir, reference, "fresh"); return err })
	if err != nil {
		return nil, err
	}
	cached, err := median(ctx, 3, func() error { _, err := pullAlone(ctx, dir, reference, "cached"); return err })
	if err != nil {
		return nil, err
	}
	there, err := median(ctx, 3, func() error { return unpackAndMake(ctx, dir) })
	if err != nil {
		return nil, err
	}
	decompressed, written, err := floors(ctx, dir)
	if err != nil {
		return nil, err
	}
	binds, floor := "decompression", decompressed
	if written > decompressed {
		binds, floor = "the disk", written
	}
	return []row{
		compare("container image, 1 GB, layers cached", cached, "umoci unpack and mkfs.ext4 -d", there, 0.7),
		compare("container image, 1 GB, from a registry on loopback", fresh, binds+" alone", floor, 0),
		{name: "  of which", value: "", against: fmt.Sprintf("gunzip of all layers %s, dd and fsync %s", short(decompressed), short(written))},
		{name: "  memory at its peak", value: fmt.Sprintf("%d MiB", memory>>20), against: "promised: 200 MiB", ratio: float64(memory) / (200 << 20), limit: 1},
	}, nil
}

// makeContainer makes an image of three layers in dir/layout, by tar and umoci.
func makeContainer(ctx context.Context, h *host, dir string) error {
	tree, layer, layout := filepath.Join(dir, "tree"), filepath.Join(dir, "layer.tar"), filepath.Join(dir, "layout")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	if err := quote(exec.CommandContext(ctx, "mount", "-o", "loop,ro", filepath.Join(h.store, "images", "debian-bookworm", "rootfs.ext4"), tree)); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(tree, unix.MNT_DETACH) }()
	commands := [][]string{{"umoci", "init", "--layout", layout}, {"umoci", "new", "--image", layout + ":image"}}
	for _, parts := range pullLayers {
		commands = append(commands,
			append([]string{"tar", "-c", "--xattrs", "-f", layer, "-C", tree}, append(parts[1:], parts[0])...),
			[]string{"umoci", "raw", "add-layer", "--image", layout + ":image", layer})
	}
	for _, c := range commands {
		if err := quote(exec.CommandContext(ctx, c[0], c[1:]...)); err != nil {
			return err
		}
	}
	return os.Remove(layer)
}

// serveContainer starts a registry with the image.
func serveContainer(ctx context.Context, dir string) (*exec.Cmd, string, error) {
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	host, config := fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: %s}\n", dir, host)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	server := exec.CommandContext(ctx, "docker-registry", "serve", config)
	said, err := server.StderrPipe()
	if err != nil {
		return nil, "", err
	}
	if err := server.Start(); err != nil {
		return nil, "", err
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "listening on") {
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	reference := host + "/image:1"
	return server, reference, quote(exec.CommandContext(ctx, "skopeo", "copy", "-q", "--dest-tls-verify=false",
		"oci:"+filepath.Join(dir, "layout")+":image", "docker://"+reference))
}

// pullAlone pulls in a process of its own and gives the most memory that it had.
func pullAlone(ctx context.Context, dir, reference, name string) (int64, error) {
	store := filepath.Join(dir, "images-"+name)
	defer os.RemoveAll(store)
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), pullVar+"="+strings.Join([]string{reference, filepath.Join(dir, "cache"), store}, "\n"), "DOCKER_CONFIG="+dir)
	if err := quote(cmd); err != nil {
		return 0, err
	}
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10, nil
}

// pullHere is the pull of that process.
func pullHere(ctx context.Context, what string) error {
	parts := strings.Split(what, "\n")
	if err := os.MkdirAll(parts[2], 0o755); err != nil {
		return err
	}
	store := &image.Store{Cache: parts[1], Dir: parts[2]}
	_, err := store.Pull(ctx, api.PullImage{Reference: parts[0], Name: "pulled"}, progress.Discard)
	return err
}

// unpackAndMake does with the usual tools what a pull of cached layers does.
func unpackAndMake(ctx context.Context, dir string) error {
	tree, file := filepath.Join(dir, "unpacked"), filepath.Join(dir, "made.ext4")
	defer func() { os.RemoveAll(tree); os.Remove(file) }()
	if err := quote(exec.CommandContext(ctx, "umoci", "raw", "unpack", "--image", filepath.Join(dir, "layout")+":image", tree)); err != nil {
		return err
	}
	return quote(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-d", tree, file, "3G"))
}

// floors are how long it takes to decompress all layers one after the other,
// as they must be laid down, and to write as many bytes to the disk.
func floors(ctx context.Context, dir string) (decompressed, written time.Duration, err error) {
	var size []byte
	decompressed, err = median(ctx, 1, func() error {
		size, err = exec.CommandContext(ctx, "sh", "-c", "gunzip -c "+filepath.Join(dir, "cache/oci/sha256")+"/* | wc -c").Output()
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	file := filepath.Join(dir, "written")
	defer os.Remove(file)
	written, err = median(ctx, 1, func() error {
		return quote(exec.CommandContext(ctx, "dd", "if=/dev/zero", "of="+file, "bs=1M", "count="+strings.TrimSpace(string(size)), "iflag=count_bytes", "conv=fsync", "status=none"))
	})
	return decompressed, written, err
}
