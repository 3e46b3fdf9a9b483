package registryauth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
)

// configure gives this process a Docker configuration, and helpers in PATH.
func configure(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyWhatIsAskedFor(t *testing.T) {
	configure(t, map[string]string{
		"config.json": `{"auths": {
			"registry.example.com": {"auth": "dTpzZWNyZXQ="},
			"https://index.docker.io/v1/": {"auth": "aHViOmh1Yg=="},
			"other.example.com:5000": {"auth": "b3RoZXI6b3RoZXI="}},
			"credHelpers": {"helped.example.com": "test", "token.example.com": "test", "broken.example.com": "none"}}`,
		"docker-credential-test": `#!/bin/sh
read host
case $host in
helped*) echo '{"Username": "h", "Secret": "p"}' ;;
token*) echo '{"Username": "<token>", "Secret": "t"}' ;;
esac
`,
	})
	for hosts, want := range map[string]string{
		"registry.example.com":                    `{"auths":{"registry.example.com":{"auth":"dTpzZWNyZXQ="}}}`,
		"docker.io":                               `{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOmh1Yg=="}}}`,
		"other.example.com:5000":                  `{"auths":{"other.example.com:5000":{"auth":"b3RoZXI6b3RoZXI="}}}`,
		"helped.example.com":                      `{"auths":{"helped.example.com":{"auth":"aDpw"}}}`,
		"token.example.com":                       `{"auths":{"token.example.com":{"identitytoken":"t"}}}`,
		"registry.example.com helped.example.com": `{"auths":{"helped.example.com":{"auth":"aDpw"},"registry.example.com":{"auth":"dTpzZWNyZXQ="}}}`,
	} {
		if got, err := Config(t.Context(), strings.Fields(hosts)); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", hosts, got, err)
		}
	}
	for host, want := range map[string]api.Kind{
		"nobody.example.com":       api.KindUnauthorized,
		"broken.example.com":       api.KindUnauthorized,
		"registry.example.com/app": api.KindBadRequest,
		"https://example.com":      api.KindBadRequest,
		"":                         api.KindBadRequest,
	} {
		_, err := Config(t.Context(), []string{host})
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != want || told.Hint == "" {
			t.Errorf("%q: %v", host, err)
		}
	}
}
