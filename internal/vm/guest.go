package vm

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/image"
)

// GuestSettings are what every guest gets from its host.
type GuestSettings struct {
	// AuthorizedKeys lets in by ssh, lines of an authorized_keys file.
	AuthorizedKeys []string
	Env            map[string]string // the host's proxy settings
	CACerts        []string          // extra CA certificates, PEM
}

// configTimeout bounds the agent's answer to the configure call.
const configTimeout = 60 * time.Second

// configure gives the guest its identity and its surroundings; the same call
// again changes nothing.
func (v *machine) configure(ctx context.Context, agent *host.Agent) error {
	c, err := v.guestConfig()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	return agent.Configure(ctx, c)
}

func (v *machine) guestConfig() (proto.Config, error) {
	r := v.record()
	key, err := os.ReadFile(hostKeyPath(v.dir))
	if err != nil {
		return proto.Config{}, fmt.Errorf("cannot read the VM's host key: %w", err)
	}
	entropy := make([]byte, 64)
	rand.Read(entropy)
	return proto.Config{
		Hostname:       r.Name,
		Addresses:      []netip.Prefix{r.Lease.Addr},
		Routes:         []proto.Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: r.Lease.Gateway}},
		DNS:            []netip.Addr{r.Lease.DNS},
		AuthorizedKeys: v.m.Guest.AuthorizedKeys,
		HostKey:        string(key),
		Time:           time.Now(),
		Entropy:        entropy,
		Env:            v.m.Guest.Env,
		CACerts:        v.m.Guest.CACerts,
		MachineID:      strings.Repeat(r.ID, 4),
		Container:      containerOf(r.Container),
		InstallOpenSSH: !r.Spec.NoOpenSSH,
	}, nil
}

// containerOf tells the agent what the image says about running it.
func containerOf(c image.Config) *proto.Container {
	return &proto.Container{Env: c.Env, Cwd: c.WorkingDir, User: c.User, Argv: slices.Concat(c.Entrypoint, c.Cmd)}
}

func hostKeyPath(dir string) string { return filepath.Join(dir, "ssh_host_ed25519_key") }

// makeHostKey gives the VM a host key of its own, which its host thereby
// knows before the first connection.
func makeHostKey(dir string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("cannot make a host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return fmt.Errorf("cannot encode a host key: %w", err)
	}
	return atomicfile.Write(hostKeyPath(dir), pem.EncodeToMemory(block), 0o600)
}

// HostKeys gives a VM's public host keys, as lines of a known_hosts file
// without the host.
func (m *Manager) HostKeys(nameOrID string) ([]string, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(hostKeyPath(v.dir))
	if err != nil {
		return nil, fmt.Errorf("cannot read the VM's host key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot read the VM's host key: %w", err)
	}
	return []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}, nil
}
