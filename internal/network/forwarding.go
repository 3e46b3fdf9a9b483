package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/network/firewall"
)

// forwardingFile is the kernel's switch for passing packets between links.
const forwardingFile = "/proc/sys/net/ipv4/ip_forward"

// before is what forwarding was before banger switched it on. It is on disk
// before the switch is touched, so that whichever process ends the network can
// put it back.
type before struct {
	Forwarding string `json:"net.ipv4.ip_forward"`
	Docker     bool   `json:"docker"` // Docker was there already
}

func (c Config) beforeFile() string {
	return filepath.Join(c.State, "network-"+c.Bridge+".json")
}

func (h *linux) allowForwarding(c Config) error {
	was, err := readForwarding()
	if err != nil || was == "1" {
		return err
	}
	docker, err := firewall.HasDocker()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("cannot remember the sysctl net.ipv4.ip_forward: %w", err)
	}
	if err := atomicfile.WriteJSON(c.beforeFile(), before{was, docker}); err != nil {
		return fmt.Errorf("cannot remember the sysctl net.ipv4.ip_forward: %w", err)
	}
	return writeForwarding("1")
}

// restoreForwarding puts it back and forgets it; where banger did not switch it
// on there is nothing to do.
func (h *linux) restoreForwarding(c Config) error {
	text, err := os.ReadFile(c.beforeFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read what net.ipv4.ip_forward was: %w", err)
	}
	if err := h.switchBack(text, c); err != nil {
		return err
	}
	if err := os.Remove(c.beforeFile()); err != nil {
		return fmt.Errorf("cannot forget what net.ipv4.ip_forward was: %w", err)
	}
	return nil
}

func (h *linux) switchBack(remembered []byte, c Config) error {
	var was before
	if err := json.Unmarshal(remembered, &was); err != nil {
		h.log.Warn("cannot tell what net.ipv4.ip_forward was: it is left on", "file", c.beforeFile(), "error", err)
		return nil
	}
	docker, err := firewall.HasDocker()
	if err != nil {
		return err
	}
	if docker && !was.Docker {
		h.log.Info("net.ipv4.ip_forward is left on: Docker has come since and needs it")
		return nil
	}
	return writeForwarding(was.Forwarding)
}

func readForwarding() (string, error) {
	text, err := os.ReadFile(forwardingFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the sysctl net.ipv4.ip_forward: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func writeForwarding(value string) error {
	if value != "0" && value != "1" {
		return fmt.Errorf("cannot set the sysctl net.ipv4.ip_forward to %q", value)
	}
	if err := os.WriteFile(forwardingFile, []byte(value+"\n"), 0); err != nil {
		return fmt.Errorf("cannot set the sysctl net.ipv4.ip_forward: %w", mayNot(err))
	}
	return nil
}
