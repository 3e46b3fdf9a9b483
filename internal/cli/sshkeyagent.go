package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/filelock"
)

// oneKey is an ssh-agent that has one key of its user's, and can't be given
// others or lose it.
type oneKey struct {
	signer ssh.Signer
	name   string
}

// openKey finds the private key of a file: in the user's ssh-agent if that has
// it, else in the file itself.
func openKey(path string) (*oneKey, error) {
	private, err := os.ReadFile(path)
	if err != nil {
		return nil, bad("name the file of a private key", "cannot read the key: %v", err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return keyOfAgent(path, locked.PublicKey)
	}
	if err != nil {
		return nil, bad("name the file of a private key", "%s is no private key: %v", path, err)
	}
	return &oneKey{signer, filepath.Base(path)}, nil
}

// keyOfAgent finds a key that has a passphrase.
func keyOfAgent(path string, public ssh.PublicKey) (*oneKey, error) {
	missing := bad("`ssh-add "+path+"` puts it there", "the key %s has a passphrase, and your ssh-agent does not have it", path)
	if text, err := os.ReadFile(path + ".pub"); public == nil && err == nil {
		public, _, _, _, _ = ssh.ParseAuthorizedKey(text)
	}
	conn, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	if err != nil || public == nil {
		return nil, missing
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, missing
	}
	for _, s := range signers {
		if bytes.Equal(s.PublicKey().Marshal(), public.Marshal()) {
			return &oneKey{s, filepath.Base(path)}, nil
		}
	}
	return nil, missing
}

// List implements agent.Agent.
func (k *oneKey) List() ([]*agent.Key, error) {
	public := k.signer.PublicKey()
	return []*agent.Key{{Format: public.Type(), Blob: public.Marshal(), Comment: k.name}}, nil
}

// Sign implements agent.Agent.
func (k *oneKey) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return k.SignWithFlags(key, data, 0)
}

// SignWithFlags implements agent.ExtendedAgent.
func (k *oneKey) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	if !bytes.Equal(key.Marshal(), k.signer.PublicKey().Marshal()) {
		return nil, errors.New("this agent has another key")
	}
	algorithm := ""
	switch {
	case flags&agent.SignatureFlagRsaSha256 != 0:
		algorithm = ssh.KeyAlgoRSASHA256
	case flags&agent.SignatureFlagRsaSha512 != 0:
		algorithm = ssh.KeyAlgoRSASHA512
	}
	if able, ok := k.signer.(ssh.AlgorithmSigner); ok && algorithm != "" {
		return able.SignWithAlgorithm(nil, data, algorithm)
	}
	return k.signer.Sign(nil, data)
}

// Signers implements agent.Agent.
func (k *oneKey) Signers() ([]ssh.Signer, error) { return []ssh.Signer{k.signer}, nil }

var errOneKey = errors.New("this agent has one key and takes no other")

// Add implements agent.Agent.
func (k *oneKey) Add(agent.AddedKey) error { return errOneKey }

// Remove implements agent.Agent.
func (k *oneKey) Remove(ssh.PublicKey) error { return errOneKey }

// RemoveAll implements agent.Agent.
func (k *oneKey) RemoveAll() error { return errOneKey }

// Lock implements agent.Agent.
func (k *oneKey) Lock([]byte) error { return errOneKey }

// Unlock implements agent.Agent.
func (k *oneKey) Unlock([]byte) error { return errOneKey }

// Extension implements agent.ExtendedAgent.
func (k *oneKey) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }

// serve answers at a unix socket until ctx ends. Of several processes that do
// so at the same path one answers, and the next when that one has ended.
func (k *oneKey) serve(ctx context.Context, socket string) error {
	lock, err := os.OpenFile(socket+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock the agent's socket: %w", err)
	}
	go func() {
		defer lock.Close()
		if filelock.Wait(ctx, lock) != nil || ctx.Err() != nil {
			return
		}
		_ = os.Remove(socket) // a dead process's, since the lock was free
		if l, err := net.Listen("unix", socket); err == nil {
			k.answer(ctx, l)
		}
	}()
	return nil
}

// answer answers at l until ctx ends.
func (k *oneKey) answer(ctx context.Context, l net.Listener) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = agent.ServeAgent(k, conn) // it ends with its client
		}()
	}
}

// forwardKey serves one key to an ssh that is about to run, and gives the
// options that hand it on.
func forwardKey(ctx context.Context, path string) (options []string, done func(), err error) {
	key, err := openKey(path)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "banger-agent")
	if err != nil {
		return nil, nil, &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("cannot make a directory for the key's agent: %v", err)}
	}
	socket := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("cannot listen for the guest's use of the key: %v", err)}
	}
	ctx, cancel := context.WithCancel(ctx)
	go key.answer(ctx, l)
	return []string{"-o", "IdentityAgent=" + socket, "-o", "ForwardAgent=yes"}, func() { cancel(); os.RemoveAll(dir) }, nil
}
