package cli

import (
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/buildcontext"
)

func TestDockersCommandLine(t *testing.T) {
	t.Setenv("FROM_HERE", "a value")
	o := imageBuildOptions{args: []string{"A=1", "B=x=y", "FROM_HERE", "NOWHERE", "EMPTY="}, target: "app", noCache: true}
	want := "docker|build|--tag|banger-build|--file|/root/Dockerfile|--build-arg|A=1|--build-arg|B=x=y|--build-arg|FROM_HERE=a value|" +
		"--build-arg|NOWHERE|--build-arg|EMPTY=|--target|app|--no-cache|/root/context"
	if got := strings.Join(imageBuild{imageBuildOptions: o, from: &buildcontext.Context{Dir: "."}}.docker(), "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for file, want := range map[string]string{
		"":             "docker|build|--tag|banger-build|-",
		"docker/other": "docker|build|--tag|banger-build|--file|docker/other|-",
	} {
		from := &buildcontext.Context{Stream: strings.NewReader("FROM x"), File: file}
		if got := strings.Join(imageBuild{from: from}.docker(), "|"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestARegistryThatRefuses(t *testing.T) {
	for said, want := range map[string]bool{
		"#3 ERROR: pulling from host registry.example.com failed with status code [manifests 1]: 401 Unauthorized\n":                    true,
		"pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials\n": true,
		"failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized\n":                                       true,
		"executor failed running [/bin/sh -c exit 3]: exit code: 3\n":                                                                   false,
	} {
		var out strings.Builder
		w := &words{Writer: &out}
		if _, err := w.Write([]byte(said)); err != nil || w.unauthorized != want || out.String() != said {
			t.Errorf("%q: %v, %q, %v", said, w.unauthorized, out.String(), err)
		}
	}
}
