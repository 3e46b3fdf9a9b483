package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// Configure gives the guest what c says. It tries every part and joins their
// errors; done again with the same c it changes nothing.
func (a *Agent) Configure(c proto.Config) error {
	if err := checkConfig(c); err != nil {
		return err
	}
	a.configuring.Lock()
	defer a.configuring.Unlock()
	a.remember(c)
	err := errors.Join(
		a.setClock(c),
		a.addEntropy(c),
		a.setHostname(c.Hostname),
		a.kernel.SetInterface("eth0", c.Addresses, c.Routes),
		a.setResolver(c),
		a.setKeys(c),
		a.setLogins(c),
		a.setHostKey(c),
		a.setEnvironment(c),
		a.setTrust(c),
		a.setMachineID(c),
	)
	if err != nil {
		return err
	}
	if c.InstallOpenSSH {
		a.sshd.begin()
	}
	for _, stage := range readyAfterConfigure(a.init) {
		a.events.add(proto.Event{Kind: proto.EventReady, Stage: stage})
	}
	return nil
}

// The forms below are no regular expressions: compiling those at each start of
// the agent would cost a guest more than everything else it has to initialise.
const (
	digits  = "0123456789"
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// isHostLabel tells whether s can be a host's name: letters, digits and
// hyphens, at most 63, with no hyphen at an end.
func isHostLabel(s string) bool {
	return s != "" && len(s) <= 63 && onlyOf(s, letters+digits+"-") && s[0] != '-' && s[len(s)-1] != '-'
}

// isEnvName tells whether s can name an environment variable in a shell.
func isEnvName(s string) bool {
	return s != "" && onlyOf(s, letters+digits+"_") && !strings.ContainsRune(digits, rune(s[0]))
}

// isMachineID tells whether s is 128 bits in lower-case hexadecimal digits.
func isMachineID(s string) bool { return len(s) == 32 && onlyOf(s, digits+"abcdef") }

// onlyOf tells whether s has no other characters than those of set.
func onlyOf(s, set string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(set, r) })
}

// checkConfig refuses what would break a file it is written into.
func checkConfig(c proto.Config) error {
	switch {
	case c.Hostname != "" && !isHostLabel(c.Hostname):
		return badRequest("%q is no host name", c.Hostname)
	case c.MachineID != "" && !isMachineID(c.MachineID):
		return badRequest("%q is no machine id", c.MachineID)
	case len(c.Entropy) > 512:
		return badRequest("%d bytes of entropy are more than the kernel's generator holds", len(c.Entropy))
	}
	for _, key := range c.AuthorizedKeys {
		if _, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil || len(rest) > 0 {
			return badRequest("%q is no SSH key", key)
		}
	}
	return errors.Join(checkEnv(c.Env), checkContainer(c.Container))
}

func checkEnv(env map[string]string) error {
	for name, value := range env {
		if !isEnvName(name) {
			return badRequest("%q is no name of an environment variable", name)
		}
		if strings.ContainsAny(value, "\x00\n\r") {
			return badRequest("the value of the environment variable %s has a line end in it", name)
		}
	}
	return nil
}

// remember keeps what later calls need. A field that is empty keeps its older
// value, as its part of the guest does.
func (a *Agent) remember(c proto.Config) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Env != nil {
		a.identity.env = maps.Clone(c.Env)
	}
	if c.AuthorizedKeys != nil {
		a.identity.keys = slices.Clone(c.AuthorizedKeys)
	}
	if c.HostKey != "" {
		a.identity.hostKey = c.HostKey
	}
	if c.Hostname != "" {
		a.identity.host = c.Hostname
	}
	if c.Container != nil {
		a.identity.container = *c.Container
	}
}

func (a *Agent) setClock(c proto.Config) error {
	if c.Time.IsZero() {
		return nil
	}
	return a.kernel.SetClock(c.Time)
}

func (a *Agent) addEntropy(c proto.Config) error {
	if len(c.Entropy) == 0 {
		return nil
	}
	return a.kernel.AddEntropy(c.Entropy)
}

// setHostname sets the name in the kernel, and in the files from which the
// image's own init sets it again a moment later.
func (a *Agent) setHostname(name string) error {
	if name == "" {
		return nil
	}
	return errors.Join(
		putFile(a.path("/etc/hostname"), []byte(name+"\n"), 0o644),
		a.kernel.SetHostname(name),
		a.setHosts(name),
	)
}

// keepHostname sets the name once more: an init that read its file just before
// it was written may have set an older one since.
func (a *Agent) keepHostname() {
	if name := a.present().host; name != "" {
		_ = a.kernel.SetHostname(name) // the call that configured it told of any error
	}
}

// setHosts lets the guest resolve its own name, and localhost in an image that
// has no hosts file at all.
func (a *Agent) setHosts(name string) error {
	path := a.path("/etc/hosts")
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	lines := []string{"127.0.1.1 " + name}
	if before, after := splitBlock(string(text)); !strings.Contains(before+after, "localhost") {
		lines = append([]string{"127.0.0.1 localhost", "::1 localhost"}, lines...)
	}
	return putBlock(path, lines, 0o644)
}

// setResolver writes a plain /etc/resolv.conf, over a link to a local resolver
// too: that one knows nothing of eth0, and may not run yet. systemd-resolved
// takes a plain file for its own configuration.
func (a *Agent) setResolver(c proto.Config) error {
	if len(c.DNS) == 0 {
		return nil
	}
	var text strings.Builder
	text.WriteString("# written by banger at each start\n")
	for _, server := range c.DNS {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	return putFile(a.path("/etc/resolv.conf"), []byte(text.String()), 0o644)
}

func (a *Agent) setKeys(c proto.Config) error {
	if c.AuthorizedKeys == nil {
		return nil
	}
	dir := filepath.Join(a.path(a.rootUser().home), ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, err)
	}
	lines := make([]string, len(c.AuthorizedKeys))
	for i, key := range c.AuthorizedKeys {
		lines[i] = strings.TrimSpace(key)
	}
	return putBlock(filepath.Join(dir, "authorized_keys"), lines, 0o600)
}

// setHostKey gives an sshd of the image the key that the host knows. An image
// without /etc/ssh has none; the agent serves with the same key.
func (a *Agent) setHostKey(c proto.Config) error {
	if c.HostKey == "" {
		return nil
	}
	signer, err := ssh.ParsePrivateKey([]byte(c.HostKey))
	if err != nil {
		return badRequest("the host key is no private key: %v", err)
	}
	if _, err := os.Stat(a.path("/etc/ssh")); err != nil {
		return nil
	}
	const name = "/etc/ssh/ssh_host_ed25519_key"
	return errors.Join(
		putFile(a.path(name), []byte(c.HostKey), 0o600),
		putFile(a.path(name+".pub"), ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o644),
	)
}

// setMachineID gives the guest an id of its own, unless systemd does: that finds
// one as it starts, or makes one, which is not surely after this. By another id
// nobody would find its journal any more.
func (a *Agent) setMachineID(c proto.Config) error {
	if c.MachineID == "" || a.init == proto.InitSystemd {
		return nil
	}
	return putFile(a.path("/etc/machine-id"), []byte(c.MachineID+"\n"), 0o444)
}
