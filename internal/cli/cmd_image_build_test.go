package cli

import (
	"strings"
	"testing"
)

func TestDockersCommandLine(t *testing.T) {
	t.Setenv("FROM_HERE", "a value")
	o := imageBuildOptions{args: []string{"A=1", "B=x=y", "FROM_HERE", "NOWHERE", "EMPTY="}, target: "app", noCache: true}
	want := "docker|build|--file|/root/Dockerfile|--tag|banger-build|--build-arg|A=1|--build-arg|B=x=y|--build-arg|FROM_HERE=a value|" +
		"--build-arg|NOWHERE|--build-arg|EMPTY=|--target|app|--no-cache|/root/context"
	if got := strings.Join(o.docker(), "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
