package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// sshPolicy is what every sshd of a guest is told: a key is the only way in.
// StrictModes is off since what is copied into /root may bring any mode for it.
var sshPolicy = []string{
	"PermitRootLogin yes",
	"PasswordAuthentication no",
	"KbdInteractiveAuthentication no",
	"StrictModes no",
}

// sshdPolicyFile is where images that banger built, and servers that it
// installed, have the policy.
const sshdPolicyFile = "/etc/ssh/sshd_config.d/00-banger.conf"

// setLogins makes the key the only way into the guest, whatever its image
// says: an sshd of the image's own gets the policy, and root a password that
// none is equal to.
func (a *Agent) setLogins(c proto.Config) error {
	if c.AuthorizedKeys == nil {
		return nil
	}
	return errors.Join(a.setSSHPolicy(), a.lockPassword("/etc/shadow"), a.lockPassword("/etc/passwd"))
}

// setSSHPolicy puts the policy in front of sshd's configuration: of two
// settings the first counts.
func (a *Agent) setSSHPolicy() error {
	const name = "/etc/ssh/sshd_config"
	path := a.path(name)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	if a.includesPolicy(string(text)) {
		return nil
	}
	before, after := splitBlock(string(text))
	return changeFile(path, string(text), withBlock("", sshPolicy)+before+after)
}

// includesPolicy says whether the image's configuration begins with banger's
// file, as that of the images that banger built does: a line of sshd's that is
// changed would be asked about when the package is upgraded.
func (a *Agent) includesPolicy(text string) bool {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if !strings.EqualFold(fields[0], "Include") || len(fields) != 2 || fields[1] != "/etc/ssh/sshd_config.d/*.conf" {
			return false
		}
		have, err := os.ReadFile(a.path(sshdPolicyFile))
		if err != nil {
			return false
		}
		for _, setting := range sshPolicy {
			if !strings.Contains("\n"+string(have), "\n"+setting+"\n") {
				return false
			}
		}
		return true
	}
	return false
}

// lockPassword makes root's password in a file of accounts one that no password
// is equal to. It is "*" and not "!", with which an sshd without PAM refuses
// keys too. An "x" in /etc/passwd stands for what is in /etc/shadow.
func (a *Agent) lockPassword(name string) error {
	path := a.path(name)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for i, line := range lines {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) == 3 && fields[0] == "root" && (fields[1] != "x" || name == "/etc/shadow") {
			lines[i] = fields[0] + ":*:" + fields[2]
		}
	}
	return changeFile(path, string(text), strings.Join(lines, ""))
}
