package fcserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/banger-vm/banger/internal/firecracker"
)

// dataStore is what PUT and PATCH /mmds hold. limit is in bytes of compact
// JSON.
type dataStore struct {
	limit int
	value any
	set   bool
}

func (s *dataStore) put(value any) error {
	if jsonSize(value) > s.limit {
		return errMMDSLimit
	}
	s.value, s.set = value, true
	return nil
}

func (s *dataStore) patch(patch any) error {
	if !s.set {
		return errors.New("MMDS error: The MMDS data store is not initialized.") //nolint:staticcheck // upstream's text
	}
	return s.put(mergePatch(s.value, patch))
}

func (s *dataStore) get() any {
	if s.value == nil {
		return struct{}{}
	}
	return s.value
}

// mergePatch is RFC 7396. It leaves target as it was.
func mergePatch(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged := map[string]any{}
	if old, ok := target.(map[string]any); ok {
		for name, value := range old {
			merged[name] = value
		}
	}
	for name, change := range changes {
		if change == nil {
			delete(merged, name)
			continue
		}
		merged[name] = mergePatch(merged[name], change)
	}
	return merged
}

func jsonSize(value any) int {
	text, err := json.Marshal(value)
	if err != nil {
		// It came from JSON.
		panic(fmt.Sprintf("fcserver: %v", err))
	}
	return len(text)
}

// defaultMMDS is the metadata service's address.
const defaultMMDS = "169.254.169.254"

// checkMMDS holds the rules of PUT /mmds/config and fills in the defaults.
func checkMMDS(c firecracker.MMDSConfig, networks []firecracker.NetworkInterface) (firecracker.MMDSConfig, error) {
	if c.Version == "" {
		c.Version = "V1"
	}
	if c.IPv4Address == "" {
		c.IPv4Address = defaultMMDS
	}
	if !linkLocal(c.IPv4Address) {
		return c, errors.New("The MMDS IPv4 address is not link local.") //nolint:staticcheck // upstream's text
	}
	if len(c.NetworkInterfaces) == 0 {
		return c, errors.New("The list of network interface IDs that allow forwarding MMDS requests is empty.") //nolint:staticcheck // upstream's text
	}
	for _, id := range c.NetworkInterfaces {
		if !slices.ContainsFunc(networks, func(n firecracker.NetworkInterface) bool { return n.IfaceID == id }) {
			return c, errors.New("The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.") //nolint:staticcheck // upstream's text
		}
	}
	return c, nil
}

// linkLocal says whether RFC 3927 lets a host have the address.
func linkLocal(text string) bool {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.IsLinkLocalUnicast() || !addr.Is4() {
		return false
	}
	third := addr.As4()[2]
	return third != 0 && third != 255
}
