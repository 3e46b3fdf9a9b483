package doctor

import (
	"context"
	"os"
	"os/exec"
	osuser "os/user"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/vmm"
)

// Host is what the checks ask. Without a LookPath the real host is asked.
type Host struct {
	VMM          vmm.Host
	UID          int
	User         string // the name of the person who uses banger; "" where it is not known
	LookPath     func(name string) (string, error)
	Output       func(ctx context.Context, path string, args ...string) ([]byte, error)
	ReadFile     func(path string) ([]byte, error)
	Free         func(path string) (bytes, device uint64, err error)
	Write        func(dir string) error // makes a file there and removes it
	Synchronized func() (bool, error)   // whether a program keeps the clock right
}

func (h Host) real() Host {
	if h.LookPath != nil {
		return h
	}
	return Host{
		VMM:          h.VMM,
		UID:          os.Geteuid(),
		User:         person(),
		LookPath:     exec.LookPath,
		Output:       output,
		ReadFile:     os.ReadFile,
		Free:         free,
		Write:        writeIn,
		Synchronized: synchronized,
	}
}

// person is who called sudo, else who this program runs as.
func person() string {
	if caller := os.Getenv("SUDO_USER"); caller != "" {
		return caller
	}
	me, err := osuser.Current()
	if err != nil {
		return ""
	}
	return me.Username
}

func free(path string) (bytes, device uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), st.Dev, nil
}
