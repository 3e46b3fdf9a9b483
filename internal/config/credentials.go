package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// maxCredentials is more than anybody has, and little enough for each start.
const maxCredentials = 64

// pairFields are the keys of a [[credential_sync]] table.
var pairFields = []string{"host", "guest"}

// pairsText gives what the file has for kindPairs as text: true, false, or
// host:guest pairs with commas between them.
func pairsText(v any) (string, error) {
	switch v := v.(type) {
	case bool:
		return fmt.Sprint(v), nil
	case []any:
		return joinPairs(v)
	}
	return "", errors.New("must be true or false, or tables [[credential_sync]] with host and guest")
}

func joinPairs(tables []any) (string, error) {
	pairs := make([]string, len(tables))
	for i, t := range tables {
		table, _ := t.(map[string]any)
		host, hasHost := table["host"].(string)
		guest, hasGuest := table["guest"].(string)
		if !hasHost || !hasGuest {
			return "", errors.New("must have the texts host and guest in each table")
		}
		if strings.ContainsAny(host+guest, ",:\n") {
			return "", errors.New("must be paths without commas, colons and line ends")
		}
		pairs[i] = host + ":" + guest
	}
	return strings.Join(pairs, ","), nil
}

// setCredentials takes true, false or pairs; pairs come on top of the standard
// ones.
func setCredentials(c *Config, s string) error {
	c.CredentialSync, c.Credentials = s != "false", nil
	if s == "true" || s == "false" || s == "" {
		return nil
	}
	pairs := strings.Split(s, ",")
	if len(pairs) > maxCredentials {
		return fmt.Errorf("must be at most %d files", maxCredentials)
	}
	for _, pair := range pairs {
		host, guest, ok := strings.Cut(pair, ":")
		if !ok {
			return errors.New("must be true, false, or pairs host-path:guest-path")
		}
		credential := Credential{Host: underHome(host, c.Home), Guest: underHome(guest, "/root")}
		if !filepath.IsAbs(credential.Host) || !filepath.IsAbs(credential.Guest) {
			return fmt.Errorf("must have paths that begin with / or ~/, not %q", pair)
		}
		c.Credentials = append(c.Credentials, credential)
	}
	return nil
}

// underHome resolves a path that begins with ~/.
func underHome(path, home string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		path = filepath.Join(home, rest)
	}
	return filepath.Clean(path)
}

func showCredentials(c *Config) string {
	if !c.CredentialSync {
		return "false"
	}
	pairs := make([]string, len(c.Credentials))
	for i, credential := range c.Credentials {
		pairs[i] = credential.Host + ":" + credential.Guest
	}
	return cmpOr(strings.Join(pairs, ","), "true")
}
