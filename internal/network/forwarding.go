package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/api"
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
	if err := remember(c, before{was, docker}); err != nil {
		return fmt.Errorf("cannot remember the sysctl net.ipv4.ip_forward: %w", err)
	}
	return writeForwarding("1")
}

func remember(c Config, b before) error {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return err
	}
	return atomicfile.WriteJSON(c.beforeFile(), b)
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
	user, err := forwardingUser(c, was)
	if err != nil {
		return err
	}
	if user != "" {
		h.log.Info("net.ipv4.ip_forward is left on, for it is needed by another", "user", user)
		return nil
	}
	return writeForwarding(was.Forwarding)
}

// forwardingUser names who has come since to need forwarding too: "" for
// nobody. They found it on, so they did not remember that it was off.
func forwardingUser(c Config, was before) (string, error) {
	docker, err := firewall.HasDocker()
	if err != nil {
		return "", err
	}
	if docker && !was.Docker {
		return "Docker", nil
	}
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return "", fmt.Errorf("cannot list network links: %w", err)
	}
	for _, l := range links {
		if l.Type() == "bridge" && l.Attrs().Alias == alias && l.Attrs().Name != c.Bridge {
			return "banger's bridge " + l.Attrs().Name, nil
		}
	}
	return "", nil
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
		return &api.Error{
			Kind:    api.KindHost,
			Message: fmt.Sprintf("cannot set the sysctl net.ipv4.ip_forward to %s: %v", value, err),
			Hint:    "run bangerd as root; in a container, where /proc/sys is read-only, have the container started with --sysctl net.ipv4.ip_forward=1",
		}
	}
	return nil
}
