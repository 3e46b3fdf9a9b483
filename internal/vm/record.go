package vm

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/network"
	"github.com/banger-vm/banger/internal/oom"
)

// recordFormat is the version of vm.json that this program writes. A newer one
// is never guessed at.
const recordFormat = 1

// recordLimit bounds how much of a vm.json is read.
const recordLimit = 1 << 20

// Spec is what a VM was asked to be, with every default filled in.
type Spec struct {
	Image     string   `json:"image"`
	Kernel    string   `json:"kernel"`
	VCPUs     int      `json:"vcpus"`
	MemoryMiB int64    `json:"memory_mib"`
	DiskMiB   int64    `json:"disk_mib"`
	Wait      api.Wait `json:"wait,omitempty"`
	// NoCredentials keeps the user's credentials out of the guest.
	NoCredentials bool `json:"no_credentials,omitempty"`
	// NoOpenSSH keeps the agent from installing an SSH server.
	NoOpenSSH bool `json:"no_openssh,omitempty"`
}

// Record is all that banger remembers of a VM: vm.json.
type Record struct {
	Format  int       `json:"format"`
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Spec    Spec      `json:"spec"`
	Created time.Time `json:"created"`
	State   api.State `json:"state"`
	Reason  string    `json:"reason,omitempty"`

	// Provisioned is false until the VM is whole: a record without it is the
	// beginning of a create that never ended, and goes.
	Provisioned bool `json:"provisioned"`
	// Run says that the VM's first start belongs to its create, and has not
	// ended: the two are one command, which leaves a VM that runs or nothing.
	Run bool `json:"run,omitempty"`
	// Remove says that the VM goes when its session is over.
	Remove bool `json:"remove,omitempty"`
	// Restart says that its guest asked for a reboot and has not got it yet.
	Restart bool `json:"restart,omitempty"`

	// Workspaces went in, or were about to: the guest may hold work.
	Workspaces []api.Workspace `json:"workspaces,omitempty"`

	// Whole says that the disk is a copy of the image, not a layer over it: the
	// VM's kernel has no device-mapper.
	Whole  bool          `json:"whole,omitempty"`
	Rootfs string        `json:"rootfs"` // the image's file, which the disk depends on to the byte
	Lease  network.Lease `json:"lease"`
	// Container is what the image says about running it.
	Container image.Config `json:"container,omitzero"`
	VMM       *VMM         `json:"vmm,omitempty"`

	// Ports lead from the host into the guest.
	Ports []Port `json:"ports,omitempty"`
	// Credentials are the paths in the guest that may lead to the user's
	// credentials. Those are in the guest's memory; its disk has links.
	Credentials []string `json:"credentials,omitempty"`

	Started   time.Time  `json:"started,omitzero"`
	LastStart []api.Step `json:"last_start,omitempty"`
	StartedBy string     `json:"started_by,omitempty"` // id of the last start's operation
	// Warning is what the user was told before the last start.
	Warning string `json:"warning,omitempty"`
}

// VMM is the process that runs the VM.
type VMM struct {
	Binary   string               `json:"binary"`
	Version  string               `json:"version"`
	Identity firecracker.Identity `json:"identity"`
	// Memory tells whether the kernel killed it for want of memory.
	Memory oom.Mark `json:"memory"`
}

var idForm = regexp.MustCompile(`^[0-9a-f]{8}$`)

func newID() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (m *Manager) dir(id string) string    { return filepath.Join(m.StateDir, id) }
func (m *Manager) runDir(id string) string { return filepath.Join(m.RuntimeDir, id) }

func recordPath(dir string) string { return filepath.Join(dir, "vm.json") }

func (m *Manager) save(r Record) error {
	if err := atomicfile.WriteJSON(recordPath(m.dir(r.ID)), r); err != nil {
		return fmt.Errorf("cannot record VM %s: %w", r.Name, err)
	}
	return nil
}

// errNoRecord is a VM's directory that holds no vm.json. Where it holds no disk
// either, that is a create that died before its first word, or a delete that died
// before its last.
var errNoRecord = errors.New("no vm.json")

// errUnread is a record that the host does not give out: it has no file left to
// open, or its disk fails. Nothing is known of the VM then, not even that its
// record can't be trusted.
var errUnread = errors.New("the host does not give the record out")

// readRecord reads one VM's record and refuses what it can't trust: another
// owner's file, what is no file, a newer format, a file that is cut off, an id
// that is not the directory's. It waits for nobody who would write to a FIFO.
func readRecord(dir string) (Record, error) {
	f, err := os.OpenFile(recordPath(dir), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Record{}, errNoRecord
	}
	if isOddFile(err) {
		return Record{}, fmt.Errorf("the record is no regular file: %w", err)
	}
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", errUnread, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", errUnread, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() {
		return Record{}, errors.New("the record belongs to another user")
	}
	if !info.Mode().IsRegular() {
		return Record{}, errors.New("the record is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, recordLimit+1))
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", errUnread, err)
	}
	return parseRecord(data, filepath.Base(dir))
}

// isOddFile says of the error of an open what is in the record's place: a link, a
// socket, or a file in the place of the VM's directory.
func isOddFile(err error) bool {
	return errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENOTDIR)
}

func parseRecord(data []byte, id string) (Record, error) {
	if len(data) > recordLimit {
		return Record{}, errors.New("the record is too large")
	}
	var head struct{ Format int }
	if err := json.Unmarshal(data, &head); err != nil {
		return Record{}, fmt.Errorf("the record is damaged: %v", err)
	}
	if head.Format != recordFormat {
		return Record{}, fmt.Errorf("the record has format %d, and this banger knows %d", head.Format, recordFormat)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("the record is damaged: %v", err)
	}
	if r.ID != id || !idForm.MatchString(r.ID) {
		return Record{}, fmt.Errorf("the record is of VM %q, not of this directory", r.ID)
	}
	if _, ok := next[r.State]; !ok {
		return Record{}, fmt.Errorf("the record has an unknown state %q", r.State)
	}
	return r, nil
}
