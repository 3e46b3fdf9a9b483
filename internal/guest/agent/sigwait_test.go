package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWaitsForSignal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "syscall")
	for text, want := range map[string]bool{
		strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT) + " 0x7ffd 0x0 0x7ffe 0x8 0x0 0x0 0x7ffc 0x45\n": true,
		strconv.Itoa(unix.SYS_POLL) + " 0x7ffd 0x1\n":                                           false,
		"running\n": false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := waitsForSignal(path); got != want {
			t.Errorf("waitsForSignal of %q = %v, want %v", text, got, want)
		}
	}
}
