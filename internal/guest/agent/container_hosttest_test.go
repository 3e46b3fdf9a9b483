//go:build hosttest

package agent_test

import (
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// TestContainerUser runs commands as other users than root.
func TestContainerUser(t *testing.T) {
	g := start(t, proto.InitNone)
	write(t, filepath.Join(g.root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\nwww:x:1234:1235::/srv:/bin/sh\n77:x:4000:4000::/:/bin/sh\n")
	write(t, filepath.Join(g.root, "etc/group"), "web:x:1235:\nmore:x:1300:other,www\n")
	for user, want := range map[string]string{
		"www":       "1234 1235 1235 1300 /srv www",
		"1234":      "1234 1235 1235 1300 /srv www",
		"www:more":  "1234 1300 1300 /srv www",
		"www:9":     "1234 9 9 /srv www",
		"77":        "4000 4000 4000 / 77",
		"5000":      "5000 0 0 / 5000",
		"5000:more": "5000 1300 1300 / 5000",
		"0":         "0 0 0 /root root",
	} {
		if err := g.Configure(t.Context(), proto.Config{Container: &proto.Container{User: user}}); err != nil {
			t.Fatal(err)
		}
		script := `echo x >/dev/stderr; echo $(id -u) $(id -g) $(id -G) $HOME $USER`
		got := g.run(t, proto.Exec{Container: true, Cwd: "/", Argv: []string{"sh", "-c", script}}, "")
		if got.stdout != want+"\n" || got.stderr != "x\n" {
			t.Errorf("%s: %+v", user, got)
		}
	}
}
