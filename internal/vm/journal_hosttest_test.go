//go:build hosttest

package vm

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A line that a full disk cuts off spoils no other.
func TestJournalOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	for range 10 {
		j.add("console", strings.Repeat("x", 1000))
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	j.add("console", "after")
	past, _, stop := j.read()
	stop()
	if n := len(past); n < 2 || n > 9 || past[n-1].Text != "after" {
		t.Errorf("%d lines, the last one %.20q", n, past[max(0, n-1)].Text)
	}
}
