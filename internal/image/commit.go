package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/progress"
)

// SourceCommitted is an image made of a VM's disk.
const SourceCommitted = "committed"

// The steps of a commit, in their order; StepKeep is the last.
const (
	StepMerge = "copying the disk"
	StepMend  = "checking the filesystem"
	StepScrub = "taking out what identifies the machine"
	StepWipe  = "making holes of what is not used"
)

// CommitSteps gives the names of all steps of a commit, in their order.
func CommitSteps() []string {
	return []string{StepMerge, StepMend, StepScrub, StepWipe, StepKeep}
}

// Commit is a VM's disk that becomes an image.
type Commit struct {
	Name string // of the new image
	Of   string // the VM's name
	// Base is the image that the VM was made of, and Kernel the VM's kernel.
	Base   Image
	Kernel string
	// UID is the user as whom a guest's filesystem is looked at.
	UID int
	// Merge writes the whole disk into a new file.
	Merge func(ctx context.Context, path string) error
	// Secrets are files of the guest, absolute paths, that its user's
	// credentials are put into.
	Secrets []string
}

// Commit makes an image of a VM's disk. It holds neither credentials nor what
// identifies the machine: SSH host keys, the machine id, its name, its journal;
// blocks that no file has are holes. Errors carry an *api.Error: bad-request,
// exists, no-space or host.
func (s *Store) Commit(ctx context.Context, c Commit, report progress.Func) (_ Image, err error) {
	if err := s.checkName(ctx, c.Name); err != nil {
		return Image{}, err
	}
	unlock, err := s.lock(ctx, c.Name, report)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if err := s.checkFree(c.Name); err != nil {
		return Image{}, err
	}
	dir, err := os.MkdirTemp(s.Dir, tempPrefix(c.Name))
	if err != nil {
		return Image{}, fmt.Errorf("cannot make a directory for the image: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := s.commit(ctx, c, filepath.Join(dir, "image"), report); err != nil {
		return Image{}, fmt.Errorf("cannot commit VM %s: %w", c.Of, explainSpace(s.Dir, err))
	}
	return s.local(c.Name)
}

func (s *Store) commit(ctx context.Context, c Commit, result string, report progress.Func) error {
	if err := os.Mkdir(result, 0o755); err != nil {
		return err
	}
	rootfs, tools := filepath.Join(result, rootfsFile), ext4.Tools{UID: c.UID}
	s.step(StepMerge, report)
	if err := c.Merge(ctx, rootfs); err != nil {
		return err
	}
	s.step(StepMend, report)
	if err := tools.Mend(ctx, rootfs); err != nil {
		return err
	}
	s.step(StepScrub, report)
	if err := scrub(ctx, tools, rootfs, c.Secrets); err != nil {
		return err
	}
	s.step(StepWipe, report)
	if err := tools.Wipe(ctx, rootfs); err != nil {
		return err
	}
	if err := usable(rootfs); err != nil {
		return err
	}
	s.step(StepKeep, report)
	if err := os.Chown(rootfs, os.Getuid(), os.Getgid()); err != nil {
		return err
	}
	if err := makeDurable(rootfs); err != nil {
		return err
	}
	return s.publish(ctx, result, record{
		Name: c.Name, Source: SourceCommitted, Kernel: c.Kernel, MaxDisk: c.Base.MaxDisk, Created: time.Now().UTC(),
		Detail: fmt.Sprintf("the disk of VM %s, made of image %s", c.Of, c.Base.Name), Config: c.Base.Config,
	})
}

// identity is what makes a machine one of its own, and what each start of a VM
// writes anew.
var identity = []ext4.Edit{
	{Dir: "/etc", Name: "machine-id", Replace: true}, // empty: systemd makes one, and it is no first boot
	{Dir: "/var/lib/dbus", Name: "machine-id"},
	{Dir: "/etc", Name: "hostname", Replace: true, Content: "banger\n"},
	{Dir: "/etc", Name: "resolv.conf"},
	{Dir: "/etc/profile.d", Name: "banger.sh"},
	{Dir: "/var/lib/systemd", Name: "random-seed"},
	{Dir: "/var/lib/systemd", Name: "credential.secret"},
}

// blocks are files that have a part of banger's in them, between two marks.
var blocks = []string{"/etc/hosts", "/etc/environment", "/root/.ssh/authorized_keys"}

// The marks of banger's part of a file, as the agent writes them.
const (
	blockBegin = "# banger begin: written at each start\n"
	blockEnd   = "# banger end\n"
)

// scrub takes out of a filesystem what identifies the machine that it was made
// by, and its user's credentials.
func scrub(ctx context.Context, tools ext4.Tools, rootfs string, secrets []string) error {
	var edits []ext4.Edit
	for _, e := range identity {
		if e.Replace && !exists(ctx, tools, rootfs, e.Dir, e.Name) {
			continue
		}
		edits = append(edits, e)
	}
	for _, key := range []string{"rsa", "dsa", "ecdsa", "ed25519"} {
		edits = append(edits, ext4.Edit{Dir: "/etc/ssh", Name: "ssh_host_" + key + "_key"}, ext4.Edit{Dir: "/etc/ssh", Name: "ssh_host_" + key + "_key.pub"})
	}
	for _, path := range secrets {
		edits = append(edits, ext4.Edit{Dir: filepath.Dir(path), Name: filepath.Base(path)})
	}
	for _, path := range blocks {
		text, err := tools.Read(ctx, rootfs, path)
		if err != nil {
			return err
		}
		if rest, had := withoutBlock(text); had {
			edits = append(edits, ext4.Edit{Dir: filepath.Dir(path), Name: filepath.Base(path), Replace: true, Content: rest})
		}
	}
	journals, err := journalEdits(ctx, tools, rootfs)
	if err != nil {
		return err
	}
	return tools.Apply(ctx, rootfs, append(edits, journals...))
}

func exists(ctx context.Context, tools ext4.Tools, rootfs, dir, name string) bool {
	names, err := tools.List(ctx, rootfs, dir)
	if err != nil {
		return false
	}
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// withoutBlock takes banger's part out of a file.
func withoutBlock(text string) (rest string, had bool) {
	before, after, found := strings.Cut(text, blockBegin)
	if !found {
		return text, false
	}
	_, after, found = strings.Cut(after, blockEnd)
	if !found {
		return text, false
	}
	return before + after, true
}

// journalEdits removes systemd's journals, which lie in a directory named by
// the machine's id.
func journalEdits(ctx context.Context, tools ext4.Tools, rootfs string) ([]ext4.Edit, error) {
	const journal = "/var/log/journal"
	machines, err := tools.List(ctx, rootfs, journal)
	if err != nil {
		return nil, err
	}
	var edits []ext4.Edit
	for _, machine := range machines {
		dir := journal + "/" + machine
		files, err := tools.List(ctx, rootfs, dir)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			edits = append(edits, ext4.Edit{Dir: dir, Name: file})
		}
		edits = append(edits, ext4.Edit{Dir: journal, Name: machine, Directory: true})
	}
	return edits, nil
}
