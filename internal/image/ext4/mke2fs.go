package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"github.com/banger-vm/banger/api"
)

// Mke2fs is a Builder that runs the program mke2fs of e2fsprogs 1.43 or later.
// Its zero value finds the program itself.
type Mke2fs struct {
	Program string // path; empty: found in PATH and the system's directories
}

var _ Builder = Mke2fs{}

// profile replaces the host's mke2fs.conf, so that the same filesystem comes
// out everywhere. Every kernel since 4.x mounts these features and grows them
// online; metadata_csum_seed and orphan_file are left out for the older ones.
const profile = `[defaults]
	base_features = none
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum
		default_mntopts = acl,user_xattr
	}
`

// Build implements [Builder].
//
// lazy_itable_init=0 marks the inode tables as zeroed, else the first mount of
// each VM would write zeros into its copy-on-write file; in a new sparse file
// this costs nothing, and neither does the journal, which is holes.
func (m Mke2fs) Build(ctx context.Context, tree, path string, o Options) error {
	program, err := m.find()
	if err != nil {
		return err
	}
	conf, err := writeProfile()
	if err != nil {
		return fmt.Errorf("cannot write mke2fs.conf: %w", err)
	}
	defer os.Remove(conf)
	cmd := exec.CommandContext(ctx, program,
		"-q", "-F", "-t", "ext4", "-L", o.Label,
		"-b", strconv.Itoa(blockSize), "-I", strconv.Itoa(inodeSize), "-i", strconv.Itoa(bytesPerInode),
		"-m", "0", "-J", "size="+strconv.Itoa(journalMiB),
		"-E", fmt.Sprintf("resize=%d,lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0", reservedDisk/blockSize),
		"-d", tree, path, strconv.FormatInt(o.Size>>10, 10)+"k")
	cmd.Env = append(os.Environ(), "MKE2FS_CONFIG="+conf, "LC_ALL=C")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("cannot make a filesystem: %w: %s", err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

func writeProfile() (string, error) {
	file, err := os.CreateTemp("", "banger-mke2fs-*.conf")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(profile)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

func (m Mke2fs) find() (string, error) {
	if m.Program != "" {
		return m.Program, nil
	}
	for _, name := range []string{"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", &api.Error{
		Kind:    api.KindHost,
		Message: "the program mke2fs is not on this host",
		Hint:    "install the package e2fsprogs",
	}
}
