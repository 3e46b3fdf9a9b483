// Package sshkey holds the key that opens the guests: the user's own, or one
// that banger makes once.
package sshkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/atomicfile"
)

// Key is a private key's file and the line that lets it in.
type Key struct {
	Path       string // the private key
	Authorized string // "ssh-ed25519 AAAA…", a line of authorized_keys without its end
}

// Ensure gives the key at path and makes it, in OpenSSH's format, where there
// is none. Of several that try at once one makes it and all get the same.
func Ensure(path string) (Key, error) {
	key, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return Key{}, fmt.Errorf("cannot make an ssh key at %s: %w", path, err)
	}
	return Load(path)
}

// Load reads the key at path. A private key with a passphrase will do: what is
// needed of it here is its public half.
func Load(path string) (Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("cannot read the ssh key: %w", err)
	}
	public, err := publicHalf(path, data)
	if err != nil {
		return Key{}, fmt.Errorf("cannot use %s as an ssh key: %w", path, err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))
	return Key{Path: path, Authorized: line}, nil
}

func publicHalf(path string, private []byte) (ssh.PublicKey, error) {
	signer, err := ssh.ParsePrivateKey(private)
	if err == nil {
		return signer.PublicKey(), nil
	}
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		return nil, err
	}
	if locked.PublicKey != nil {
		return locked.PublicKey, nil
	}
	data, err := os.ReadFile(path + ".pub")
	if err != nil {
		return nil, fmt.Errorf("it has a passphrase and its public half is missing: %w", err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(data)
	return public, err
}

// create links the finished private key to its name, so that nobody ever
// reads half a key and the first of several makers wins.
func create(path string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "banger")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := linkNew(path, pem.EncodeToMemory(block)); err != nil {
		return err
	}
	authorized, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(authorized))) + " banger\n"
	return atomicfile.Write(path+".pub", []byte(line), 0o644)
}

// linkNew writes a file that must not be there yet; fs.ErrExist if it is.
func linkNew(path string, data []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".key-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, writeErr := temporary.Write(data)
	if err := errors.Join(writeErr, temporary.Chmod(0o600), temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if err := os.Link(temporary.Name(), path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}
