package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

func middle(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// execLatency compares a whole `vm exec` with the same command by a client that
// is there already, and with ssh.
func execLatency(ctx context.Context, h *host) ([]row, error) {
	if err := h.run("vm", "create", "--name", "box", "--wait", "system"); err != nil {
		return nil, err
	}
	defer h.run("vm", "delete", "box")
	whole, err := median(ctx, 21, func() error { return h.run("vm", "exec", "box", "--", "true") })
	if err != nil {
		return nil, err
	}
	c := client.New(client.Options{Runtime: filepath.Join(h.dir, "banger")}).AnyVersion()
	defer c.Close()
	within, err := median(ctx, 21, func() error {
		command, err := c.Exec(ctx, "box", api.ExecRequest{Argv: []string{"true"}})
		if err != nil {
			return err
		}
		_, err = command.Run(ctx, nil, io.Discard, io.Discard)
		return err
	})
	if err != nil {
		return nil, err
	}
	ssh, err := median(ctx, 5, func() error { return h.run("vm", "ssh", "box", "-T", "--", "true") })
	if err != nil {
		return nil, err
	}
	return []row{
		compare("vm exec box -- true", whole, "a client in one process", within, 5),
		compare("vm exec box -- true", whole, "vm ssh box -- true", ssh, 0.1),
	}, nil
}

// throughput compares what `vm exec` and ssh carry.
func throughput(ctx context.Context, h *host) ([]row, error) {
	if err := h.run("vm", "create", "--name", "pipe", "--wait", "system"); err != nil {
		return nil, err
	}
	defer h.run("vm", "delete", "pipe")
	const size = 256 << 20
	if err := h.run("vm", "exec", "pipe", "--", "sh", "-c", fmt.Sprintf("head -c %d /dev/zero > /dev/shm/bytes", size)); err != nil {
		return nil, err
	}
	byExec, err := carry(ctx, h, size, "vm", "exec", "pipe", "--", "cat", "/dev/shm/bytes")
	if err != nil {
		return nil, err
	}
	bySSH, err := carry(ctx, h, size, "vm", "ssh", "pipe", "-T", "--", "cat", "/dev/shm/bytes")
	if err != nil {
		return nil, err
	}
	rate := func(d time.Duration) string { return fmt.Sprintf("%.0f MB/s", size/1e6/d.Seconds()) }
	return []row{{
		name: "stdout of vm exec pipe -- cat", value: rate(byExec), against: "vm ssh pipe -- cat: " + rate(bySSH),
		ratio: byExec.Seconds() / bySSH.Seconds(), limit: 1,
	}}, nil
}

// counting is a writer that only counts.
type counting struct{ n int64 }

func (c *counting) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func carry(ctx context.Context, h *host, size int64, args ...string) (time.Duration, error) {
	return median(ctx, 3, func() error {
		var out counting
		var said bytes.Buffer
		cmd := h.banger(args...)
		cmd.Stdout, cmd.Stderr = &out, &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%v: %w\n%s", args, err, said.Bytes())
		}
		if out.n != size {
			return fmt.Errorf("%v: %d bytes came, want %d", args, out.n, size)
		}
		return nil
	})
}
